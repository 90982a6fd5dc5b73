"""A language model small enough to enumerate: the next token's logits are a fixed random function of the last two."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from paceline.actors.causal_model import Cache, Step


class TableCache:
    """The tokens themselves."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    @property
    def length(self) -> int:
        return len(self.tokens)

    def truncate(self, length: int) -> None:
        if not 0 <= length <= len(self.tokens):
            raise ValueError(f"length {length} of {len(self.tokens)}")
        del self.tokens[length:]

    def features(self, start: int, stop: int) -> torch.Tensor:
        raise ValueError(f"features of {start} to {stop}: a table keeps none")


class TableModel:
    """Implements `CausalModel`; `sharpness` scales the logits, `calls` counts forwards."""

    def __init__(self, vocab_size: int = 6, sharpness: float = 2.0, seed: int = 0, max_positions: int = 512) -> None:
        self.vocab_size = vocab_size
        self.max_positions = max_positions
        self.feature_layers: tuple[int, ...] = ()
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        table = np.random.default_rng(seed).standard_normal((vocab_size + 1, vocab_size, vocab_size)) * sharpness
        self.table = torch.from_numpy(table.astype(np.float32))  # [last but one (or none), last, next]
        self.calls = 0

    def new_cache(self, prompt: Sequence[int] = ()) -> TableCache:
        return TableCache()

    def positions_held(self, caches: Sequence[Cache]) -> int:
        return sum(cache.length for cache in caches)

    def row(self, prefix: Sequence[int]) -> torch.Tensor:
        before = prefix[-2] if len(prefix) > 1 else self.vocab_size
        return self.table[before, prefix[-1]]

    def forward(self, steps: Sequence[Step]) -> torch.Tensor:
        self.calls += 1
        rows = []
        for step in steps:
            if not step.token_ids:
                raise ValueError("an empty step")
            cache = step.cache
            assert isinstance(cache, TableCache)
            held = cache.length
            cache.tokens.extend(step.token_ids)
            if cache.length > self.max_positions:
                raise ValueError("beyond max_positions")
            first = step.logits_from if step.logits_from >= 0 else len(step.token_ids) + step.logits_from
            rows += [self.row(cache.tokens[: held + i + 1]) for i in range(first, len(step.token_ids))]
        return torch.stack(rows) if rows else torch.empty(0, self.vocab_size)

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The plain greedy continuation."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.row(tokens).argmax()))
        return tokens[len(prompt) :]

    def joint(self, prompt: Sequence[int], count: int, temperature: float) -> dict[tuple[int, ...], float]:
        """The exact law of the next `count` tokens at a temperature, by enumeration."""
        law = {}
        for continuation in itertools.product(range(self.vocab_size), repeat=count):
            tokens, mass = list(prompt), 1.0
            for token in continuation:
                mass *= float(torch.softmax(self.row(tokens).double() / temperature, dim=-1)[token])
                tokens.append(token)
            law[continuation] = mass
        return law
