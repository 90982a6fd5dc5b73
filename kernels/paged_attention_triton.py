# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"
# (Triton ships no types, and a kernel's arguments are pointers and numbers that only its compiler types.)
"""Triton twin of `paged_attention.paged_attention_torch`: online softmax, the past shared out among programs.

A program takes a tile of one sequence's rows with all query heads of one key head, so that keys and values are read
once for them, and one share of the positions. With one sequence of one row there would be a program per key head, far
fewer than a GPU's processors; hence the shares, whose sums a second launch joins (FlashAttention, arXiv 2205.14135;
Flash-Decoding). The launch depends on the numbers of rows and sequences alone, never on values: none is waited for.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from paceline.kernels.decoder_ops import BLOCK

_POSITIONS = 64  # at a time
_LANES = 64  # of a tile at most: rows times the query heads of a key head
_MOST_SHARES = 32
_CPU_PROCESSORS = 3  # the interpreter's stand-in for a GPU's


@triton.jit
def locate(counts, sequences, item, per_item, lanes: tl.constexpr):
    """Of items of `per_item` rows each, laid out sequence by sequence: the item's sequence (`sequences` where there
    are not so many items), the first row of that sequence, and the item's place in it."""
    lane = tl.arange(0, lanes)
    rows = tl.load(counts + lane, mask=lane < sequences, other=0)
    items = (rows + per_item - 1) // per_item
    sequence = tl.sum((tl.cumsum(items, axis=0) <= item).to(tl.int64), axis=0)
    before = lane < sequence
    first_row = tl.sum(tl.where(before, rows, 0), axis=0)
    place = item - tl.sum(tl.where(before, items, 0), axis=0)
    return tl.minimum(sequence, sequences), first_row, place


# What changes from forward to forward is not compiled in: a size of 1 or of 16 would be a kernel of its own.
@triton.jit(do_not_specialize=["width", "sequences", "rows", "per_tile", "shares"])
def attention_kernel(
    q,
    blocks,
    tables,
    starts,
    counts,
    sight,
    out,  # one share: [rows, heads, dim]; several: sums [shares, rows, heads, dim] float32, not divided yet
    tops,  # [shares, rows, heads] float32, the largest score of a share in powers of 2
    totals,  # [shares, rows, heads] float32
    scale,
    q_stride,
    block_stride,
    width,
    sequences,
    rows,
    heads,
    dim,
    per_tile,
    shares,
    group: tl.constexpr,
    block: tl.constexpr,
    lanes: tl.constexpr,
    sequence_lanes: tl.constexpr,
    dims: tl.constexpr,
    positions: tl.constexpr,
    trees: tl.constexpr,
    shared: tl.constexpr,
    exact: tl.constexpr,
):
    """One tile, one key head, one share of the positions."""
    sequence, first_row, tile = locate(counts, sequences, tl.program_id(0), per_tile, sequence_lanes)
    head = tl.program_id(1)
    share = tl.program_id(2)
    if sequence < sequences:
        count = tl.load(counts + sequence)
        start = tl.load(starts + sequence)
        lane = tl.arange(0, lanes)
        d = tl.arange(0, dims)
        r = tile * per_tile + lane // group  # within the sequence
        used = (lane < per_tile * group) & (r < count)
        at = (first_row + r).to(tl.int64)
        own = head * group + lane % group
        inside = used[:, None] & (d < dim)[None, :]
        queries = tl.load(q + at[:, None] * q_stride + own[:, None] * dim + d[None, :], mask=inside, other=0.0)
        live = start + count
        if trees:
            bits = tl.load(sight + at, mask=used, other=-1)
        else:
            live = tl.minimum(live, start + (tile + 1) * per_tile)
        part = tl.cdiv(tl.cdiv(live, shares), positions) * positions
        first, last = share * part, tl.minimum((share + 1) * part, live)

        top = tl.full([lanes], -float("inf"), dtype=tl.float32)
        total = tl.zeros([lanes], dtype=tl.float32)
        sums = tl.zeros([lanes, dims], dtype=tl.float32)
        for begin in range(first, last, positions):
            position = begin + tl.arange(0, positions)
            there = position < last
            held = there
            if not exact:
                # Keys are read by whole blocks, wide, whatever unused slots hold: a score of those is not looked at.
                held = position // block * block < last
            entry = tl.load(tables + sequence * width + position // block, mask=held, other=0)
            entry = tl.max_constancy(entry, block)
            base = blocks + entry * block_stride + head * 2 * block * dim
            slot = position % block
            keys = tl.load(
                base[None, :] + d[:, None] * block + slot[None, :], mask=held[None, :] & (d < dim)[:, None], other=0.0
            )  # [dims, positions]
            if exact:
                scores = tl.dot(queries.to(tl.float32), keys.to(tl.float32), input_precision="tf32x3") * scale
            else:
                scores = tl.dot(queries, keys) * scale
            seen = position[None, :] <= start + r[:, None]
            if trees:
                place = position - start
                bit = (bits[:, None] >> tl.minimum(tl.maximum(place, 0), 63)[None, :]) & 1
                path = (place < 0)[None, :] | ((bit == 1) & (place < 64)[None, :])
                seen = tl.where(bits[:, None] < 0, seen, path)
            scores = tl.where(seen & there[None, :], scores, -float("inf"))
            highest = tl.maximum(top, tl.max(scores, axis=1))
            safe = tl.where(highest == -float("inf"), 0.0, highest)  # a row may see none of these
            weights = tl.exp2(scores - safe[:, None])
            shrunk = tl.exp2(top - safe)
            total = total * shrunk + tl.sum(weights, axis=1)
            values = tl.load(
                base[:, None] + (block * dim) + slot[:, None] * dim + d[None, :],
                mask=there[:, None] & (d < dim)[None, :],
                other=0.0,
            )  # [positions, dims]
            sums = sums * shrunk[:, None]
            if exact:
                sums += tl.dot(weights, values.to(tl.float32), input_precision="tf32x3")
            else:
                sums += tl.dot(weights.to(values.dtype), values)
            top = highest
        target = at * heads + own
        if shared:
            target += share.to(tl.int64) * rows * heads
            tl.store(tops + target, top, mask=used)
            tl.store(totals + target, total, mask=used)
            tl.store(out + target[:, None] * dim + d[None, :], sums, mask=inside)
        else:
            result = sums / tl.where(used, total, 1.0)[:, None]
            tl.store(out + target[:, None] * dim + d[None, :], result.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "shares"])
def join_kernel(sums, tops, totals, out, rows, heads, dim, shares, share_lanes: tl.constexpr, dims: tl.constexpr):
    """One row and head: its shares' sums, each scaled to the largest score of all."""
    target = tl.program_id(0).to(tl.int64)
    share = tl.arange(0, share_lanes)
    d = tl.arange(0, dims)
    each = target + share.to(tl.int64) * rows * heads
    top = tl.load(tops + each, mask=share < shares, other=-float("inf"))
    total = tl.load(totals + each, mask=share < shares, other=0.0)
    scale = tl.exp2(top - tl.max(top, axis=0))
    mask = (share < shares)[:, None] & (d < dim)[None, :]
    part = tl.load(sums + each[:, None] * dim + d[None, :], mask=mask, other=0.0)
    whole = tl.sum(total * scale, axis=0)
    result = tl.sum(part * scale[:, None], axis=0) / tl.where(whole > 0.0, whole, 1.0)
    tl.store(out + target * dim + d, result.to(out.dtype.element_ty), mask=d < dim)


def paged_attention_triton(
    q: torch.Tensor,
    blocks: torch.Tensor,
    tables: torch.Tensor,
    starts: torch.Tensor,
    counts: torch.Tensor,
    sight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Twin of `paged_attention.paged_attention_torch`, with the same arguments and result.

    `q` may be a slice of rows that are wider, and `blocks` one layer of all.
    """
    rows, heads, dim = q.shape
    kv_heads, sequences = blocks.shape[1], len(counts)
    group = heads // kv_heads
    # What pads is left as it is; only the interpreter minds what it computes of that.
    new = torch.empty if q.is_cuda else torch.zeros
    out = new(rows, heads, dim, dtype=q.dtype, device=q.device)
    if not rows or not sequences:
        return out
    # Where each sequence brings few rows, small tiles waste least; where some bring many, large ones read least.
    per_tile = max(1, (16 if rows <= sequences * max(1, 16 // group) else _LANES) // group)
    tiles = min(rows, sequences + rows // per_tile)
    shares = min(_MOST_SHARES, max(1, 2 * _processors(q.device) // (tiles * kv_heads)))
    sums, tops, totals = out, out, out
    if shares > 1:
        sums = new(shares, rows, heads, dim, dtype=torch.float32, device=q.device)
        tops, totals = new(2, shares, rows, heads, dtype=torch.float32, device=q.device)
    dims = max(16, triton.next_power_of_2(dim))
    with torch.cuda.device_of(q):
        attention_kernel[(tiles, kv_heads, shares)](
            q,
            blocks,
            tables,
            starts,
            counts,
            starts if sight is None else sight,
            sums,
            tops,
            totals,
            dim**-0.5 * 1.4426950408889634,  # scores in powers of 2
            q.stride(0),
            blocks.stride(0),
            tables.shape[1],
            sequences,
            rows,
            heads,
            dim,
            per_tile,
            shares,
            group=group,
            block=BLOCK,
            lanes=max(16, triton.next_power_of_2(per_tile * group)),
            sequence_lanes=triton.next_power_of_2(sequences),
            dims=dims,
            positions=_POSITIONS,
            trees=sight is not None,
            shared=shares > 1,
            exact=q.dtype == torch.float32 or not q.is_cuda,  # the interpreter multiplies bits of bfloat16 as integers
            num_warps=4,
        )
        if shares > 1:
            join_kernel[(rows * heads,)](
                sums,
                tops,
                totals,
                out,
                rows,
                heads,
                dim,
                shares,
                share_lanes=triton.next_power_of_2(shares),
                dims=dims,
                num_warps=4,
            )
    return out


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _CPU_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count
