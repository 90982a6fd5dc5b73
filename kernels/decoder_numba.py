"""The decoder's ops on a CPU, compiled by numba: twins of `TorchOps`, in float32 within, rounded once at the end.

One call does what takes torch five to fifteen: the residual addition with its norm, the gate, and attention together
with rotation and the writing of keys and values. Attention is one small product, C[4, 16] += A[4, n] B[n, 16], over
blocks laid out for it: four queries meet the keys of sixteen positions, or their probabilities sixteen dimensions of
the values. Compiled code is kept beside this file, or in numba's cache folder, for the next start.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from paceline.kernels.decoder_ops import BLOCK, LANES, PagedBatch

ROWS = 4  # queries that share one read of keys and values
QUERIES = 32  # rows of a prompt attended together: bounds the scores' memory, and skips most of the future
FEW = 4  # of a draft: so that several workers have something to do
PART = 1024  # of a vocabulary, whose largest value is found as vectors; only the winning part is searched for its id
ALONE = 400_000  # products of queries and keys that one thread does sooner than two have met

_FLOAT, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_FAST = ("fast",)
_LEAST = np.float32(-87.0)  # e to it is near the least float32

# `kind`, a zero of the element type, tells float32 (a float32) from bfloat16 (its bits, a uint16): one source, two
# signatures, which numba's cache on disk can tell apart.


@intrinsic  # type: ignore[untyped-decorator]
def _at(_: Any, address: Any, kind: Any) -> Any:
    """A pointer to elements of `kind`, from an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind)(address, kind), generate


@intrinsic  # type: ignore[untyped-decorator]
def _address(_: Any, pointer: Any) -> Any:
    """A pointer as an integer."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], _I64)

    return types.int64(pointer), generate


@intrinsic  # type: ignore[untyped-decorator]
def _load(_: Any, value: Any) -> Any:
    """An element as float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if isinstance(signature.args[0], types.Float):
            return args[0]
        return builder.bitcast(builder.shl(builder.zext(args[0], _I32), ir.Constant(_I32, 16)), _FLOAT)

    return types.float32(value), generate


@intrinsic  # type: ignore[untyped-decorator]
def _rank(_: Any, value: Any) -> Any:
    """An int32 that orders elements as their values do, infinities included: comparing floats stays scalar."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if isinstance(signature.args[0], types.Float):
            bits = builder.bitcast(args[0], _I32)
        else:
            bits = builder.shl(builder.zext(args[0], _I32), ir.Constant(_I32, 16))
        sign = builder.ashr(bits, ir.Constant(_I32, 31))
        rank = builder.xor(bits, builder.and_(sign, ir.Constant(_I32, 0x7FFFFFFF)))
        minus_zero = builder.icmp_unsigned("==", bits, ir.Constant(_I32, 0x80000000))
        return builder.select(minus_zero, ir.Constant(_I32, 0), rank)

    return types.int32(value), generate


@intrinsic  # type: ignore[untyped-decorator]
def _store(_: Any, value: Any, kind: Any) -> Any:
    """A float32 as an element of `kind`, rounded to nearest even."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if isinstance(signature.return_type, types.Float):
            return args[0]
        bits = builder.bitcast(args[0], _I32)
        odd = builder.and_(builder.lshr(bits, ir.Constant(_I32, 16)), ir.Constant(_I32, 1))
        rounded = builder.add(builder.add(bits, ir.Constant(_I32, 0x7FFF)), odd)
        return builder.trunc(builder.lshr(rounded, ir.Constant(_I32, 16)), ir.IntType(16))

    return kind(types.float32, kind), generate


@intrinsic  # type: ignore[untyped-decorator]
def _power_of_two(_: Any, exponent: Any) -> Any:
    """2 ** exponent, as float32, from an int32 of -126 to 127."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        biased = builder.add(args[0], ir.Constant(_I32, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(_I32, 23)), _FLOAT)

    return types.float32(types.int32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _multiply_add(_: Any, c: Any, c_step: Any, a: Any, a_step: Any, b: Any, b_step: Any, n: Any, kind: Any) -> Any:
    """C[ROWS, LANES] += A[ROWS, n] B[n, LANES]: C and A float32, B of `kind`; addresses, and steps in elements."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        c, c_step, a, a_step, b, b_step, n, _ = args
        narrow = not isinstance(signature.args[7], types.Float)
        cell = ir.IntType(16) if narrow else _FLOAT
        undefined, zeros = ir.Constant(_VECTOR, ir.Undefined), ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
        a, b = builder.inttoptr(a, _FLOAT.as_pointer()), builder.inttoptr(b, cell.as_pointer())
        c = builder.inttoptr(c, _FLOAT.as_pointer())
        steps = [ir.Constant(_I64, row) for row in range(ROWS)]
        rows = [builder.bitcast(builder.gep(c, [builder.mul(c_step, s)]), _VECTOR.as_pointer()) for s in steps]
        sums = [cgutils.alloca_once(builder, _VECTOR) for _ in rows]  # registers, once optimised
        for row, total in zip(rows, sums, strict=True):
            builder.store(builder.load(row, align=4), total)
        with cgutils.for_range(builder, n) as loop:
            pointer = builder.gep(b, [builder.mul(loop.index, b_step)])
            pointer = builder.bitcast(pointer, ir.VectorType(cell, LANES).as_pointer())
            wide = builder.load(pointer, align=2 if narrow else 4)
            if narrow:
                wide = builder.zext(wide, ir.VectorType(_I32, LANES))
                sixteen = ir.Constant(ir.VectorType(_I32, LANES), [16] * LANES)
                wide = builder.bitcast(builder.shl(wide, sixteen), _VECTOR)
            for step, total in zip(steps, sums, strict=True):
                factor = builder.load(builder.gep(a, [builder.add(builder.mul(a_step, step), loop.index)]))
                factor = builder.insert_element(undefined, factor, ir.Constant(_I32, 0))
                product = builder.fmul(builder.shuffle_vector(factor, undefined, zeros), wide, flags=_FAST)
                builder.store(builder.fadd(product, builder.load(total), flags=_FAST), total)
        for row, total in zip(rows, sums, strict=True):
            builder.store(builder.load(total), row, align=4)
        return context.get_dummy_value()

    steps = (types.int64,) * 7
    return types.void(*steps, kind), generate


@njit(inline="always", fastmath=True)  # type: ignore[untyped-decorator]
def _exp(x: Any) -> Any:
    """e ** x for x up to 87, within 2e-7 of it: Cephes' polynomial, which compiles to vectors where a call does not."""
    x = x if x > _LEAST else _LEAST
    whole = np.int32(x * np.float32(1.44269504) + np.float32(200.5)) - np.int32(200)
    n = np.float32(whole)
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    return (p * r * r + r + np.float32(1.0)) * _power_of_two(np.int32(whole))


def _compiled(integers: int, floats: int) -> Callable[[Callable[..., None]], Any]:
    """Compile for both kinds: so many int64, so many float32, then the kind."""
    signatures = [
        types.void(*[types.int64] * integers, *[types.float32] * floats, kind) for kind in (types.float32, types.uint16)
    ]
    # Python's division checks for zero, which keeps loops from becoming vectors.
    return njit(signatures, fastmath=True, error_model="numpy", nogil=True, cache=True)  # type: ignore[no-any-return]


@_compiled(6, 1)
def _add_rms_norm(x_at, delta_at, weight_at, out_at, rows, width, eps, kind):  # type: ignore[no-untyped-def]
    x, out = carray(_at(x_at, kind), (rows, width)), carray(_at(out_at, kind), (rows, width))
    weight = carray(_at(weight_at, kind), (width,))
    exact = np.empty(width, np.float32)
    for row in range(rows):
        squares = np.float32(0.0)
        if delta_at:
            delta = carray(_at(delta_at, kind), (rows, width))
            for i in range(width):
                x[row, i] = _store(_load(x[row, i]) + _load(delta[row, i]), kind)
        for i in range(width):
            exact[i] = _load(x[row, i])
            squares += exact[i] * exact[i]
        scale = np.float32(1.0) / np.sqrt(squares / np.float32(width) + eps)
        for i in range(width):
            out[row, i] = _store(exact[i] * scale * _load(weight[i]), kind)


@_compiled(4, 0)
def _silu_mul(gate_up_at, out_at, rows, width, kind):  # type: ignore[no-untyped-def]
    both, out = carray(_at(gate_up_at, kind), (rows, 2 * width)), carray(_at(out_at, kind), (rows, width))
    for row in range(rows):
        for i in range(width):
            gate, up = _load(both[row, i]), _load(both[row, width + i])
            gated = gate * up / (np.float32(1.0) + _exp(-gate if gate > _LEAST else -_LEAST))
            out[row, i] = _store(np.float32(0.0) if gate < _LEAST else gated, kind)


@_compiled(13, 0)
def _rotate_and_write(  # type: ignore[no-untyped-def]
    qkv_at,
    cos_at,
    sin_at,
    tables_at,
    starts_at,
    counts_at,
    sequences,
    heads,
    kv_heads,
    dim,
    offset,
    size,
    rows,
    kind,
):
    """Rotate queries and keys in place; keys and values to their blocks, `offset` bytes into each."""
    half = dim // 2
    qkv = carray(_at(qkv_at, kind), (rows, heads + 2 * kv_heads, dim))
    cos = carray(_at(cos_at, np.float32(0.0)), (rows, half))
    sin = carray(_at(sin_at, np.float32(0.0)), (rows, half))
    starts = carray(_at(starts_at, np.int64(0)), (sequences,))
    counts = carray(_at(counts_at, np.int64(0)), (sequences,))
    row = 0
    table_at = tables_at
    for s in range(sequences):
        used = (starts[s] + counts[s] + BLOCK - 1) // BLOCK
        table = carray(_at(table_at, np.int64(0)), (used,))
        for r in range(counts[s]):
            for head in range(heads + kv_heads):
                for i in range(half):
                    a, b = _load(qkv[row, head, i]), _load(qkv[row, head, half + i])
                    qkv[row, head, i] = _store(a * cos[row, i] - b * sin[row, i], kind)
                    qkv[row, head, half + i] = _store(b * cos[row, i] + a * sin[row, i], kind)
            slot = (starts[s] + r) % BLOCK
            block_at = table[(starts[s] + r) // BLOCK] + offset
            for head in range(kv_heads):
                keys_at = block_at + 2 * head * BLOCK * dim * size
                keys = carray(_at(keys_at, kind), (dim, BLOCK))
                values = carray(_at(keys_at + BLOCK * dim * size, kind), (BLOCK, dim))
                for i in range(dim):
                    keys[i, slot] = qkv[row, heads + head, i]
                    values[slot, i] = qkv[row, heads + kv_heads + head, i]
            row += 1
        table_at += 8 * used


@_compiled(3, 0)
def _attend(task_at, worker, workers, kind):  # type: ignore[no-untyped-def]
    """Softmax attention of rotated queries over the blocks: one worker's share of the rows and key heads."""
    task = carray(_at(task_at, np.int64(0)), (13,))
    qkv_at, out_at, tables_at, starts_at = task[0], task[1], task[2], task[3]
    counts_at, sight_at, sequences, heads = task[4], task[5], task[6], task[7]
    kv_heads, dim, offset, size, rows = task[8], task[9], task[10], task[11], task[12]
    unit = -1
    group = heads // kv_heads
    qkv = carray(_at(qkv_at, kind), (rows, heads + 2 * kv_heads, dim))
    out = carray(_at(out_at, kind), (rows, heads, dim))
    starts = carray(_at(starts_at, np.int64(0)), (sequences,))
    counts = carray(_at(counts_at, np.int64(0)), (sequences,))
    scale = np.float32(1.0) / np.sqrt(np.float32(dim))
    row = 0
    table_at = tables_at
    for s in range(sequences):
        start, count = starts[s], counts[s]
        used = (start + count + BLOCK - 1) // BLOCK
        table = carray(_at(table_at, np.int64(0)), (used,))
        most = QUERIES if count > QUERIES else FEW
        for first in range(0, count, most):
            n = min(most, count - first)
            end = start + count if sight_at else start + first + n  # positions that any of these rows sees
            blocks = (end + BLOCK - 1) // BLOCK
            width = blocks * BLOCK
            queries = group * n
            padded = (queries + ROWS - 1) // ROWS * ROWS
            q = np.zeros((padded, dim), np.float32)
            scores = np.empty((padded, width), np.float32)
            sums = np.empty((padded, dim), np.float32)
            for kv_head in range(kv_heads):
                unit += 1
                if unit % workers != worker:
                    continue
                for x in range(queries):
                    for i in range(dim):
                        q[x, i] = _load(qkv[row + first + x % n, kv_head * group + x // n, i]) * scale
                scores[:] = np.float32(0.0)
                sums[:] = np.float32(0.0)
                keys_at = offset + 2 * kv_head * BLOCK * dim * size
                for block in range(blocks):
                    for x in range(0, padded, ROWS):
                        _multiply_add(
                            scores.ctypes.data + 4 * (x * width + block * BLOCK), width,
                            q.ctypes.data + 4 * x * dim, dim,
                            table[block] + keys_at, BLOCK, dim, kind,
                        )  # fmt: skip
                for x in range(queries):
                    r = first + x % n
                    live = start + r + 1
                    seen = carray(_at(sight_at, np.int64(0)), (rows,))[row + r] if sight_at else -1
                    if seen >= 0:
                        live = end
                        for j in range(count):
                            if not (seen >> j) & 1:
                                scores[x, start + j] = np.float32(-1e30)
                    top = np.float32(-1e30)
                    for j in range(live):
                        top = scores[x, j] if scores[x, j] > top else top
                    total = np.float32(0.0)
                    for j in range(live):
                        scores[x, j] = _exp(scores[x, j] - top)
                        total += scores[x, j]
                    inverse = np.float32(1.0) / total
                    for j in range(live):
                        scores[x, j] *= inverse
                    scores[x, live:] = np.float32(0.0)
                for block in range(blocks):
                    inside = min(BLOCK, end - block * BLOCK)
                    values_at = table[block] + keys_at + BLOCK * dim * size
                    for x in range(0, padded, ROWS):
                        for i in range(0, dim, LANES):
                            _multiply_add(
                                sums.ctypes.data + 4 * (x * dim + i), dim,
                                scores.ctypes.data + 4 * (x * width + block * BLOCK), width,
                                values_at + i * size, dim, inside, kind,
                            )  # fmt: skip
                for x in range(queries):
                    for i in range(dim):
                        out[row + first + x % n, kv_head * group + x // n, i] = _store(sums[x, i], kind)
        row += count
        table_at += 8 * used


@_compiled(4, 0)
def _argmax_rows(logits_at, out_at, rows, vocab, kind):  # type: ignore[no-untyped-def]
    logits = carray(_at(logits_at, kind), (rows, vocab))
    out = carray(_at(out_at, np.int64(0)), (rows,))
    for row in range(rows):
        best, place = np.int32(-(2**31)), 0
        for first in range(0, vocab, PART):
            top = np.int32(-(2**31))
            for i in range(first, min(first + PART, vocab)):
                rank = _rank(logits[row, i])
                top = rank if rank > top else top
            if top > best:
                best, place = top, first
        out[row] = 0
        for i in range(place, min(place + PART, vocab)):
            if _rank(logits[row, i]) == best:
                out[row] = i
                break


def argmax_rows(logits: torch.Tensor) -> torch.Tensor:
    """Twin of `law.likeliest` for float32 and bfloat16 on a CPU."""
    logits = logits.contiguous()
    out = torch.empty(len(logits), dtype=torch.int64)
    _argmax_rows(logits.data_ptr(), out.data_ptr(), *logits.shape, _KINDS[logits.dtype])
    return out


class _Team:
    """Runs `_attend` on the OpenMP threads that torch multiplies on; on the caller's where there are none to be had."""

    def __init__(self) -> None:
        try:
            openmp = ctypes.CDLL("libgomp.so.1")  # torch's own: it is loaded already, and found by its name
            own, all_ = openmp.omp_get_thread_num, openmp.omp_get_num_threads
            self._start = openmp.GOMP_parallel
        except (OSError, AttributeError):  # another OpenMP, or none
            self._entries: dict[Any, Any] = {}
            return
        own.argtypes = all_.argtypes = []
        own.restype = all_.restype = ctypes.c_int
        self._start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._start.restype = None

        def entry(kind: Any) -> Any:
            def run(task: Any) -> None:
                _attend(_address(task), own(), all_(), kind)

            return cfunc(types.void(types.voidptr))(run)

        self._entries = {dtype: entry(kind) for dtype, kind in _KINDS.items()}

    def attend(self, task: Any, dtype: torch.dtype, work: int) -> None:
        """Attend, on as many threads as the work is worth."""
        workers = torch.get_num_threads()
        if work < ALONE or workers == 1 or not self._entries:
            _attend(task.ctypes.data, 0, 1, _KINDS[dtype])
        else:
            self._start(self._entries[dtype].address, task.ctypes.data, workers, 0)


@functools.cache
def _team() -> _Team:
    return _Team()


class NumbaOps:
    """`DecoderOps` for float32 and bfloat16 on a CPU; head_dim a multiple of `LANES`."""

    name = "numba"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self._team = _team()

    def add_rms_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """See `DecoderOps`."""
        out = torch.empty_like(x)
        delta_at = 0 if delta is None else delta.data_ptr()
        rows, width = x.shape
        _add_rms_norm(x.data_ptr(), delta_at, weight.data_ptr(), out.data_ptr(), rows, width, eps, _KINDS[x.dtype])
        return out

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `DecoderOps`."""
        rows, width = gate_up.shape
        out = gate_up.new_empty(rows, width // 2)
        _silu_mul(gate_up.data_ptr(), out.data_ptr(), rows, width // 2, _KINDS[gate_up.dtype])
        return out

    def attend(
        self, qkv: torch.Tensor, heads: int, rope: tuple[torch.Tensor, torch.Tensor], batch: PagedBatch, layer: int
    ) -> torch.Tensor:
        """See `DecoderOps`. `qkv` is used up: its queries and keys are rotated in place."""
        rows, all_heads, head_dim = qkv.shape
        kv_heads = (all_heads - heads) // 2
        size = qkv.element_size()
        offset = layer * kv_heads * 2 * BLOCK * head_dim * size  # bytes from a block's address to its layer
        kind = _KINDS[qkv.dtype]
        tables, starts, counts = batch.addresses.ctypes.data, batch.starts.ctypes.data, batch.counts.ctypes.data
        sight = 0 if batch.sight is None else batch.sight.ctypes.data
        shape = (len(batch.starts), heads, kv_heads, head_dim, offset, size, rows)
        cos, sin = rope
        out = qkv.new_empty(rows, heads * head_dim)
        _rotate_and_write(qkv.data_ptr(), cos.data_ptr(), sin.data_ptr(), tables, starts, counts, *shape, kind)
        task = np.array((qkv.data_ptr(), out.data_ptr(), tables, starts, counts, sight, *shape), dtype=np.int64)
        work = heads * head_dim * int(np.dot(batch.counts, batch.starts + batch.counts))
        self._team.attend(task, qkv.dtype, work)
        return out


_KINDS = {torch.float32: np.float32(0.0), torch.bfloat16: np.uint16(0)}
