"""The first stages of `paceline train`: questions from prompt files, the target's answers, the features over them.

Each goes on where a broken run left it: answers line by line, features shard by shard.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import torch

from paceline.actors.causal_model import CausalModel
from paceline.actors.errors import ConfigError
from paceline.actors.model_facts import read_json
from paceline.cluster.tokenizer import ChatTokenizer
from paceline.cluster.training.answer_store import Answer, AnswerStore
from paceline.cluster.training.feature_store import SHARD_ANSWERS, write_shard
from paceline.cluster.training.generate_stage import Question, generate
from paceline.cluster.training.prompt_file import Prompt, read_prompts

_SHORTEST = 8  # tokens of an answer that is worth training on
Advance = Callable[[int], None]  # hears of tokens done


def questions(
    files: Sequence[str], each: int, temperatures: Sequence[float], seed: int, max_prompt: int, tokenizer: ChatTokenizer
) -> tuple[list[Question], int]:
    """What to ask: up to `each` prompts of every domain, shuffled, the domains taking turns.

    Returns:
        The questions, and how many prompts were left out for their length.

    Raises:
        ConfigError: a file is unreadable, or no prompt is short enough.
    """
    by_domain: dict[str, list[Prompt]] = defaultdict(list)
    for file in files:
        for prompt in read_prompts(Path(file)):
            by_domain[prompt.domain].append(prompt)
    chance = Random(seed)
    for _, prompts in sorted(by_domain.items()):
        chance.shuffle(prompts)
    asked: list[Question] = []
    index = left_out = 0
    for turn in range(each):
        for domain, prompts in sorted(by_domain.items()):
            if turn >= len(prompts):
                continue
            ids = tokenizer.apply_chat([{"role": "user", "content": prompts[turn].text}])
            if len(ids) > max_prompt:
                left_out += 1
            else:
                asked.append(Question(index, domain, ids, temperatures[turn % len(temperatures)]))
            index += 1
    if not asked:
        raise ConfigError(f"prompts: none of {left_out} is at most {max_prompt} tokens long; raise --max-prompt")
    return asked, left_out


def answer_stage(
    model: CausalModel,
    target: Path,
    asked: Sequence[Question],
    store: AnswerStore,
    *,
    max_tokens: int,
    batch: int,
    seed: int,
    advance: Advance,
) -> None:
    """Have the target answer what it has not answered yet. `advance` hears of answers."""
    answered = {answer.index for answer in store.read()}
    advance(len(answered))

    def done(answers: list[Answer]) -> None:
        store.append(answers)
        advance(len(answers))

    open_questions = [question for question in asked if question.index not in answered]
    generate(
        model,
        open_questions,
        end_ids=end_ids(target),
        max_tokens=max_tokens,
        batch=batch,
        seed=seed + len(answered),
        done=done,
    )


def feature_stage(
    model: CausalModel, answers: Sequence[Answer], folder: Path, prompt_tail: int, width: int, advance: Advance
) -> None:
    """Write the shards that are missing. `advance` hears of answers.

    Raises:
        ConfigError: the disk has no room for them, or they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("*.part"):
        left.unlink()
    shards = [answers[start : start + SHARD_ANSWERS] for start in range(0, len(answers), SHARD_ANSWERS)]
    missing = [(index, shard) for index, shard in enumerate(shards) if not (folder / _name(index)).exists()]
    positions = sum(
        min(len(answer.prompt_ids), prompt_tail) + len(answer.answer_ids) for _, shard in missing for answer in shard
    )
    needed = positions * 2 * width * len(model.feature_layers)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"data: {folder}: features of {positions:,} positions need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} "
            "are free; ask for fewer --answers, or give --data another disk"
        )
    advance(len(answers) - sum(len(shard) for _, shard in missing))
    for index, shard in missing:
        write_shard(folder / _name(index), model, shard, prompt_tail)
        advance(len(shard))


def useful(answers: Sequence[Answer]) -> list[Answer]:
    """Those long enough to learn from, by index: the order in which they ended would depend on the machine."""
    return sorted((a for a in answers if len(a.answer_ids) >= _SHORTEST), key=lambda answer: answer.index)


def end_ids(target: Path) -> frozenset[int]:
    """The tokens that end an answer."""
    for name in ("generation_config.json", "config.json"):
        path = target / name
        if path.exists() and (found := read_json(path).get("eos_token_id")) is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()


def device_of(name: str) -> torch.device:
    """A device by name.

    Raises:
        ConfigError: torch does not know it, or it is not there.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: {name!r}: {str(error).splitlines()[0]}") from None
    return device


def _name(index: int) -> str:
    return f"{index:05d}.safetensors"
