"""Keys and values of one sequence for the lean decoder: a table of blocks, some of them shared; rollback forgets rows.

Tokens are remembered beside them, since a block may be shared once it is full and its tokens are committed, which
`truncate` says: what a round truncates to is the accepted prefix. Where the pool keeps features they lie in the blocks,
too, and so are shared, moved and forgotten with the keys they belong to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from paceline.actors.causal_model import NO_FEATURES, check_feature_range
from paceline.actors.kv_pool import Block, KVPool, next_key
from paceline.kernels.decoder_ops import BLOCK
from paceline.kernels.kv_compaction import compact_kv


class LlamaCache:
    """One sequence's cache. Its blocks go back to the pool when nothing refers to it any more."""

    def __init__(self, pool: KVPool, prompt: Sequence[int] = ()) -> None:
        """A cache that holds as much of `prompt` as the pool knows, in whole blocks, never all of it.

        Args:
            pool: Where blocks come from.
            prompt: The tokens that will be run first.
        """
        self._pool = pool
        self.blocks: list[Block] = pool.find(prompt)
        self._tokens = list(prompt[: len(self.blocks) * BLOCK])
        self._keys = [block.key or b"" for block in self.blocks]  # of the blocks that were published or found

    def __del__(self) -> None:
        self._pool.give_back(self.blocks)

    @property
    def length(self) -> int:
        """Positions held."""
        return len(self._tokens)

    def truncate(self, length: int) -> None:
        """Forget positions from `length` on; what remains is committed, and its full blocks may be shared.

        Raises:
            ValueError: `length` is negative or more than is held.
        """
        if not 0 <= length <= len(self._tokens):
            raise ValueError(f"truncate: length {length}; the cache holds {len(self._tokens)} positions")
        del self._tokens[length:]
        needed = -(-length // BLOCK)
        self._pool.give_back(self.blocks[needed:])
        del self.blocks[needed:]
        if not self._pool.share:
            return
        full = length // BLOCK
        del self._keys[full:]
        for index in range(len(self._keys), full):
            before = self._keys[-1] if self._keys else b""
            key = next_key(before, self._tokens[index * BLOCK : (index + 1) * BLOCK])
            self._pool.publish(self.blocks[index], key)
            self._keys.append(key)

    def extend(self, tokens: Sequence[int]) -> None:
        """Make positions for more tokens part of the cache, their keys and values yet to be written.

        Raises:
            EngineError: the pool has no block left; the cache is as it was.
        """
        before = len(self._tokens)
        fresh: list[Block] = []
        try:
            if before % BLOCK and self.blocks[-1].key is not None:  # a shared block that was cut: others read it
                fresh.append(self._pool.take())
                _copy(self.blocks[-1], fresh[0])
            shared = len(fresh)
            while (len(self.blocks) - shared + len(fresh)) * BLOCK < before + len(tokens):
                fresh.append(self._pool.take())
        except Exception:
            self._pool.give_back(fresh)
            raise
        if shared:
            self._pool.give_back([self.blocks.pop()])
        self.blocks += fresh
        self._tokens += tokens

    def keep(self, start: int, rows: Sequence[int]) -> None:
        """Of the positions from `start` on keep only `rows`, counted from there, moved together: a tree's chosen path.

        Raises:
            ValueError: rows are not ascending, or not held.
        """
        held = self.length - start
        if start < 0 or list(rows) != sorted(set(rows)) or (rows and not 0 <= rows[0] <= rows[-1] < held):
            raise ValueError(f"rows: {list(rows)} from position {start} on; expected ascending ones below {held}")
        moves = [(start + row, start + to) for to, row in enumerate(rows) if to != row]
        if moves and self._pool.memory is not None:
            self._move_together(moves, self._pool.memory)
        else:
            for source, target in moves:
                self._move(source, target)
        self._tokens[start:] = [self._tokens[start + row] for row in rows]
        self.truncate(start + len(rows))

    def write_features(self, features: torch.Tensor) -> None:
        """Set the features of the last positions, [positions, feature_width], once they were computed."""
        at = self.length - len(features)
        for index, first, last in _spans(at, self.length):
            held = self.blocks[index].features
            if held is None:
                raise ValueError(NO_FEATURES)
            start = index * BLOCK
            held[first:last] = features[start + first - at : start + last - at]

    def features(self, start: int, stop: int) -> torch.Tensor:
        """The features of positions `start` .. `stop` - 1; see `Cache.features`."""
        if not self._pool.feature_width:
            raise ValueError(NO_FEATURES)
        check_feature_range(start, stop, self.length)
        parts = [
            held[first:last]
            for index, first, last in _spans(start, stop)
            if (held := self.blocks[index].features) is not None
        ]
        return torch.cat(parts) if parts else self._pool.no_features()

    def _move_together(self, moves: Sequence[tuple[int, int]], memory: torch.Tensor) -> None:
        """All moves at once, where the blocks lie in one tensor."""
        slots = [[self.blocks[at // BLOCK].index * BLOCK + at % BLOCK for at in move] for move in moves]
        sources, targets = torch.tensor(slots).t().contiguous()
        compact_kv(memory, sources[None], targets[None])
        if self._pool.feature_width:
            for source, to in moves:
                self._move_features(source, to)

    def _move(self, source: int, to: int) -> None:
        self._move_features(source, to)
        old, new = self.blocks[source // BLOCK].data, self.blocks[to // BLOCK].data
        keys = (*old.shape[:2], -1, BLOCK)
        new[:, :, 0].view(keys)[..., to % BLOCK] = old[:, :, 0].view(keys)[..., source % BLOCK]
        values = (*old.shape[:2], BLOCK, -1)
        new[:, :, 1].view(values)[:, :, to % BLOCK] = old[:, :, 1].view(values)[:, :, source % BLOCK]

    def _move_features(self, source: int, to: int) -> None:
        before, after = self.blocks[source // BLOCK].features, self.blocks[to // BLOCK].features
        if before is not None and after is not None:
            after[to % BLOCK] = before[source % BLOCK]


def _copy(source: Block, to: Block) -> None:
    to.data.copy_(source.data)
    if source.features is not None and to.features is not None:
        to.features.copy_(source.features)


def _spans(start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Positions `start` .. `stop` - 1 as (block, first, last) with `first` and `last` counted within the block."""
    while start < stop:
        index, first = divmod(start, BLOCK)
        last = min(BLOCK, first + stop - start)
        yield index, first, last
        start += last - first
