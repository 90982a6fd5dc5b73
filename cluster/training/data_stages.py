"""The first stages of `paceline train`: questions from prompt files, the target's answers, the features over them.

Each goes on where a broken run left it: answers line by line, features shard by shard.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch

from paceline.actors.causal_model import CausalModel
from paceline.actors.errors import ConfigError
from paceline.actors.model_facts import eos_ids
from paceline.cluster.tokenizer import ChatTokenizer
from paceline.cluster.training.answer_store import Answer, AnswerStore
from paceline.cluster.training.feature_store import SHARD_ANSWERS, shard_holds, write_shard
from paceline.cluster.training.generate_stage import Question, generate
from paceline.cluster.training.prompt_file import Prompt, read_prompts
from paceline.cluster.training.train_settings import DataSettings

HELD_OUT = 10  # one prompt in so many, where none are given to measure on
_SHORTEST = 8  # tokens of an answer that is worth training on
Advance = Callable[[int, int], None]  # hears of answers dealt with, and of the tokens that this run did for them


@dataclass(frozen=True, slots=True)
class Asked:
    """What the target is asked, and what it is not."""

    questions: list[Question]
    too_long: int  # prompts left out for their length
    repeated: int  # prompts left out because they are also among those to measure on


def questions(data: DataSettings, tokenizer: ChatTokenizer) -> tuple[Asked, Asked]:
    """What to ask, to train on and to measure on (greedily, and nothing that is also measured on is trained on).

    Raises:
        ConfigError: a file is unreadable, or none of its prompts is left.
    """
    prompts = prompts_of(data.prompts)
    tests = prompts_of(data.test_prompts) if data.test_prompts else held_out(prompts, data.test_answers, data.seed)
    barred = {_folded(prompt.text) for prompt in tests}
    train = ask_prompts("prompts", prompts, data.answers, data.temperatures, data, tokenizer, barred)
    return train, ask_prompts("test", tests, data.test_answers, (0.0,), data, tokenizer, set())


def prompts_of(files: Sequence[str]) -> list[Prompt]:
    """All prompts of some files.

    Raises:
        ConfigError: see `read_prompts`.
    """
    return [prompt for file in files for prompt in read_prompts(Path(file))]


def held_out(prompts: Sequence[Prompt], most: int, seed: int) -> list[Prompt]:
    """One prompt in ten of each domain, at least one and at most `most`, to measure on where nothing else is given."""
    by_domain: dict[str, dict[str, Prompt]] = defaultdict(dict)
    for prompt in prompts:
        by_domain[prompt.domain].setdefault(_folded(prompt.text), prompt)
    chance = Random(seed)
    return [
        prompt
        for _, own in sorted(by_domain.items())
        for prompt in chance.sample(list(own.values()), min(max(len(own) // HELD_OUT, 1), most))
    ]


def ask_prompts(
    name: str,
    prompts: Sequence[Prompt],
    each: int,
    temperatures: Sequence[float],
    data: DataSettings,
    tokenizer: ChatTokenizer,
    barred: set[str],
) -> Asked:
    """Up to `each` prompts of every domain, shuffled, the domains taking turns."""
    by_domain: dict[str, list[str]] = defaultdict(list)
    for prompt in prompts:
        by_domain[prompt.domain].append(prompt.text)
    chance = Random(data.seed)
    for _, texts in sorted(by_domain.items()):
        chance.shuffle(texts)
    asked: list[Question] = []
    taken: Counter[str] = Counter()
    index = too_long = repeated = 0
    for turn in range(max(map(len, by_domain.values()))):
        for domain, texts in sorted(by_domain.items()):
            if turn >= len(texts) or taken[domain] == each:
                continue
            if _folded(texts[turn]) in barred:
                repeated += 1
            elif len(ids := tokenizer.apply_chat([{"role": "user", "content": texts[turn]}])) > data.max_prompt:
                too_long += 1
            else:
                asked.append(Question(index, domain, ids, temperatures[taken[domain] % len(temperatures)]))
                taken[domain] += 1
            index += 1
    if not asked:
        raise ConfigError(
            f"{name}: no prompt is left: {too_long} are longer than {data.max_prompt} tokens (--max-prompt), "
            f"{repeated} are also among those to measure on"
        )
    return Asked(asked, too_long, repeated)


def questions_hash(*parts: Asked) -> str:
    """Tells whether the same is asked: of every prompt's ids, in order."""
    ids = [[question.prompt_ids for question in part.questions] for part in parts]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]


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
    """Have the target answer what it has not answered yet.

    Raises:
        OSError: the answers cannot be written.
    """
    answered = {answer.index for answer in store.read()}
    advance(len(answered), 0)

    def done(answers: list[Answer]) -> None:
        store.append(answers)
        advance(len(answers), sum(len(answer.answer_ids) for answer in answers))

    open_questions = [question for question in asked if question.index not in answered]
    generate(
        model,
        open_questions,
        end_ids=eos_ids(target),
        max_tokens=max_tokens,
        batch=batch,
        seed=seed + len(answered),
        done=done,
    )


def feature_stage(
    model: CausalModel, answers: Sequence[Answer], folder: Path, prompt_tail: int, width: int, advance: Advance
) -> None:
    """Write the shards that are missing or of other answers.

    Raises:
        ConfigError: the disk has no room for them.
        OSError: they cannot be written; or SafetensorError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("*.part"):
        left.unlink()
    starts = range(0, len(answers), SHARD_ANSWERS)
    shards = {folder / f"{i:05d}.safetensors": answers[at : at + SHARD_ANSWERS] for i, at in enumerate(starts)}
    for left in set(folder.glob("*.safetensors")) - shards.keys():
        left.unlink()
    missing = [(path, shard) for path, shard in shards.items() if not shard_holds(path, shard, prompt_tail)]
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
    advance(len(answers) - sum(len(shard) for _, shard in missing), 0)
    for path, shard in missing:
        write_shard(path, model, shard, prompt_tail)
        advance(len(shard), sum(len(answer.prompt_ids) + len(answer.answer_ids) for answer in shard))


def useful(answers: Sequence[Answer]) -> list[Answer]:
    """Those long enough to learn from, by index: the order in which they ended would depend on the machine."""
    return sorted((a for a in answers if len(a.answer_ids) >= _SHORTEST), key=lambda answer: answer.index)


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


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
