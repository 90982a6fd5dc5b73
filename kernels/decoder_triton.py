# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"
# (Triton ships no types, and a kernel's arguments are pointers and numbers that only its compiler types.)
"""The decoder's ops on a GPU: twins of `TorchOps`, one launch each, attention one for rotation and cache and one or two
for itself (`paged_attention_triton`).

Everything a launch reads lies on the device, in a batch's `BlockTables`; no value is waited for. So a forward is a
fixed list of launches for a number of rows and sequences, which `actors/cuda_graphs.py` records and replays.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from paceline.kernels.decoder_ops import BLOCK, PagedBatch
from paceline.kernels.paged_attention_triton import locate, paged_attention_triton

_BLOCK = 1024


@triton.jit
def add_rms_norm_kernel(x, delta, weight, out, width, eps, added: tl.constexpr, lanes: tl.constexpr):
    """One row."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, lanes)
    inside = lane < width
    stream = tl.load(x + row * width + lane, mask=inside, other=0.0)
    if added:
        more = tl.load(delta + row * width + lane, mask=inside, other=0.0)
        stream = (stream.to(tl.float32) + more.to(tl.float32)).to(x.dtype.element_ty)
        tl.store(x + row * width + lane, stream, mask=inside)
    exact = stream.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(exact * exact, axis=0) / width + eps)
    normed = exact * scale * tl.load(weight + lane, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + lane, normed.to(out.dtype.element_ty), mask=inside)


@triton.jit
def silu_mul_kernel(gate_up, out, width, block: tl.constexpr):
    """One part of a row."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1) * block + tl.arange(0, block)
    inside = lane < width
    gate = tl.load(gate_up + row * 2 * width + lane, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + (row * 2 + 1) * width + lane, mask=inside, other=0.0).to(tl.float32)
    # e^-|x| does not overflow, and what a large negative gate lets through is 0 either way.
    small = tl.exp(-tl.abs(gate))
    sigmoid = tl.where(gate >= 0.0, 1.0, small) / (1.0 + small)
    tl.store(out + row * width + lane, (gate * sigmoid * up).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["width", "sequences"])
def rotate_and_write_kernel(
    qkv,
    cos,
    sin,
    blocks,
    tables,
    starts,
    counts,
    block_stride,
    width,
    sequences,
    heads,
    kv_heads,
    half,
    block: tl.constexpr,
    head_lanes: tl.constexpr,
    half_lanes: tl.constexpr,
    sequence_lanes: tl.constexpr,
):
    """One row: queries and keys rotated in place, keys and values to the row's slot. A row that pads is left alone."""
    row = tl.program_id(0)
    sequence, first_row, _ = locate(counts, sequences, row, 1, sequence_lanes)
    if sequence < sequences:
        position = tl.load(starts + sequence) + row - first_row
        entry = tl.load(tables + sequence * width + position // block)
        slot = position % block
        head = tl.arange(0, head_lanes)[:, None]
        i = tl.arange(0, half_lanes)[None, :]
        dim = 2 * half
        own = qkv + row.to(tl.int64) * (heads + 2 * kv_heads) * dim
        inside = (head < heads + kv_heads) & (i < half)
        a = tl.load(own + head * dim + i, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(own + head * dim + half + i, mask=inside, other=0.0).to(tl.float32)
        c = tl.load(cos + row * half + i, mask=i < half, other=0.0)
        s = tl.load(sin + row * half + i, mask=i < half, other=0.0)
        kind = qkv.dtype.element_ty
        first, second = (a * c - b * s).to(kind), (b * c + a * s).to(kind)
        tl.store(own + head * dim + i, first, mask=inside)
        tl.store(own + head * dim + half + i, second, mask=inside)
        keys = blocks + entry * block_stride + (head - heads) * 2 * block * dim + slot
        is_key = inside & (head >= heads)
        tl.store(keys + i * block, first, mask=is_key)
        tl.store(keys + (half + i) * block, second, mask=is_key)
        is_value = (head < kv_heads) & (i < half)
        values = own + (heads + kv_heads + head) * dim
        target = blocks + entry * block_stride + (head * 2 + 1) * block * dim + slot * dim
        tl.store(target + i, tl.load(values + i, mask=is_value, other=0.0), mask=is_value)
        tl.store(target + half + i, tl.load(values + half + i, mask=is_value, other=0.0), mask=is_value)


class TritonOps:
    """`DecoderOps` on a CUDA device, for batches that have `tables`."""

    name = "triton"
    whole = True

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def add_rms_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """See `DecoderOps`."""
        rows, width = x.shape
        out = torch.empty_like(x)
        lanes = triton.next_power_of_2(width)
        if rows:
            with torch.cuda.device_of(x):
                add_rms_norm_kernel[(rows,)](
                    x,
                    x if delta is None else delta,
                    weight,
                    out,
                    width,
                    eps,
                    added=delta is not None,
                    lanes=lanes,
                    num_warps=8 if lanes > 2048 else 4,
                )
        return out

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `DecoderOps`."""
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, width)
        if rows:
            with torch.cuda.device_of(gate_up):
                silu_mul_kernel[(rows, triton.cdiv(width, _BLOCK))](gate_up, out, width, block=_BLOCK, num_warps=4)
        return out

    def attend(
        self, qkv: torch.Tensor, heads: int, rope: tuple[torch.Tensor, torch.Tensor], batch: PagedBatch, layer: int
    ) -> torch.Tensor:
        """See `DecoderOps`. `qkv` is used up, as by `NumbaOps`.

        Raises:
            ValueError: the batch has no tables.
        """
        rows, all_heads, dim = qkv.shape
        kv_heads, half = (all_heads - heads) // 2, dim // 2
        paged = batch.tables
        if paged is None:
            raise ValueError("batch: has no tables; expected blocks that lie in one tensor on the ops' device")
        blocks = paged.memory[:, layer]  # [blocks, kv_heads, 2, BLOCK * dim]
        sequences = len(paged.counts)
        cos, sin = rope
        with torch.cuda.device_of(qkv):
            rotate_and_write_kernel[(rows,)](
                qkv,
                cos,
                sin,
                blocks,
                paged.tables,
                paged.starts,
                paged.counts,
                blocks.stride(0),
                paged.tables.shape[1],
                sequences,
                heads,
                kv_heads,
                half,
                block=BLOCK,
                head_lanes=triton.next_power_of_2(heads + kv_heads),
                half_lanes=triton.next_power_of_2(half),
                sequence_lanes=triton.next_power_of_2(sequences),
                num_warps=4,
            )
        attended = paged_attention_triton(qkv[:, :heads], blocks, paged.tables, paged.starts, paged.counts, paged.sight)
        return attended.view(rows, heads * dim)
