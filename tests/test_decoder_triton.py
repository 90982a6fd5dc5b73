"""The decoder's ops in Triton beside `TorchOps`, in the regimes of `test_decoder_ops`, which says what each catches.

Here the blocks lie in one tensor, in another order than the tables', and rows that pad follow the last sequence: they
must write nothing. (The interpreter cuts numbers down to bfloat16 where a GPU rounds them: hence a unit more of
tolerance.)
"""

from __future__ import annotations

import pytest
import torch
from test_decoder_ops import DTYPES, LAYERS, REGIMES, Case

from paceline.kernels.decoder_ops import BLOCK, BlockTables, PagedBatch
from paceline.kernels.decoder_torch import TorchOps

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
REFERENCE = TorchOps("test")
PADDING = 2
BOUNDS = {"float32": 2e-6, "bfloat16": 2**-6}  # rotation, keys and the result are rounded one after another


def on_device(case: Case) -> tuple[PagedBatch, list[torch.Tensor]]:
    """The case's batch as a GPU is told it, and its blocks as they are changed."""
    blocks = [block for own in case.blocks for block in own]
    order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(9)).tolist()
    memory = torch.stack([blocks[order.index(place)] for place in range(len(blocks))]).to(DEVICE)
    tables = torch.full((len(case.blocks), max(map(len, case.blocks))), -1)
    place = iter(order)
    for row, own in enumerate(case.blocks):
        tables[row, : len(own)] = torch.tensor([next(place) for _ in own])
    starts, counts = (torch.from_numpy(part).to(DEVICE) for part in (case.batch.starts, case.batch.counts))
    sight = None
    if case.batch.sight is not None:
        sight = torch.cat((torch.from_numpy(case.batch.sight), torch.full((PADDING,), -1))).to(DEVICE)
    batch = PagedBatch(
        (), *(case.batch.starts[:0],) * 3, None, BlockTables(memory, tables.to(DEVICE), starts, counts, sight)
    )
    return batch, [memory[index] for index in order]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("regime", [name for name in REGIMES if "prompt" not in name])
def test_attention_and_what_it_writes(regime: str, dtype: str) -> None:
    from paceline.kernels.decoder_triton import TritonOps

    case = Case(REGIMES[regime], DTYPES[dtype])
    batch, blocks = on_device(case)
    rows = len(case.qkv)
    pad = torch.zeros(PADDING, *case.qkv.shape[1:], dtype=case.qkv.dtype)
    cos, sin = (torch.cat((part, torch.zeros(PADDING, part.shape[1]))).to(DEVICE) for part in case.rope)
    qkv = torch.cat((case.qkv, pad)).to(DEVICE)
    ours = TritonOps("test").attend(qkv, case.regime.heads, (cos, sin), batch, layer=1)[:rows]
    theirs = case.attend(REFERENCE)
    bound = BOUNDS[dtype]
    torch.testing.assert_close(ours.cpu().float(), theirs.float(), atol=bound, rtol=bound)
    expected = [block for own in case.blocks for block in own]
    for mine, reference in zip(blocks, expected, strict=True):
        assert mine.shape == (LAYERS, case.regime.kv_heads, 2, BLOCK * case.regime.head_dim)
        torch.testing.assert_close(mine.cpu(), reference, atol=bound, rtol=bound, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 64), (5, 576), (3, 100), (0, 8)])
def test_add_rms_norm(rows: int, width: int, dtype: str) -> None:
    from paceline.kernels.decoder_triton import TritonOps

    noise = torch.Generator().manual_seed(0)
    x, delta = (torch.randn(rows, width, generator=noise).to(DTYPES[dtype]) for _ in range(2))
    weight = torch.rand(width, generator=noise).to(DTYPES[dtype])
    stream = x.clone().to(DEVICE)
    for added in (delta, None):
        ours = TritonOps("test").add_rms_norm(
            stream, None if added is None else added.to(DEVICE), weight.to(DEVICE), 1e-5
        )
        theirs = REFERENCE.add_rms_norm(x, added, weight, 1e-5)
        torch.testing.assert_close(ours.cpu(), theirs, atol=0, rtol=2e-6 if dtype == "float32" else 2**-6)
        torch.testing.assert_close(stream.cpu(), x, atol=0, rtol=0 if dtype == "float32" else 2**-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_mul_at_ordinary_and_extreme_gates(dtype: str) -> None:
    from paceline.kernels.decoder_triton import TritonOps

    gates = torch.cat((torch.linspace(-12, 12, 1100), torch.tensor([0.0, 90.0, -90.0, 1e4, -1e4])))
    both = torch.stack((torch.cat((gates, gates.flip(0))), torch.cat((gates, -gates)))).to(DTYPES[dtype])
    ours, theirs = TritonOps("test").silu_mul(both.to(DEVICE)), REFERENCE.silu_mul(both.clone())
    torch.testing.assert_close(ours.cpu(), theirs, atol=1e-30, rtol=4e-6 if dtype == "float32" else 2**-6)


def test_a_batch_without_tables_is_refused() -> None:
    from paceline.kernels.decoder_triton import TritonOps

    case = Case(REGIMES["inside a block"], torch.float32)
    with pytest.raises(ValueError, match="batch: has no tables"):
        case.attend(TritonOps("test"))
