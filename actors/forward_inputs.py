"""What a forward on a GPU has to know, in one tensor of integers: one copy to the device a round, waited for by nobody.

Token ids, positions, what each row sees, which rows' logits are wanted, and where every sequence's blocks are. What
does not fill its part pads: a row that belongs to no sequence writes nothing, and nothing is read for it.
`decoder_stack` makes one for each forward; `cuda_graphs` keeps one for each size, where its graphs look for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from paceline.actors.causal_model import Step
from paceline.actors.llama_cache import LlamaCache
from paceline.kernels.decoder_ops import BlockTables, PagedBatch

_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class ForwardInputs:
    """Parts of one int64 tensor."""

    buffer: torch.Tensor  # all of them, end to end
    ids: torch.Tensor  # [rows]
    positions: torch.Tensor  # [rows] of each row in its text
    sight: torch.Tensor  # [rows]; see `PagedBatch`
    wanted: torch.Tensor  # [rows] rows whose logits are wanted, in order; 0 pads
    starts: torch.Tensor  # [sequences] positions held before
    counts: torch.Tensor  # [sequences] rows; 0 pads
    tables: torch.Tensor  # [sequences, width] blocks

    @staticmethod
    def size(sequences: int, rows: int, width: int) -> int:
        """Integers in all."""
        return 4 * rows + sequences * (2 + width)

    @classmethod
    def of(cls, buffer: torch.Tensor, sequences: int, rows: int, width: int) -> ForwardInputs:
        """Name the parts of a tensor of `size` integers."""
        sizes = [rows] * 4 + [sequences] * 2 + [sequences * width]
        ids, positions, sight, wanted, starts, counts, tables = torch.split(buffer, sizes)
        return cls(buffer, ids, positions, sight, wanted, starts, counts, tables.view(sequences, width))

    def fill(self, layout: RowLayout, ids: Sequence[int], wanted: Sequence[int]) -> int:
        """Write what a forward is about; on the CPU. Returns how many integers from the first on are of interest."""
        rows, sequences = len(layout.positions), len(layout.starts)
        sight = layout.sight if layout.sight is not None else [-1] * rows
        for part, values, padding in (
            (self.ids, ids, 0),
            (self.positions, layout.positions, 0),
            (self.sight, sight, -1),
            (self.wanted, wanted, 0),
            (self.starts, layout.starts, 0),
            (self.counts, layout.counts, 0),
        ):
            held = part.numpy()
            held[: len(values)] = values
            held[len(values) :] = padding
        tables = self.tables.numpy()
        for row, cache in enumerate(layout.caches):
            tables[row, : len(cache.blocks)] = [block.index for block in cache.blocks]
        return len(self.buffer) - (len(self.starts) - sequences) * self.tables.shape[1]

    def batch(self, memory: torch.Tensor, trees: bool = True) -> PagedBatch:
        """What attention reads, of a batch that lies on the device."""
        tables = BlockTables(memory, self.tables, self.starts, self.counts, self.sight if trees else None)
        return PagedBatch((), _NONE, _NONE, _NONE, None, tables)


@dataclass(frozen=True, slots=True)
class RowLayout:
    """A forward's rows, sequence after sequence, once every cache has made room for them."""

    caches: Sequence[LlamaCache]
    starts: Sequence[int]  # positions each cache held before
    counts: Sequence[int]  # rows of each
    positions: Sequence[int]  # of each row in its text
    sight: Sequence[int] | None  # of each row; None where no step is a tree

    @property
    def width(self) -> int:
        """Blocks of the longest cache."""
        return max(len(cache.blocks) for cache in self.caches)


def lay_out(steps: Sequence[Step], caches: Sequence[LlamaCache]) -> RowLayout:
    """Make room in every cache, or in none, and say whose rows are where.

    Raises:
        EngineError: the pool has no block left; every cache is as it was.
    """
    starts = [cache.length for cache in caches]
    counts = [len(step.token_ids) for step in steps]
    positions, sight = _places(steps)
    try:
        for cache, step in zip(caches, steps, strict=True):
            cache.extend(step.token_ids)
    except Exception:
        for cache, start in zip(caches, starts, strict=True):
            cache.truncate(start)
        raise
    return RowLayout(caches, starts, counts, positions, sight)


def _places(steps: Sequence[Step]) -> tuple[list[int], list[int] | None]:
    """Every row's position in its text, and, where any step is a tree, what each row sees (`PagedBatch.sight`)."""
    positions: list[int] = []
    sight: list[int] = []
    for step in steps:
        start, count = step.cache.length, len(step.token_ids)
        if step.parents is None:
            positions += range(start, start + count)
            sight += [-1] * count
            continue
        depths: list[int] = []
        seen: list[int] = []
        for index, parent in enumerate(step.parents):
            depths.append(0 if parent < 0 else depths[parent] + 1)
            seen.append((seen[parent] if parent >= 0 else 0) | 1 << index)
        positions += [start + depth for depth in depths]
        sight += seen
    return positions, sight if any(step.parents is not None for step in steps) else None
