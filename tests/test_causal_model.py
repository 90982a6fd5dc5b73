"""The contract of `CausalModel`, over every implementation: what the engine and the drafters rely on.

The reference is transformers' own forward over a whole text, without a cache, in float32. Tolerance: 1e-4 on logits
that spread over several units; a wrong mask, position, or rolled-back key moves them by far more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import (
    MAX_POSITIONS,
    make_tiny_gpt2,
    make_tiny_llama,
    make_tiny_llama3,
    make_tiny_mistral,
    make_tiny_qwen2,
    make_tiny_qwen3,
)
from transformers import AutoModelForCausalLM

from paceline.actors.causal_model import CausalModel, Step
from paceline.actors.model_loader import load_model

TOLERANCE = 1e-4
MODELS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "llama": ("Llama", make_tiny_llama),
    "llama, tied": ("Llama", lambda folder: make_tiny_llama(folder, tied=True)),
    "llama, all biases": ("Llama", lambda folder: make_tiny_llama(folder, attention_bias=True)),
    "llama 3.1 rotary": ("Llama", make_tiny_llama3),
    "mistral": ("Llama", make_tiny_mistral),
    "qwen2": ("Llama", make_tiny_qwen2),
    "qwen3": ("Llama", make_tiny_qwen3),
    "gpt2": ("TransformersModel", make_tiny_gpt2),
    "mistral, window of 8": ("TransformersModel", lambda folder: make_tiny_mistral(folder, sliding_window=8)),
}


@dataclass
class Subject:
    model: CausalModel
    reference: Any

    def truth(self, tokens: list[int]) -> torch.Tensor:
        """[tokens, vocab], by one forward without a cache."""
        with torch.inference_mode():
            logits: torch.Tensor = self.reference(torch.tensor([tokens]), use_cache=False).logits[0]
        return logits


@pytest.fixture(scope="module", params=MODELS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    kind, make = MODELS[request.param]
    folder = make(tmp_path_factory.mktemp("model"))
    model = load_model(folder, dtype="float32")
    assert type(model).__name__ == kind
    return Subject(model, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def text(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 97, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


def test_one_forward_equals_transformers(subject: Subject) -> None:
    tokens = text(300)  # more than two query blocks, and more than the cache's first buffer
    truth = subject.truth(tokens)
    assert truth.std() > 0.5  # else the tolerance says little
    cache = subject.model.new_cache()
    logits = subject.model.forward([Step(cache, tokens)])
    close(logits, truth)
    assert logits.dtype == torch.float32
    assert cache.length == 300


@pytest.mark.parametrize("cuts", [[1] * 40, [7, 1, 1, 8, 3, 20], [39, 1]], ids=str)
def test_pieces_equal_the_whole(subject: Subject, cuts: list[int]) -> None:
    tokens = text(40)
    cache = subject.model.new_cache()
    parts, at = [], 0
    for count in cuts:
        parts.append(subject.model.forward([Step(cache, tokens[at : at + count])]))
        at += count
    close(torch.cat(parts), subject.truth(tokens))


def test_ragged_steps_equal_one_by_one(subject: Subject) -> None:
    texts = [text(150, 1), text(9, 2), text(31, 3), text(5, 4)]
    held = [140, 0, 30, 4]  # a long tail, a whole prompt, and two single tokens
    caches = [subject.model.new_cache() for _ in texts]
    for cache, tokens, count in zip(caches, texts, held, strict=True):
        if count:
            subject.model.forward([Step(cache, tokens[:count], -1)])
    logits_from = [3, -1, 0, 1]  # 7 rows, 1 row, 1 row, none
    rows = subject.model.forward(
        [
            Step(cache, tokens[count:], start)
            for cache, tokens, count, start in zip(caches, texts, held, logits_from, strict=True)
        ]
    )
    wanted = [subject.truth(texts[0])[143:], subject.truth(texts[1])[-1:], subject.truth(texts[2])[30:]]
    close(rows, torch.cat(wanted))
    assert [cache.length for cache in caches] == [150, 9, 31, 5]


def test_no_rows_wanted_still_fills_the_cache(subject: Subject) -> None:
    tokens = text(12)
    cache = subject.model.new_cache()
    assert subject.model.forward([Step(cache, tokens[:8], 8)]).shape == (0, 97)
    close(subject.model.forward([Step(cache, tokens[8:])]), subject.truth(tokens)[8:])


@pytest.mark.parametrize("keep", [0, 1, 20, 33, 34])
def test_rollback_and_other_tokens_equal_a_fresh_cache(subject: Subject, keep: int) -> None:
    tokens = text(34, 5)
    cache = subject.model.new_cache()
    subject.model.forward([Step(cache, tokens, -1)])
    cache.truncate(max(keep, 30))  # twice: a window that forgets more than it rolls back would show
    cache.truncate(keep)
    assert cache.length == keep
    other = tokens[:keep] + text(9, 6)
    close(subject.model.forward([Step(cache, other[keep:])]), subject.truth(other)[keep:])


@pytest.mark.parametrize("length", [-1, 11])
def test_rollback_to_what_is_not_held_is_refused(subject: Subject, length: int) -> None:
    cache = subject.model.new_cache()
    subject.model.forward([Step(cache, text(10), -1)])
    with pytest.raises(ValueError, match=f"length {length}; the cache holds 10"):
        cache.truncate(length)
    assert cache.length == 10


@pytest.mark.parametrize(
    ("tokens", "logits_from", "message"),
    [
        ([], 0, "token_ids: empty"),
        ([1, 97], 0, "token_ids: 97"),
        ([1, -2], 0, "token_ids: -2"),
        ([1, 2], 3, "logits_from: 3"),
        ([1, 2], -2, "logits_from: -2"),
        ([1] * (MAX_POSITIONS + 1), -1, f"{MAX_POSITIONS + 1} positions in all; the model has {MAX_POSITIONS}"),
    ],
)
def test_bad_steps_are_refused_and_change_nothing(
    subject: Subject, tokens: list[int], logits_from: int, message: str
) -> None:
    good, bad = subject.model.new_cache(), subject.model.new_cache()
    with pytest.raises(ValueError, match=message):
        subject.model.forward([Step(good, [1, 2]), Step(bad, tokens, logits_from)])
    assert (good.length, bad.length) == (0, 0)


def test_a_cache_used_twice_or_from_elsewhere_is_refused(subject: Subject) -> None:
    class Foreign:
        length = 0

        def truncate(self, length: int) -> None:
            raise AssertionError(length)

    cache = subject.model.new_cache()
    with pytest.raises(ValueError, match="each cache only once"):
        subject.model.forward([Step(cache, [1]), Step(cache, [2])])
    with pytest.raises(ValueError, match="cache: a Foreign"):
        subject.model.forward([Step(Foreign(), [1])])
    with pytest.raises(ValueError, match="steps: 0"):
        subject.model.forward([])


def test_every_position_can_be_used(subject: Subject) -> None:
    cache = subject.model.new_cache()
    tokens = text(MAX_POSITIONS)
    subject.model.forward([Step(cache, tokens[:-1], -1)])
    close(subject.model.forward([Step(cache, tokens[-1:])]), subject.truth(tokens)[-1:])
    with pytest.raises(ValueError, match="positions"):
        subject.model.forward([Step(cache, [1])])
