"""The decoder's ops on a CPU, compiled by numba: twins of `TorchOps`, in float32 within, rounded once at the end.

One call does what takes torch five to fifteen: the residual addition with its norm, the gate, and attention together
with rotation and the writing of keys and values. Attention is one small product, C[4, 16] += A[4, n] B[n, 16], over
blocks laid out for it: four queries meet the keys of sixteen positions, or their probabilities sixteen dimensions of
the values. Compiled code is kept beside this file, or in numba's cache folder, for the next start.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import carray

from paceline.kernels.decoder_ops import BLOCK, LANES, PagedBatch
from paceline.kernels.simd import KINDS, LEAST, ROWS, at, compiled, exp, load, multiply_add, store
from paceline.kernels.team import Team

QUERIES = 32  # rows of a prompt attended together: bounds the scores' memory, and skips most of the future
FEW = 4  # of a draft: so that several workers have something to do


@compiled(6, 1)
def _add_rms_norm(x_at, delta_at, weight_at, out_at, rows, width, eps, kind):  # type: ignore[no-untyped-def]
    x, out = carray(at(x_at, kind), (rows, width)), carray(at(out_at, kind), (rows, width))
    weight = carray(at(weight_at, kind), (width,))
    exact = np.empty(width, np.float32)
    for row in range(rows):
        squares = np.float32(0.0)
        if delta_at:
            delta = carray(at(delta_at, kind), (rows, width))
            for i in range(width):
                x[row, i] = store(load(x[row, i]) + load(delta[row, i]), kind)
        for i in range(width):
            exact[i] = load(x[row, i])
            squares += exact[i] * exact[i]
        scale = np.float32(1.0) / np.sqrt(squares / np.float32(width) + eps)
        for i in range(width):
            out[row, i] = store(exact[i] * scale * load(weight[i]), kind)


@compiled(4, 0)
def _silu_mul(gate_up_at, out_at, rows, width, kind):  # type: ignore[no-untyped-def]
    both, out = carray(at(gate_up_at, kind), (rows, 2 * width)), carray(at(out_at, kind), (rows, width))
    for row in range(rows):
        for i in range(width):
            gate, up = load(both[row, i]), load(both[row, width + i])
            gated = gate * up / (np.float32(1.0) + exp(-gate if gate > LEAST else -LEAST))
            out[row, i] = store(np.float32(0.0) if gate < LEAST else gated, kind)


@compiled(13, 0)
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
    qkv = carray(at(qkv_at, kind), (rows, heads + 2 * kv_heads, dim))
    cos = carray(at(cos_at, np.float32(0.0)), (rows, half))
    sin = carray(at(sin_at, np.float32(0.0)), (rows, half))
    starts = carray(at(starts_at, np.int64(0)), (sequences,))
    counts = carray(at(counts_at, np.int64(0)), (sequences,))
    row = 0
    table_at = tables_at
    for s in range(sequences):
        used = (starts[s] + counts[s] + BLOCK - 1) // BLOCK
        table = carray(at(table_at, np.int64(0)), (used,))
        for r in range(counts[s]):
            for head in range(heads + kv_heads):
                for i in range(half):
                    a, b = load(qkv[row, head, i]), load(qkv[row, head, half + i])
                    qkv[row, head, i] = store(a * cos[row, i] - b * sin[row, i], kind)
                    qkv[row, head, half + i] = store(b * cos[row, i] + a * sin[row, i], kind)
            slot = (starts[s] + r) % BLOCK
            block_at = table[(starts[s] + r) // BLOCK] + offset
            for head in range(kv_heads):
                keys_at = block_at + 2 * head * BLOCK * dim * size
                keys = carray(at(keys_at, kind), (dim, BLOCK))
                values = carray(at(keys_at + BLOCK * dim * size, kind), (BLOCK, dim))
                for i in range(dim):
                    keys[i, slot] = qkv[row, heads + head, i]
                    values[slot, i] = qkv[row, heads + kv_heads + head, i]
            row += 1
        table_at += 8 * used


@compiled(3, 0)
def _attend(task_at, worker, workers, kind):  # type: ignore[no-untyped-def]
    """Softmax attention of rotated queries over the blocks: one worker's share of the rows and key heads."""
    task = carray(at(task_at, np.int64(0)), (13,))
    qkv_at, out_at, tables_at, starts_at = task[0], task[1], task[2], task[3]
    counts_at, sight_at, sequences, heads = task[4], task[5], task[6], task[7]
    kv_heads, dim, offset, size, rows = task[8], task[9], task[10], task[11], task[12]
    unit = -1
    group = heads // kv_heads
    qkv = carray(at(qkv_at, kind), (rows, heads + 2 * kv_heads, dim))
    out = carray(at(out_at, kind), (rows, heads, dim))
    starts = carray(at(starts_at, np.int64(0)), (sequences,))
    counts = carray(at(counts_at, np.int64(0)), (sequences,))
    scale = np.float32(1.0) / np.sqrt(np.float32(dim))
    row = 0
    table_at = tables_at
    for s in range(sequences):
        start, count = starts[s], counts[s]
        used = (start + count + BLOCK - 1) // BLOCK
        table = carray(at(table_at, np.int64(0)), (used,))
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
                        q[x, i] = load(qkv[row + first + x % n, kv_head * group + x // n, i]) * scale
                scores[:] = np.float32(0.0)
                sums[:] = np.float32(0.0)
                keys_at = offset + 2 * kv_head * BLOCK * dim * size
                for block in range(blocks):
                    for x in range(0, padded, ROWS):
                        multiply_add(
                            scores.ctypes.data + 4 * (x * width + block * BLOCK), width,
                            q.ctypes.data + 4 * x * dim, dim,
                            table[block] + keys_at, BLOCK, dim, kind,
                        )  # fmt: skip
                for x in range(queries):
                    r = first + x % n
                    live = start + r + 1
                    seen = carray(at(sight_at, np.int64(0)), (rows,))[row + r] if sight_at else -1
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
                        scores[x, j] = exp(scores[x, j] - top)
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
                            multiply_add(
                                sums.ctypes.data + 4 * (x * dim + i), dim,
                                scores.ctypes.data + 4 * (x * width + block * BLOCK), width,
                                values_at + i * size, dim, inside, kind,
                            )  # fmt: skip
                for x in range(queries):
                    for i in range(dim):
                        out[row + first + x % n, kv_head * group + x // n, i] = store(sums[x, i], kind)
        row += count
        table_at += 8 * used


_TEAM = Team(_attend)


class NumbaOps:
    """`DecoderOps` for float32 and bfloat16 on a CPU; head_dim a multiple of `LANES`."""

    name = "numba"
    whole = False

    def __init__(self, reason: str, dtype: torch.dtype) -> None:
        self.reason = reason
        _TEAM.prepare(dtype)

    def add_rms_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """See `DecoderOps`."""
        out = torch.empty_like(x)
        delta_at = 0 if delta is None else delta.data_ptr()
        rows, width = x.shape
        _add_rms_norm(x.data_ptr(), delta_at, weight.data_ptr(), out.data_ptr(), rows, width, eps, KINDS[x.dtype])
        return out

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `DecoderOps`."""
        rows, width = gate_up.shape
        out = gate_up.new_empty(rows, width // 2)
        _silu_mul(gate_up.data_ptr(), out.data_ptr(), rows, width // 2, KINDS[gate_up.dtype])
        return out

    def attend(
        self, qkv: torch.Tensor, heads: int, rope: tuple[torch.Tensor, torch.Tensor], batch: PagedBatch, layer: int
    ) -> torch.Tensor:
        """See `DecoderOps`. `qkv` is used up: its queries and keys are rotated in place."""
        rows, all_heads, head_dim = qkv.shape
        kv_heads = (all_heads - heads) // 2
        size = qkv.element_size()
        offset = layer * kv_heads * 2 * BLOCK * head_dim * size  # bytes from a block's address to its layer
        kind = KINDS[qkv.dtype]
        tables, starts, counts = batch.addresses.ctypes.data, batch.starts.ctypes.data, batch.counts.ctypes.data
        sight = 0 if batch.sight is None else batch.sight.ctypes.data
        shape = (len(batch.starts), heads, kv_heads, head_dim, offset, size, rows)
        cos, sin = rope
        out = qkv.new_empty(rows, heads * head_dim)
        _rotate_and_write(qkv.data_ptr(), cos.data_ptr(), sin.data_ptr(), tables, starts, counts, *shape, kind)
        task = np.array((qkv.data_ptr(), out.data_ptr(), tables, starts, counts, sight, *shape), dtype=np.int64)
        work = heads * head_dim * int(np.dot(batch.counts, batch.starts + batch.counts))
        _TEAM.run(task, qkv.dtype, work)
        return out
