"""Refuses the steps that a model cannot run, before any cache has changed. Every `CausalModel` here calls it first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from paceline.actors.causal_model import Step

C = TypeVar("C")
MAX_TREE = 63  # tokens: what a row of a tree sees is a mask in one signed integer


def check_steps(
    steps: Sequence[Step], kind: type[C], vocab_size: int, max_positions: int
) -> tuple[list[C], list[range]]:
    """Check every step of a forward.

    Args:
        steps: What the caller asked for.
        kind: The model's own class of cache.
        vocab_size: Token ids lie below it.
        max_positions: Most that one cache may hold afterwards.

    Returns:
        The steps' caches, and the rows of each step's own tokens whose logits are wanted.

    Raises:
        ValueError: naming the field, what it holds and what was expected.
    """
    if not steps or len({id(step.cache) for step in steps}) < len(steps):
        raise ValueError(f"steps: {len(steps)}; expected at least one, and each cache only once")
    caches: list[C] = []
    wanted: list[range] = []
    for step in steps:
        if not isinstance(step.cache, kind):
            raise ValueError(f"cache: a {type(step.cache).__name__}; expected a {kind.__name__} of this model")
        caches.append(step.cache)
        count = len(step.token_ids)
        if count == 0:
            raise ValueError("token_ids: empty; expected at least one token")
        low, high = min(step.token_ids), max(step.token_ids)
        if low < 0 or high >= vocab_size:
            raise ValueError(f"token_ids: {low if low < 0 else high}; expected ids from 0 to {vocab_size - 1}")
        total = step.cache.length + count
        if total > max_positions:
            raise ValueError(f"token_ids: {total} positions in all; the model has {max_positions}")
        if not -1 <= step.logits_from <= count:
            raise ValueError(f"logits_from: {step.logits_from}; expected -1 to {count}, the number of tokens")
        if step.parents is not None:
            _check_tree(step.parents, count)
        wanted.append(range(count - 1 if step.logits_from == -1 else step.logits_from, count))
    return caches, wanted


def _check_tree(parents: Sequence[int], count: int) -> None:
    if len(parents) != count or count > MAX_TREE:
        raise ValueError(f"parents: {len(parents)} of {count} tokens; expected one each, of at most {MAX_TREE}")
    for index, parent in enumerate(parents):
        if not -1 <= parent < index:
            raise ValueError(f"parents: {parent} of token {index}; expected -1 to {index - 1}")
