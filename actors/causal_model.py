"""What a language model must offer the target engine and the model-based drafters: ragged forwards over own caches.

A forward takes any mix of steps: a prompt of 500 tokens, a draft of 7 to verify, a single token. There is no padding to
account for; every step names its cache, its tokens, and the first of them whose logits are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


class Cache(Protocol):
    """Keys and values of one sequence."""

    @property
    def length(self) -> int:
        """Positions held."""
        ...

    def truncate(self, length: int) -> None:
        """Forget positions from `length` on.

        Raises:
            ValueError: `length` is negative or more than is held.
        """
        ...


@dataclass(slots=True)
class Step:
    """Tokens to append to one cache. Logits come back for `token_ids[logits_from:]`; -1 means the last only.

    With `parents` the tokens are a tree: each follows `token_ids[parent]`, an earlier one, or the cache's last token
    where its parent is -1, and sees only what it follows. Only the lean decoder runs trees.
    """

    cache: Cache
    token_ids: Sequence[int]
    logits_from: int = 0
    parents: Sequence[int] | None = None


class CausalModel(Protocol):
    """A decoder. Not thread-safe: one thread calls it."""

    vocab_size: int
    max_positions: int
    device: torch.device
    dtype: torch.dtype

    def new_cache(self, prompt: Sequence[int] = ()) -> Cache:
        """A cache that grows as needed: empty, or holding a beginning of `prompt` that was run before."""
        ...

    def forward(self, steps: Sequence[Step]) -> torch.Tensor:
        """Append every step's tokens to its cache and return logits.

        Returns:
            [rows, vocab_size] in the model's dtype: the wanted rows of the first step, then of the second, and so on.

        Raises:
            ValueError: a step is empty, or goes beyond `max_positions`.
        """
        ...
