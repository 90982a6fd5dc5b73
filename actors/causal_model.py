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
    """Tokens to append to one cache. Logits come back for `token_ids[logits_from:]`; -1 means the last only."""

    cache: Cache
    token_ids: Sequence[int]
    logits_from: int = 0


class CausalModel(Protocol):
    """A decoder. Not thread-safe: one thread calls it."""

    vocab_size: int
    max_positions: int
    device: torch.device
    dtype: torch.dtype

    def new_cache(self) -> Cache:
        """An empty cache that grows as needed."""
        ...

    def forward(self, steps: Sequence[Step]) -> torch.Tensor:
        """Append every step's tokens to its cache and return logits.

        Returns:
            [rows, vocab_size] in the model's dtype: the wanted rows of the first step, then of the second, and so on.

        Raises:
            ValueError: a step is empty, or goes beyond `max_positions`.
        """
        ...
