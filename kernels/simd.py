"""What numba's kernels on a CPU are written in: elements of either dtype, and one small product as vector code.

Numba's own loops become vectors where they are plain; reductions over 64 values, comparisons of floats and conversions
of bfloat16 do not, so they are said here as the compiler's instructions. Compiled kernels are kept beside the files
that define them, under those files' dates: who changes this file has to touch them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype

from paceline.kernels.decoder_ops import LANES

ROWS = 4  # rows of A in `multiply_add`
LEAST = np.float32(-87.0)  # e to it is near the least float32

FLOAT, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)
FAST = ("fast",)

# `kind`, a zero of the element type, tells float32 (a float32) from bfloat16 (its bits, a uint16): one source, two
# signatures, which numba's cache on disk can tell apart.
KINDS = {torch.float32: np.float32(0.0), torch.bfloat16: np.uint16(0)}


def multiplies_pairs() -> bool:
    """Whether this CPU has an instruction for products of pairs of bfloat16."""
    return bool(binding.get_host_cpu_features().get("avx512bf16"))


@intrinsic  # type: ignore[untyped-decorator]
def at(_: Any, address: Any, kind: Any) -> Any:
    """A pointer to elements of `kind`, from an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind)(address, kind), generate


@intrinsic  # type: ignore[untyped-decorator]
def address(_: Any, pointer: Any) -> Any:
    """A pointer as an integer."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], I64)

    return types.int64(pointer), generate


@intrinsic  # type: ignore[untyped-decorator]
def load(_: Any, value: Any) -> Any:
    """An element as float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if isinstance(signature.args[0], types.Float):
            return args[0]
        return builder.bitcast(builder.shl(builder.zext(args[0], I32), ir.Constant(I32, 16)), FLOAT)

    return types.float32(value), generate


@intrinsic  # type: ignore[untyped-decorator]
def rank(_: Any, value: Any) -> Any:
    """An int32 that orders elements as their values do, infinities included: comparing floats stays scalar."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if isinstance(signature.args[0], types.Float):
            bits = builder.bitcast(args[0], I32)
        else:
            bits = builder.shl(builder.zext(args[0], I32), ir.Constant(I32, 16))
        sign = builder.ashr(bits, ir.Constant(I32, 31))
        rank = builder.xor(bits, builder.and_(sign, ir.Constant(I32, 0x7FFFFFFF)))
        minus_zero = builder.icmp_unsigned("==", bits, ir.Constant(I32, 0x80000000))
        return builder.select(minus_zero, ir.Constant(I32, 0), rank)

    return types.int32(value), generate


@intrinsic  # type: ignore[untyped-decorator]
def store(_: Any, value: Any, kind: Any) -> Any:
    """A float32 as an element of `kind`, rounded to nearest even."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if isinstance(signature.return_type, types.Float):
            return args[0]
        bits = builder.bitcast(args[0], I32)
        odd = builder.and_(builder.lshr(bits, ir.Constant(I32, 16)), ir.Constant(I32, 1))
        rounded = builder.add(builder.add(bits, ir.Constant(I32, 0x7FFF)), odd)
        return builder.trunc(builder.lshr(rounded, ir.Constant(I32, 16)), ir.IntType(16))

    return kind(types.float32, kind), generate


@intrinsic  # type: ignore[untyped-decorator]
def power_of_two(_: Any, exponent: Any) -> Any:
    """2 ** exponent, as float32, from an int32 of -126 to 127."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        biased = builder.add(args[0], ir.Constant(I32, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(I32, 23)), FLOAT)

    return types.float32(types.int32), generate


def sum_lanes(builder: Any, total: Any) -> Any:
    """In an intrinsic: the sum of a VECTOR's elements, the upper half folded onto the lower until one is left."""
    width = LANES
    while width > 1:
        width //= 2
        undefined = ir.Constant(total.type, ir.Undefined)
        low, high = (
            builder.shuffle_vector(
                total, undefined, ir.Constant(ir.VectorType(I32, width), list(range(start, start + width)))
            )
            for start in (0, width)
        )
        total = builder.fadd(low, high, flags=FAST)
    return builder.extract_element(total, ir.Constant(I32, 0))


@intrinsic  # type: ignore[untyped-decorator]
def multiply_add(_: Any, c: Any, c_step: Any, a: Any, a_step: Any, b: Any, b_step: Any, n: Any, kind: Any) -> Any:
    """C[ROWS, LANES] += A[ROWS, n] B[n, LANES]: C and A float32, B of `kind`; addresses, and steps in elements."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        c, c_step, a, a_step, b, b_step, n, _ = args
        narrow = not isinstance(signature.args[7], types.Float)
        cell = ir.IntType(16) if narrow else FLOAT
        undefined, zeros = ir.Constant(VECTOR, ir.Undefined), ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)
        a, b = builder.inttoptr(a, FLOAT.as_pointer()), builder.inttoptr(b, cell.as_pointer())
        c = builder.inttoptr(c, FLOAT.as_pointer())
        steps = [ir.Constant(I64, row) for row in range(ROWS)]
        rows = [builder.bitcast(builder.gep(c, [builder.mul(c_step, s)]), VECTOR.as_pointer()) for s in steps]
        sums = [cgutils.alloca_once(builder, VECTOR) for _ in rows]  # registers, once optimised
        for row, total in zip(rows, sums, strict=True):
            builder.store(builder.load(row, align=4), total)
        with cgutils.for_range(builder, n) as loop:
            pointer = builder.gep(b, [builder.mul(loop.index, b_step)])
            pointer = builder.bitcast(pointer, ir.VectorType(cell, LANES).as_pointer())
            wide = builder.load(pointer, align=2 if narrow else 4)
            if narrow:
                wide = builder.zext(wide, ir.VectorType(I32, LANES))
                sixteen = ir.Constant(ir.VectorType(I32, LANES), [16] * LANES)
                wide = builder.bitcast(builder.shl(wide, sixteen), VECTOR)
            for step, total in zip(steps, sums, strict=True):
                factor = builder.load(builder.gep(a, [builder.add(builder.mul(a_step, step), loop.index)]))
                factor = builder.insert_element(undefined, factor, ir.Constant(I32, 0))
                product = builder.fmul(builder.shuffle_vector(factor, undefined, zeros), wide, flags=FAST)
                builder.store(builder.fadd(product, builder.load(total), flags=FAST), total)
        for row, total in zip(rows, sums, strict=True):
            builder.store(builder.load(total), row, align=4)
        return context.get_dummy_value()

    steps = (types.int64,) * 7
    return types.void(*steps, kind), generate


@njit(inline="always", fastmath=True)  # type: ignore[untyped-decorator]
def exp(x: Any) -> Any:
    """e ** x for x up to 87, within 2e-7 of it: Cephes' polynomial, which compiles to vectors where a call does not."""
    x = x if x > LEAST else LEAST
    whole = np.int32(x * np.float32(1.44269504) + np.float32(200.5)) - np.int32(200)
    n = np.float32(whole)
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    return (p * r * r + r + np.float32(1.0)) * power_of_two(np.int32(whole))


def compiled(
    integers: int, floats: int, kinds: Sequence[Any] = (np.float32, np.uint16)
) -> Callable[[Callable[..., None]], Any]:
    """Compile for some kinds: so many int64, so many float32, then the kind."""
    numbers = [types.int64] * integers + [types.float32] * floats
    signatures = [types.void(*numbers, from_dtype(np.dtype(kind))) for kind in kinds]
    # Python's division checks for zero, which keeps loops from becoming vectors.
    return njit(signatures, fastmath=True, error_model="numpy", nogil=True, cache=True)  # type: ignore[no-any-return]
