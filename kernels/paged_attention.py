"""Attention of ragged rows over keys and values in blocks: a draft, a tree and a prompt, many sequences in one launch.

The one idea: nothing but tensors on the device says where anything lies (a table of blocks per sequence, how many
positions it held, how many rows it brings), so that the same launch serves any sequences of at most as many rows, and
can be recorded in a CUDA graph. `decoder_triton` calls the twin for every layer; the layout of a block is
`decoder_ops.PagedBatch`'s, whose numba twin reads it on a CPU.
"""

from __future__ import annotations

import torch

from paceline.kernels.decoder_ops import BLOCK
from paceline.kernels.dispatch import Rule, check_operand, check_rules, triton_twin

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_INTEGERS = (torch.int64,)


def paged_attention(
    q: torch.Tensor,
    blocks: torch.Tensor,
    tables: torch.Tensor,
    starts: torch.Tensor,
    counts: torch.Tensor,
    sight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax attention of every row over its sequence's blocks.

    Args:
        q: [rows, heads, head_dim], rotated; the sequences' rows end to end. Rows beyond the last sequence's pad.
        blocks: [blocks, kv_heads, 2, BLOCK * head_dim] in q's dtype, keys of the rows included: keys as
            [head_dim, BLOCK] before values as [BLOCK, head_dim]. Query heads that share a key head are neighbours.
        tables: [sequences, width] int64: a sequence's blocks in the order of its positions. Entries beyond them are
            not looked at.
        starts: [sequences] int64 positions held before these rows.
        counts: [sequences] int64 rows; 0 pads.
        sight: [rows] int64: bit j sees row j of its own sequence, and every position before the rows; -1 sees all rows
            up to itself. None for -1 everywhere.

    Returns:
        [rows, heads, head_dim] in q's dtype; what pads is undefined.

    Raises:
        ValueError: an operand's shape, dtype or device is wrong, there are more rows than q has, or an entry that is
            needed names no block.
        ImportError: the operands are on a CUDA device and Triton is not installed.
    """
    check_operand("q", q, DTYPES, (None, None, None), q.device)
    rows, heads, head_dim = q.shape
    check_operand("blocks", blocks, (q.dtype,), (None, None, 2, BLOCK * head_dim), q.device)
    if heads % blocks.shape[1]:
        raise ValueError(f"q: expected a multiple of {blocks.shape[1]} key heads, got {heads} heads")
    check_operand("tables", tables, _INTEGERS, (None, None), q.device)
    sequences, width = tables.shape
    check_operand("starts", starts, _INTEGERS, (sequences,), q.device)
    check_operand("counts", counts, _INTEGERS, (sequences,), q.device)
    if sight is not None:
        check_operand("sight", sight, _INTEGERS, (rows,), q.device)
    needed = torch.where(counts > 0, -(-(starts + counts) // BLOCK), 0)
    used = torch.arange(width, device=q.device) < needed[:, None]
    inside = (tables >= 0) & (tables < blocks.shape[0])
    check_rules(
        [
            Rule("starts", starts, (starts >= 0).all(), "none negative"),
            Rule("counts", counts, (counts >= 0).all() & (counts.sum() <= rows), f"none negative, at most {rows} rows"),
            Rule("tables", needed, (needed <= width).all(), f"the {width} blocks of a table to hold every position"),
            Rule("tables", tables, (inside | ~used).all(), f"blocks below {blocks.shape[0]}"),
        ]
    )
    twin = triton_twin("paged_attention", q)
    attend = twin.paged_attention_triton if twin else paged_attention_torch
    attended: torch.Tensor = attend(q, blocks, tables, starts, counts, sight)
    return attended


def paged_attention_torch(
    q: torch.Tensor,
    blocks: torch.Tensor,
    tables: torch.Tensor,
    starts: torch.Tensor,
    counts: torch.Tensor,
    sight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Reference of `paged_attention`, without its checks, in float32 within.

    For a row r of a sequence: sum over the positions j it sees of softmax_j(q_r . k_j / sqrt(head_dim)) v_j.
    """
    _, heads, head_dim = q.shape
    kv_heads = blocks.shape[1]
    out = torch.zeros_like(q)
    row = 0
    for table, start, count in zip(tables, starts.tolist(), counts.tolist(), strict=True):
        held = blocks[table[: -(-(start + count) // BLOCK)]].float()  # [used, kv_heads, 2, BLOCK * head_dim]
        shape = (len(held), kv_heads, head_dim, BLOCK)
        keys = held[:, :, 0].reshape(shape).permute(1, 0, 3, 2).reshape(kv_heads, -1, head_dim)[:, : start + count]
        values = held[:, :, 1].reshape(len(held), kv_heads, BLOCK, head_dim).transpose(0, 1)
        values = values.reshape(kv_heads, -1, head_dim)[:, : start + count]
        own = slice(row, row + count)
        seen = _seen(start, count, None if sight is None else sight[own], q.device)
        grouped = q[own].float().view(count, kv_heads, heads // kv_heads, head_dim)
        scores = torch.einsum("rkgd,kpd->rkgp", grouped, keys) / head_dim**0.5
        law = scores.masked_fill(~seen[:, None, None], -torch.inf).softmax(dim=-1)
        out[own] = torch.einsum("rkgp,kpd->rkgd", law, values).reshape(count, heads, head_dim).to(q.dtype)
        row += count
    return out


def _seen(start: int, count: int, sight: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """[count, start + count], true where a row sees a position."""
    place = torch.arange(start + count, device=device) - start
    causal = place <= torch.arange(count, device=device)[:, None]
    if sight is None:
        return causal
    tree = (place < 0) | ((sight[:, None] >> place.clamp(0, 63) & 1 == 1) & (place < 64))
    return torch.where(sight[:, None] < 0, causal, tree)
