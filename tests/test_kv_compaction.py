"""Compaction of paged keys and values: twin against reference bit for bit, and both against moving one at a time.

Which bug each regime catches:
    one move        a wrong stride of layer, head, keys or values
    closing up      a target that is a later move's source, written before it was read
    across blocks   a slot taken within the wrong block
    holes           sequences with fewer moves than others, unused entries between used ones
    nothing         rows without a move, and no rows
    many moves      more than a warp has lanes; odd numbers of layers, heads and dimensions
"""

from __future__ import annotations

import pytest
import torch

from paceline.kernels.decoder_ops import BLOCK
from paceline.kernels.kv_compaction import compact_kv, compact_kv_torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Moves = list[list[tuple[int, int]]]  # of each sequence: (source, target) slots

REGIMES: dict[str, Moves] = {
    "one move": [[(37, 33)]],
    "closing up": [[(17, 16), (18, 17), (20, 18), (23, 19)]],
    "across blocks": [[(50, 14), (51, 15), (5, 48), (6, 49)]],
    "holes": [[(1, 0)], [(-1, -1), (70, 66), (-1, -1), (71, 67)], [], [(40, 39), (41, 40)]],
    "nothing": [[], []],
    "no rows": [],
    "many moves": [[(16 + 2 * i + 1, 16 + i) for i in range(40)]],
}


def operands(moves: Moves, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    memory = torch.randn(7, 3, 3, 2, BLOCK * 24, generator=torch.Generator().manual_seed(1)).to(dtype)
    width = max((len(own) for own in moves), default=0)
    padded = [[*own, *[(-1, -1)] * (width - len(own))] for own in moves]
    slots = torch.tensor(padded, dtype=torch.int64).view(len(moves), width, 2)
    return memory.to(DEVICE), slots[..., 0].to(DEVICE), slots[..., 1].to(DEVICE)


def one_at_a_time(memory: torch.Tensor, moves: Moves) -> torch.Tensor:
    old, new = memory.cpu(), memory.cpu().clone()
    keys, values = (3, 3, 24, BLOCK), (3, 3, BLOCK, 24)
    for source, target in (move for own in moves for move in own if move[0] >= 0):
        (a, i), (b, j) = divmod(source, BLOCK), divmod(target, BLOCK)
        new[b, :, :, 0].view(keys)[..., j] = old[a, :, :, 0].view(keys)[..., i]
        new[b, :, :, 1].view(values)[:, :, j] = old[a, :, :, 1].view(values)[:, :, i]
    return new


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("regime", REGIMES)
def test_both_move_as_defined(regime: str, dtype: torch.dtype) -> None:
    from paceline.kernels.kv_compaction_triton import compact_kv_triton

    memory, sources, targets = operands(REGIMES[regime], dtype)
    expected = one_at_a_time(memory, REGIMES[regime])
    for compact in (compact_kv, compact_kv_torch, compact_kv_triton):
        moved = memory.clone()
        compact(moved, sources, targets)
        assert torch.equal(moved.cpu(), expected), compact.__name__


@pytest.mark.parametrize(
    ("field", "index", "change"),
    [
        ("memory", 0, lambda memory: memory.double()),
        ("sources", 1, lambda sources: sources + 1000),
        ("sources", 1, lambda sources: sources - 1000),
        ("sources", 1, lambda sources: sources.int()),
        ("targets", 2, lambda targets: targets[:, :2]),
        ("targets", 2, lambda targets: targets + 1000),
        ("targets", 2, lambda targets: torch.full_like(targets, -1)),
    ],
)
def test_bad_operands_are_refused_by_name(field: str, index: int, change) -> None:  # type: ignore[no-untyped-def]
    case = list(operands(REGIMES["closing up"], torch.float32))
    case[index] = change(case[index])
    with pytest.raises(ValueError, match=rf"^{field}: expected .* got "):
        compact_kv(*case)
