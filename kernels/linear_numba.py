"""A few rows times bfloat16 weights on a CPU, as fast as the weights can be read.

Each thread reads its share of the weights once, row by row as they lie, four outputs at a time: every sixteen weights
are widened once and meet all rows. torch's own product takes a quarter longer for so few rows.
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
from paceline.kernels.simd import FAST, FLOAT, I32, I64, VECTOR, at, compiled, load, store, sum_lanes
from paceline.kernels.team import Team

MOST_ROWS = 4
OUTPUTS = 4  # weight rows read side by side
_CELLS = ir.VectorType(ir.IntType(16), LANES)
_SHIFT = ir.Constant(ir.VectorType(I32, LANES), [16] * LANES)


def _dots(rows: int) -> Any:
    """`dots` for so many rows of x."""

    @intrinsic  # type: ignore[untyped-decorator]
    def dots(_: Any, out: Any, weight: Any, x: Any, n: Any) -> Any:
        """out[rows, OUTPUTS] = x[rows, n] weight[OUTPUTS, n]^T: addresses; x and out float32, weight bfloat16."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, weight, x, n = args
            cells = builder.inttoptr(weight, ir.IntType(16).as_pointer())
            values = builder.inttoptr(x, FLOAT.as_pointer())
            sums = [[cgutils.alloca_once(builder, VECTOR) for _ in range(OUTPUTS)] for _ in range(rows)]
            zero = ir.Constant(VECTOR, [0.0] * LANES)
            for total in (each for row in sums for each in row):
                builder.store(zero, total)
            with cgutils.for_range(builder, builder.sdiv(n, ir.Constant(I64, LANES))) as loop:
                first = builder.mul(loop.index, ir.Constant(I64, LANES))
                wide = []
                for output in range(OUTPUTS):
                    place = builder.add(first, builder.mul(n, ir.Constant(I64, output)))
                    pointer = builder.bitcast(builder.gep(cells, [place]), _CELLS.as_pointer())
                    bits = builder.zext(builder.load(pointer, align=2), ir.VectorType(I32, LANES))
                    wide.append(builder.bitcast(builder.shl(bits, _SHIFT), VECTOR))
                for row in range(rows):
                    place = builder.add(first, builder.mul(n, ir.Constant(I64, row)))
                    own = builder.load(builder.bitcast(builder.gep(values, [place]), VECTOR.as_pointer()), align=4)
                    for output in range(OUTPUTS):
                        product = builder.fmul(own, wide[output], flags=FAST)
                        total = builder.fadd(product, builder.load(sums[row][output]), flags=FAST)
                        builder.store(total, sums[row][output])
            results = builder.inttoptr(out, FLOAT.as_pointer())
            for row in range(rows):
                for output in range(OUTPUTS):
                    value = sum_lanes(builder, builder.load(sums[row][output]))
                    builder.store(value, builder.gep(results, [ir.Constant(I64, row * OUTPUTS + output)]))
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 4), generate

    return dots


_one, _two, _three, _four = (_dots(rows) for rows in range(1, MOST_ROWS + 1))


@compiled(3, 0, kinds=(np.uint16,))
def _multiply(task_at, worker, workers, kind):  # type: ignore[no-untyped-def]
    task = carray(at(task_at, np.int64(0)), (6,))
    x_at, weight_at, out_at, rows, inputs, outputs = task[0], task[1], task[2], task[3], task[4], task[5]
    x = carray(at(x_at, kind), (rows * inputs,))
    out = carray(at(out_at, kind), (rows, outputs))
    wide = np.empty(rows * inputs, np.float32)
    for i in range(rows * inputs):
        wide[i] = load(x[i])
    some = np.empty(MOST_ROWS * OUTPUTS, np.float32)
    groups = outputs // OUTPUTS
    for group in range(worker * groups // workers, (worker + 1) * groups // workers):
        own_at = weight_at + 2 * group * OUTPUTS * inputs
        if rows == 1:
            _one(some.ctypes.data, own_at, wide.ctypes.data, inputs)
        elif rows == 2:
            _two(some.ctypes.data, own_at, wide.ctypes.data, inputs)
        elif rows == 3:
            _three(some.ctypes.data, own_at, wide.ctypes.data, inputs)
        else:
            _four(some.ctypes.data, own_at, wide.ctypes.data, inputs)
        for row in range(rows):
            for i in range(OUTPUTS):
                out[row, group * OUTPUTS + i] = store(some[row * OUTPUTS + i], kind)


_TEAM = Team(_multiply)
_TEAM.prepare(torch.bfloat16)


def fits(weight: torch.Tensor) -> bool:
    """Whether `multiply` can take these weights, [outputs, inputs]."""
    outputs, inputs = weight.shape
    plain = weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and weight.is_contiguous()
    return plain and inputs % LANES == 0 and outputs % OUTPUTS == 0


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
    x = x.contiguous()
    out = x.new_empty(rows, len(weight))
    task = np.array((x.data_ptr(), weight.data_ptr(), out.data_ptr(), rows, inputs, len(weight)), dtype=np.int64)
    _TEAM.run(task, x.dtype, rows * weight.numel())
    return out
