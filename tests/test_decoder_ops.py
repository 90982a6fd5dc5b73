"""The decoder's ops: the compiled twin against the reference, and the reference against the definition.

Which bug each regime of attention catches:
    first token     a cache that holds nothing yet
    inside a block  a start that is not a block's edge
    across blocks   rows that end one block and begin the next
    shuffled        blocks read in the order of memory, not of the table
    ragged          one sequence's rows, tables or lengths taken for another's
    long prompt     more rows than are attended together, the future not masked
    tree            rows that may not see each other; beside a prompt, whose rows all see the past
    one head        groups of one; group of five: rows that do not fill the kernel's four
Threads share the work bit for bit: a share that is left out or done by two shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from paceline.kernels import team
from paceline.kernels.decoder_numba import NumbaOps
from paceline.kernels.decoder_ops import BLOCK, DecoderOps, PagedBatch, decoder_ops
from paceline.kernels.decoder_torch import TorchOps, rotate

LAYERS = 2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TWIN, REFERENCE = NumbaOps("test", torch.bfloat16), TorchOps("test")


@dataclass(frozen=True)
class Regime:
    """Sequences as (positions held, rows), heads and their width, and for a tree the parent of each row."""

    sequences: tuple[tuple[int, int], ...]
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 32
    parents: tuple[int, ...] | None = None


REGIMES = {
    "first token": Regime(((0, 1),)),
    "inside a block": Regime(((21, 3),)),
    "across blocks": Regime(((30, 5),)),
    "ragged": Regime(((0, 9), (47, 1), (200, 7), (16, 16))),
    "long prompt": Regime(((5, 300), (0, 40))),
    "tree": Regime(((19, 6), (3, 2)), parents=(-1, 0, 0, 1, -1, 4, -1, -1)),
    "tree and prompt": Regime(((19, 6), (7, 90)), parents=(-1, 0, 0, 1, -1, 4)),
    "one head": Regime(((33, 4),), heads=1, kv_heads=1, head_dim=16),
    "group of five": Regime(((33, 3),), heads=5, kv_heads=1, head_dim=64),
}


def sight_of(regime: Regime) -> np.ndarray | None:
    if regime.parents is None:
        return None
    bits, row = [], 0
    for _, count in regime.sequences:
        own = regime.parents[row : row + count]
        if not own:
            bits += [-1] * count
        for index, parent in enumerate(own):
            bits.append((bits[row + parent] if parent >= 0 else 0) | (1 << index))
        row += count
    return np.array(bits, dtype=np.int64)


class Case:
    """A regime's operands; blocks lie shuffled in memory, and hold NaN where nothing was written."""

    def __init__(self, regime: Regime, dtype: torch.dtype) -> None:
        noise = torch.Generator().manual_seed(3)
        rows = sum(count for _, count in regime.sequences)
        self.regime = regime
        width = (LAYERS, regime.kv_heads, 2, BLOCK * regime.head_dim)
        needed = [-(-(start + count) // BLOCK) for start, count in regime.sequences]
        pool = torch.full((sum(needed), *width), float("nan"), dtype=dtype)
        order = iter(torch.randperm(sum(needed), generator=noise).tolist())
        self.blocks = [[pool[next(order)] for _ in range(count)] for count in needed]
        for own, (start, _) in zip(self.blocks, regime.sequences, strict=True):
            for at in range(start):
                inside = at % BLOCK
                block = own[at // BLOCK]
                block[:, :, 0].view(LAYERS, -1, regime.head_dim, BLOCK)[..., inside] = torch.randn(
                    LAYERS, regime.kv_heads, regime.head_dim, generator=noise
                )
                block[:, :, 1].view(LAYERS, -1, BLOCK, regime.head_dim)[:, :, inside] = torch.randn(
                    LAYERS, regime.kv_heads, regime.head_dim, generator=noise
                )
        self.qkv = torch.randn(rows, regime.heads + 2 * regime.kv_heads, regime.head_dim, generator=noise).to(dtype)
        angles = torch.rand(rows, regime.head_dim // 2, generator=noise) * 6
        self.rope = (angles.cos(), angles.sin())
        self.batch = PagedBatch(
            self.blocks,
            np.array([block.data_ptr() for own in self.blocks for block in own], dtype=np.int64),
            np.array([start for start, _ in regime.sequences], dtype=np.int64),
            np.array([count for _, count in regime.sequences], dtype=np.int64),
            sight_of(regime),
        )

    def attend(self, ops: DecoderOps) -> torch.Tensor:
        return ops.attend(self.qkv.clone(), self.regime.heads, self.rope, self.batch, layer=1)

    def held(self, layer: int) -> list[torch.Tensor]:
        """Each sequence's keys and values, [2, kv_heads, positions, head_dim]."""
        out = []
        for own, (start, count) in zip(self.blocks, self.regime.sequences, strict=True):
            parts = torch.stack([block[layer] for block in own], dim=1)
            shape = (self.regime.kv_heads, len(own), self.regime.head_dim, BLOCK)
            keys = parts[:, :, 0].view(shape).transpose(2, 3).reshape(self.regime.kv_heads, -1, self.regime.head_dim)
            values = parts[:, :, 1].reshape(self.regime.kv_heads, -1, self.regime.head_dim)
            out.append(torch.stack((keys, values))[:, :, : start + count])
        return out


def by_definition(case: Case) -> torch.Tensor:
    """Row by row, head by head, in float64, from the keys and values held afterwards."""
    regime = case.regime
    q = rotate(case.qkv[:, : regime.heads], case.rope).double()
    out, row = torch.zeros_like(q), 0
    for (start, count), held in zip(regime.sequences, case.held(1), strict=True):
        for r in range(count):
            if case.batch.sight is None or case.batch.sight[row + r] < 0:
                seen = list(range(start + r + 1))
            else:
                bits = int(case.batch.sight[row + r])
                seen = list(range(start)) + [start + j for j in range(count) if bits >> j & 1]
            for head in range(regime.heads):
                kv = head // (regime.heads // regime.kv_heads)
                keys, values = held[0, kv, seen].double(), held[1, kv, seen].double()
                law = (keys @ q[row + r, head] / regime.head_dim**0.5).softmax(0)
                out[row + r, head] = law @ values
        row += count
    return out.view(len(q), -1)


@pytest.mark.parametrize("ops", [TWIN, REFERENCE], ids=lambda ops: ops.name)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("regime", REGIMES)
def test_attention_is_the_definition(regime: str, dtype: str, ops: DecoderOps) -> None:
    case = Case(REGIMES[regime], DTYPES[dtype])
    untouched = [part.clone() for part in case.held(0)]
    attended = case.attend(ops)
    assert attended.dtype == DTYPES[dtype]
    bound = 1e-5 if dtype == "float32" else 2**-7
    torch.testing.assert_close(attended.double(), by_definition(case), atol=bound, rtol=bound)
    for before, after in zip(untouched, case.held(0), strict=True):
        assert torch.equal(before.nan_to_num(), after.nan_to_num())  # the other layer's part


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("regime", REGIMES)
def test_threads_share_the_work(regime: str, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Case(REGIMES[regime], torch.bfloat16).attend(TWIN)
    monkeypatch.setattr(team, "ALONE", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: workers)
    assert torch.equal(Case(REGIMES[regime], torch.bfloat16).attend(TWIN), alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("regime", REGIMES)
def test_both_write_the_same_keys_and_values(regime: str, dtype: str) -> None:
    ours, theirs = Case(REGIMES[regime], DTYPES[dtype]), Case(REGIMES[regime], DTYPES[dtype])
    ours.attend(TWIN)
    theirs.attend(REFERENCE)
    bound = 1e-6 if dtype == "float32" else 2**-7  # a fused multiplication rounds once less
    for mine, reference in zip(ours.held(1), theirs.held(1), strict=True):
        torch.testing.assert_close(mine, reference, atol=bound, rtol=bound)


@pytest.mark.parametrize("ops", [TWIN, REFERENCE], ids=lambda ops: ops.name)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 64), (5, 576), (3, 100)])
def test_add_rms_norm(rows: int, width: int, dtype: str, ops: DecoderOps) -> None:
    noise = torch.Generator().manual_seed(0)
    x, delta = (torch.randn(rows, width, generator=noise).to(DTYPES[dtype]) for _ in range(2))
    weight = torch.rand(width, generator=noise).to(DTYPES[dtype])
    total = (x.double() + delta.double()).to(DTYPES[dtype])
    normed = ops.add_rms_norm(x, delta, weight, 1e-5)
    assert torch.equal(x, total)
    exact = total.double() * torch.rsqrt(total.double().square().mean(-1, keepdim=True) + 1e-5) * weight.double()
    bound = 1e-6 if dtype == "float32" else 2**-7
    torch.testing.assert_close(normed.double(), exact, atol=0, rtol=bound)
    assert torch.equal(ops.add_rms_norm(x, None, weight, 1e-5), normed)
    assert torch.equal(x, total)


@pytest.mark.parametrize("ops", [TWIN, REFERENCE], ids=lambda ops: ops.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_mul_at_ordinary_and_extreme_gates(dtype: str, ops: DecoderOps) -> None:
    gates = torch.cat((torch.linspace(-12, 12, 41), torch.tensor([0.0, -0.0, 90.0, -90.0, 1e4, -1e4, 3e38, -3e38])))
    ups = torch.cat((torch.linspace(2, -2, 41), torch.tensor([1.0, 1.0, 0.5, 0.5, 2.0, 2.0, 1.0, 1.0])))
    both = torch.stack((torch.cat((gates, ups)), torch.cat((gates, -ups)))).to(DTYPES[dtype])
    gate, up = both.double().chunk(2, dim=-1)
    exact = gate * gate.sigmoid() * up
    tiny = 1e-30  # a sigmoid of e^-87 is taken for that of less
    torch.testing.assert_close(
        ops.silu_mul(both.clone()).double().nan_to_num(),
        exact.nan_to_num(),
        atol=tiny,
        rtol=4e-6 if dtype == "float32" else 2**-7,
    )


@pytest.mark.parametrize(
    ("dtype", "head_dim", "name", "reason"),
    [
        (torch.bfloat16, 64, "numba", "bfloat16 on a CPU"),
        (torch.float32, 16, "numba", "float32 on a CPU"),
        (torch.float16, 64, "torch", "float16 on a CPU"),
        (torch.float32, 8, "torch", "head_dim 8 is not a multiple of 16"),
    ],
)
def test_the_choice_carries_its_reason(dtype: torch.dtype, head_dim: int, name: str, reason: str) -> None:
    ops = decoder_ops(torch.device("cpu"), dtype, head_dim)
    assert ops.name == name
    assert reason in ops.reason
