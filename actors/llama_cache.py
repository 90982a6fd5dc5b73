"""Keys and values of one sequence for the lean decoder, in one buffer that doubles; rollback moves a number.

`llama` writes new keys and values straight into the buffer and reads the live part as views, so attention never copies
the past and costs what the live length costs.
"""

from __future__ import annotations

import torch

FIRST_POSITIONS = 128


class LlamaCache:
    """One sequence's cache. Buffer: [layers, 2 * kv_heads, capacity, head_dim], keys before values."""

    def __init__(self, like: torch.Tensor, max_positions: int) -> None:
        """An empty cache.

        Args:
            like: [layers, 2 * kv_heads, 0, head_dim]: the shape, dtype and device of the buffer.
            max_positions: Most that it will ever hold.
        """
        self._buffer = like
        self._max_positions = max_positions
        self._length = 0

    @property
    def length(self) -> int:
        """Positions held."""
        return self._length

    @property
    def capacity(self) -> int:
        """Positions there is memory for."""
        return self._buffer.shape[2]

    def truncate(self, length: int) -> None:
        """Forget positions from `length` on.

        Raises:
            ValueError: `length` is negative or more than is held.
        """
        if not 0 <= length <= self._length:
            raise ValueError(f"truncate: length {length}; the cache holds {self._length} positions")
        self._length = length

    def extend(self, count: int) -> torch.Tensor:
        """Make `count` more positions part of the cache, their contents yet to be written.

        Returns:
            The live part, [layers, 2 * kv_heads, length, head_dim], a view; the new positions are its last `count`.

        Raises:
            ValueError: more than `max_positions` would be held.
        """
        needed = self._length + count
        if needed > self._max_positions:
            raise ValueError(f"{needed} positions; the model has {self._max_positions}")
        if needed > self.capacity:
            capacity = max(FIRST_POSITIONS, self.capacity)
            while capacity < needed:
                capacity *= 2
            layers, heads, _, head_dim = self._buffer.shape
            grown = self._buffer.new_empty(layers, heads, min(capacity, self._max_positions), head_dim)
            grown[:, :, : self._length] = self._buffer[:, :, : self._length]
            self._buffer = grown
        self._length = needed
        return self._buffer[:, :, :needed]
