"""What a language model must offer the target engine and the model-based drafters: ragged forwards over own caches.

A forward takes any mix of steps: a prompt of 500 tokens, a draft of 7 to verify, a single token. There is no padding to
account for; every step names its cache, its tokens, and the first of them whose logits are wanted.

A model may also keep hidden states ("features") of every position it runs, for drafters that read them. Of its L
layers, layer l stands for the residual stream after l layers, and layer L for the output of the final norm:
`hidden_states[l]` in transformers. The feature of a position is the hidden states of the model's `feature_layers` side
by side, computed when its token was run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from paceline.actors.errors import ModelSourceError

NO_FEATURES = "features: the model keeps none; expected feature_layers when it was loaded"


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

    def features(self, start: int, stop: int) -> torch.Tensor:
        """Features of positions `start` .. `stop` - 1.

        Returns:
            [stop - start, feature layers * width] in the model's dtype; layers in ascending order.

        Raises:
            ValueError: a position is not held, or the model keeps no features.
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
    feature_layers: tuple[int, ...]  # whose features its caches hold, ascending; empty: none

    def new_cache(self, prompt: Sequence[int] = ()) -> Cache:
        """A cache that grows as needed: empty, or holding a beginning of `prompt` that was run before."""
        ...

    def positions_held(self, caches: Sequence[Cache]) -> int:
        """Positions of memory that `caches`, all that there are of this model, take together; any thread may ask.

        Whole blocks where memory is in blocks; what several share counts once.
        """
        ...

    def forward(self, steps: Sequence[Step]) -> torch.Tensor:
        """Append every step's tokens to its cache and return logits.

        Returns:
            [rows, vocab_size] in the model's dtype: the wanted rows of the first step, then of the second, and so on.

        Raises:
            ValueError: a step is empty, or goes beyond `max_positions`.
        """
        ...


def check_feature_layers(feature_layers: Sequence[int], layers: int) -> tuple[int, ...]:
    """Check which layers a model of `layers` layers shall keep features of.

    Raises:
        ModelSourceError: one is not there, or they do not ascend.
    """
    chosen = tuple(feature_layers)
    if list(chosen) != sorted(set(chosen)) or (chosen and not 1 <= chosen[0] <= chosen[-1] <= layers):
        raise ModelSourceError(f"feature_layers: {list(chosen)}; expected ascending numbers from 1 to {layers}")
    return chosen


def check_feature_range(start: int, stop: int, length: int) -> None:
    """Check whose features are asked of a cache that holds `length` positions.

    Raises:
        ValueError: a position is not held.
    """
    if not 0 <= start <= stop <= length:
        raise ValueError(f"features: positions {start} to {stop}; the cache holds {length}")
