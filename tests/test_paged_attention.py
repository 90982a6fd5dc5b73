"""Attention over paged keys and values: twin against reference, and the reference against `TorchOps`' own.

Which bug each regime catches:
    first token        a cache that holds nothing yet
    length 1           one row and one position: one block, nearly empty
    inside a block     a start that is no block's edge, a last block that is partly filled (the rest holds NaN)
    ragged             one sequence's rows, table or length taken for another's
    padded             a sequence without rows in the middle and at the end, and rows that belong to nobody
    long past          shares of the positions that are joined wrongly, some of them empty
    prompt             more rows than a tile; the future not masked
    tree               rows that may not see each other; beside a chain, whose rows are masked by order
    only themselves    rows whose mask shows them nothing of each other
    nothing but past   a mask that shows a row not even itself
    one head           groups of one; group of three: lanes that no query fills; wide group; odd width of heads
Tables have holes: blocks lie shuffled among blocks of other texts that hold NaN, unused entries name no block.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from paceline.kernels.decoder_ops import BLOCK
from paceline.kernels.paged_attention import paged_attention, paged_attention_torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = {"float32": (torch.float32, 2e-6), "bfloat16": (torch.bfloat16, 2**-7)}  # one unit in the last place
PATHS = (0b1, 0b11, 0b101, 0b1011, 0b10000, 0b110000)  # of a tree of six


@dataclass(frozen=True)
class Regime:
    """Sequences as (positions held, rows), heads and their width, each row's sight, and rows that pad."""

    sequences: tuple[tuple[int, int], ...]
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 32
    sight: tuple[int, ...] | None = None
    padding: int = 0


REGIMES = {
    "first token": Regime(((0, 5),)),
    "length 1": Regime(((0, 1),)),
    "inside a block": Regime(((21, 3),)),
    "ragged": Regime(((0, 9), (47, 1), (130, 7), (16, 16))),
    "padded": Regime(((20, 2), (0, 0), (33, 3), (0, 0)), padding=3),
    "long past": Regime(((700, 2), (3, 1)), heads=2, kv_heads=1),
    "prompt": Regime(((5, 90), (0, 40))),
    "tree": Regime(((19, 6), (3, 2)), sight=(*PATHS, -1, -1)),
    "only themselves": Regime(((17, 4),), sight=(1, 2, 4, 8)),
    "nothing but past": Regime(((17, 2),), sight=(0, 2)),
    "one head": Regime(((33, 4),), heads=1, kv_heads=1, head_dim=16),
    "group of three": Regime(((33, 4), (60, 1)), heads=9, kv_heads=3, head_dim=64),
    "wide group": Regime(((33, 9),), heads=16, kv_heads=1, head_dim=16),
    "odd width": Regime(((33, 3),), heads=4, kv_heads=2, head_dim=80),
}
Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]


def operands(regime: Regime, dtype: torch.dtype, device: torch.device = DEVICE) -> Operands:
    noise = torch.Generator().manual_seed(4)
    needed = [-(-(start + count) // BLOCK) if count else 0 for start, count in regime.sequences]
    blocks = torch.full((2 * sum(needed) + 1, regime.kv_heads, 2, BLOCK * regime.head_dim), torch.nan, dtype=dtype)
    free = iter(torch.randperm(len(blocks), generator=noise).tolist())
    tables = torch.full((len(needed), max(needed) + 1), -1)
    for row, (count, (start, own)) in enumerate(zip(needed, regime.sequences, strict=True)):
        for place in range(count):
            index = tables[row, place] = next(free)
            filled = min(BLOCK, start + own - place * BLOCK)
            both = torch.randn(2, regime.kv_heads, filled, regime.head_dim, generator=noise).to(dtype)
            blocks[index, :, 0].view(-1, regime.head_dim, BLOCK)[..., :filled] = both[0].transpose(1, 2)
            blocks[index, :, 1].view(-1, BLOCK, regime.head_dim)[:, :filled] = both[1]
    starts, counts = (torch.tensor(column) for column in zip(*regime.sequences, strict=True))
    rows = int(counts.sum()) + regime.padding
    q = torch.randn(rows, regime.heads, regime.head_dim, generator=noise).to(dtype)
    sight = None if regime.sight is None else torch.tensor(regime.sight).to(device)
    return (*(part.to(device) for part in (q, blocks, tables, starts, counts)), sight)  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("regime", REGIMES)
def test_twin_agrees_with_the_reference(regime: str, dtype: str) -> None:
    from paceline.kernels.paged_attention_triton import paged_attention_triton

    kind, bound = DTYPES[dtype]
    case = operands(REGIMES[regime], kind)
    rows = int(case[4].sum())
    ours, theirs = paged_attention_triton(*case)[:rows], paged_attention_torch(*case)[:rows]
    assert ours.dtype == kind
    torch.testing.assert_close(ours.float(), theirs.float(), atol=bound, rtol=bound)


@pytest.mark.parametrize("regime", REGIMES)
def test_reference_follows_the_definition(regime: str) -> None:
    """Row by row and head by head, in float64."""
    q, blocks, tables, starts, counts, sight = operands(REGIMES[regime], torch.float32, torch.device("cpu"))
    got = paged_attention(q, blocks, tables, starts, counts, sight)
    head_dim, row = q.shape[2], 0
    for table, start, count in zip(tables.tolist(), starts.tolist(), counts.tolist(), strict=True):
        for r in range(count):
            bits = -1 if sight is None else int(sight[row])
            seen = list(range(start)) + [start + j for j in range(count) if (bits >> j & 1 if bits >= 0 else j <= r)]
            for head in range(q.shape[1]):
                kv = head // (q.shape[1] // blocks.shape[1])
                parts = [blocks[table[p // BLOCK], kv] for p in seen]
                keys = [own[0].view(head_dim, BLOCK)[:, p % BLOCK] for own, p in zip(parts, seen, strict=True)]
                values = [own[1].view(BLOCK, head_dim)[p % BLOCK] for own, p in zip(parts, seen, strict=True)]
                law = (torch.stack(keys).double() @ q[row, head].double() / head_dim**0.5).softmax(0)
                exact = law @ torch.stack(values).double()
                torch.testing.assert_close(got[row, head].double(), exact, atol=2e-6, rtol=0)
            row += 1


@pytest.mark.parametrize(
    ("field", "index", "change"),
    [
        ("q", 0, lambda q: q[:, :5]),
        ("q", 0, lambda q: q.double()),
        ("blocks", 1, lambda blocks: blocks[..., :-1]),
        ("blocks", 1, lambda blocks: blocks.bfloat16()),
        ("tables", 2, lambda tables: tables[:, :1]),
        ("tables", 2, lambda tables: tables + 1000),
        ("tables", 2, lambda tables: tables.int()),
        ("starts", 3, lambda starts: starts - 1000),
        ("counts", 4, lambda counts: counts + 1),
        ("sight", 5, lambda sight: sight[:-1]),
    ],
)
def test_bad_operands_are_refused_by_name(field: str, index: int, change) -> None:  # type: ignore[no-untyped-def]
    case = list(operands(REGIMES["tree"], torch.float32))
    case[index] = change(case[index])
    with pytest.raises(ValueError, match=rf"^{field}: expected .* got "):
        paged_attention(*case)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 8, 64])
def test_full_size_twin_agrees(rows: int) -> None:
    regime = Regime(tuple((977 + 31 * i, rows) for i in range(8)), heads=32, kv_heads=8, head_dim=128)
    case = operands(regime, torch.bfloat16)
    ours, theirs = paged_attention(*case), paged_attention_torch(*case)
    torch.testing.assert_close(ours.float(), theirs.float(), atol=2**-7, rtol=2**-7)
