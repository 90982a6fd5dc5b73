"""Rows times bfloat16 weights on a CPU that multiplies pairs of bfloat16 (AVX512_BF16: Zen 4, Cooper Lake and later).

Each thread reads its share of the weights once, four outputs at a time as they lie, and every block of rows meets them
while they are near; nothing is widened, and what comes next is fetched ahead. A row's result does not depend on how
many others there are, so what this computes of a verified draft is to the bit what plain decoding would have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from paceline.kernels.decoder_ops import LANES
from paceline.kernels.simd import FLOAT, I32, I64, VECTOR, at, compiled, store, sum_lanes
from paceline.kernels.team import Team

PAIRS = 2 * LANES  # weights of one instruction
BLOCK_ROWS = 4
OUTPUTS = 4  # weight rows that a task takes together
AHEAD = 2  # tasks whose weights are asked for before their turn
MOST_ROWS = 32  # beyond it torch's product, which blocks for the caches, is faster


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's type, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"


_CELLS = ir.VectorType(_BFloat(), PAIRS)


def _dots(rows: int, outputs: int) -> Any:
    """`dots` for so many rows of x and of the weights: their sums must fit the registers."""

    @intrinsic  # type: ignore[untyped-decorator]
    def dots(_: Any, out: Any, step: Any, weight: Any, x: Any, n: Any) -> Any:
        """out[rows, outputs] = x[rows, n] weight[outputs, n]^T: addresses; out float32, its rows `step` apart."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, step, weight, x, n = args
            kind = ir.FunctionType(VECTOR, [VECTOR, _CELLS, _CELLS])
            dot = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
            touch = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), I32, I32, I32])
            fetch = cgutils.get_or_insert_function(builder.module, touch, "llvm.prefetch.p0i8")
            cells = [builder.inttoptr(each, ir.IntType(16).as_pointer()) for each in (weight, x)]
            sums = [[cgutils.alloca_once(builder, VECTOR) for _ in range(outputs)] for _ in range(rows)]
            zero = ir.Constant(VECTOR, [0.0] * LANES)
            for total in (each for row in sums for each in row):
                builder.store(zero, total)
            with cgutils.for_range(builder, builder.sdiv(n, ir.Constant(I64, PAIRS))) as loop:
                first = builder.mul(loop.index, ir.Constant(I64, PAIRS))

                def pairs(base: Any, row: int) -> Any:
                    place = builder.add(first, builder.mul(n, ir.Constant(I64, row)))
                    pointer = builder.bitcast(builder.gep(base, [place]), _CELLS.as_pointer())
                    return builder.load(pointer, align=2)

                for output in range(outputs):  # streams this short end before the hardware follows them
                    ahead = builder.add(first, builder.mul(n, ir.Constant(I64, AHEAD * outputs + output)))
                    pointer = builder.bitcast(builder.gep(cells[0], [ahead]), ir.IntType(8).as_pointer())
                    builder.call(fetch, [pointer, *(ir.Constant(I32, each) for each in (0, 3, 1))])
                own = [pairs(cells[0], output) for output in range(outputs)]
                for row in range(rows):
                    held = pairs(cells[1], row)
                    for output in range(outputs):
                        total = sums[row][output]
                        builder.store(builder.call(dot, [builder.load(total), own[output], held]), total)
            results = builder.inttoptr(out, FLOAT.as_pointer())
            for row in range(rows):
                for output in range(outputs):
                    value = sum_lanes(builder, builder.load(sums[row][output]))
                    place = builder.add(builder.mul(step, ir.Constant(I64, row)), ir.Constant(I64, output))
                    builder.store(value, builder.gep(results, [place]))
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 5), generate

    return dots


_one, _two, _four = (_dots(rows, OUTPUTS) for rows in (1, 2, BLOCK_ROWS))


@compiled(3, 0, kinds=(np.uint16,))
def _multiply(task_at, worker, workers, kind):  # type: ignore[no-untyped-def]
    task = carray(at(task_at, np.int64(0)), (6,))
    x_at, weight_at, out_at, rows, inputs, outputs = task[0], task[1], task[2], task[3], task[4], task[5]
    out = carray(at(out_at, kind), (rows, outputs))
    some = np.empty(BLOCK_ROWS * OUTPUTS, np.float32)
    some_at = some.ctypes.data
    groups = outputs // OUTPUTS
    for group in range(worker * groups // workers, (worker + 1) * groups // workers):
        own_at = weight_at + 2 * group * OUTPUTS * inputs
        first = 0
        while first < rows:
            left = rows - first
            at_row = x_at + 2 * first * inputs
            # x has rows of zeros after its own, as many as a block may read beyond them.
            if left == 1:
                _one(some_at, OUTPUTS, own_at, at_row, inputs)
            elif left == 2:
                _two(some_at, OUTPUTS, own_at, at_row, inputs)
            else:
                _four(some_at, OUTPUTS, own_at, at_row, inputs)
            for row in range(min(left, BLOCK_ROWS)):
                for i in range(OUTPUTS):
                    out[first + row, group * OUTPUTS + i] = store(some[row * OUTPUTS + i], kind)
            first += BLOCK_ROWS


_TEAM = Team(_multiply)
_TEAM.prepare(torch.bfloat16)


def fits(weight: torch.Tensor) -> bool:
    """Whether `multiply` can take these weights, [outputs, inputs]."""
    outputs, inputs = weight.shape
    plain = weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and weight.is_contiguous()
    return plain and inputs % PAIRS == 0 and outputs % OUTPUTS == 0


def multiply(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x weight^T, summed in float32.

    Args:
        x: [rows, inputs] bfloat16, 1 to `MOST_ROWS` rows.
        weight: [outputs, inputs] bfloat16, as `fits` says.

    Returns:
        [rows, outputs] bfloat16.

    Raises:
        ValueError: `x` has another dtype or width.
    """
    rows, inputs = x.shape
    if x.dtype != torch.bfloat16 or inputs != weight.shape[1]:
        raise ValueError(f"x: {x.dtype} {tuple(x.shape)}; the weights are {weight.dtype} {tuple(weight.shape)}")
    if rows % BLOCK_ROWS != 3:
        padded = x.contiguous()
    else:
        padded = x.new_zeros(rows + 1, inputs)
        padded[:rows] = x
    out = x.new_empty(rows, len(weight))
    task = np.array((padded.data_ptr(), weight.data_ptr(), out.data_ptr(), rows, inputs, len(weight)), dtype=np.int64)
    _TEAM.run(task, x.dtype, rows * weight.numel())
    return out
