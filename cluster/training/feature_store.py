"""The target's features over its own answers, in shards on disk: what a head is trained on, read as often as wanted.

A shard is one safetensors file, written whole or not at all, so that a broken run goes on after the last one. It tells
which answers it is of: one that more answers have come for since is seen, and made anew. Training reads shards through
memory maps: they need disk, not memory (2 bytes x layers x width a token, plus the id).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from paceline.actors.causal_model import CausalModel, Step
from paceline.actors.errors import ConfigError
from paceline.cluster.training.answer_store import Answer

SHARD_ANSWERS = 128  # answers of one shard
_BATCH_TOKENS = 2048  # tokens of one forward


@dataclass(frozen=True, slots=True)
class Passage:
    """One answer with the end of its prompt before it."""

    domain: str
    tokens: torch.Tensor  # [length] int32
    features: torch.Tensor  # [length, layers * width] bfloat16: row i belongs to token i
    prompt_tokens: int  # of `tokens`, those of the prompt
    temperature: float


@torch.inference_mode()
def write_shard(path: Path, model: CausalModel, answers: Sequence[Answer], prompt_tail: int) -> int:
    """Run the target over whole prompts and answers, keep the features from `prompt_tail` before the answer on.

    Args:
        path: Of the shard; one that is there is replaced.
        model: The target, which captures the layers wanted.
        answers: At most `SHARD_ANSWERS`.
        prompt_tail: Tokens of each prompt that are kept.

    Returns:
        Tokens written.

    Raises:
        OSError: it cannot be written; nor, of a full disk, SafetensorError.
    """
    features: list[torch.Tensor] = []
    waiting = list(answers)
    while waiting:
        steps: list[Step] = []
        room = _BATCH_TOKENS
        some: list[Answer] = []
        while waiting and (not some or len(waiting[0].prompt_ids) + len(waiting[0].answer_ids) <= room):
            answer = waiting.pop(0)
            ids = answer.prompt_ids + answer.answer_ids
            room -= len(ids)
            some.append(answer)
            steps.append(Step(model.new_cache(), ids, len(ids)))
        model.forward(steps)
        for answer, step in zip(some, steps, strict=True):
            first = max(0, len(answer.prompt_ids) - prompt_tail)
            features.append(step.cache.features(first, len(step.token_ids)).to("cpu", torch.bfloat16))
    tokens, kept = _described(answers, prompt_tail)
    part = path.with_suffix(".part")
    try:
        save_file({"tokens": tokens, "features": torch.cat(features)}, part, {"passages": json.dumps(kept)})
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return len(tokens)


def shard_holds(path: Path, answers: Sequence[Answer], prompt_tail: int) -> bool:
    """Whether a shard is there, whole, and of these answers."""
    tokens, kept = _described(answers, prompt_tail)
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["passages"]) == kept and torch.equal(file.get_tensor("tokens"), tokens)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return False


def _described(answers: Sequence[Answer], prompt_tail: int) -> tuple[torch.Tensor, list[dict[str, object]]]:
    """What a shard of these answers holds besides features: [length] int32 ids of all, and each one's facts."""
    ids: list[int] = []
    kept: list[dict[str, object]] = []
    for answer in answers:
        tail = answer.prompt_ids[-prompt_tail:]
        ids += tail + answer.answer_ids
        kept.append(
            {
                "domain": answer.domain,
                "length": len(tail) + len(answer.answer_ids),
                "prompt_tokens": len(tail),
                "temperature": answer.temperature,
            }
        )
    return torch.tensor(ids, dtype=torch.int32), kept


def read_shards(folder: Path) -> list[Passage]:
    """All passages of a folder's shards; their features stay on disk until they are touched.

    Raises:
        ConfigError: a shard is damaged, or there are none.
    """
    passages: list[Passage] = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                kept = json.loads(file.metadata()["passages"])
                tokens, features = file.get_tensor("tokens"), file.get_tensor("features")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ConfigError(f"{path}: not a shard of features ({error}); delete it and start again") from error
        at = 0
        for item in kept:
            own = slice(at, at + item["length"])
            at += item["length"]
            passages.append(
                Passage(item["domain"], tokens[own], features[own], item["prompt_tokens"], item["temperature"])
            )
    if not passages:
        raise ConfigError(f"{folder}: holds no features")
    return passages
