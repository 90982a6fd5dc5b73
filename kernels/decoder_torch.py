"""The decoder's ops in torch: the reference for the twins, and what runs where no twin does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from paceline.kernels.decoder_ops import BLOCK, PagedBatch

QUERIES = 128  # rows attended together: bounds the mask's memory, and skips most of the future in a long prompt


class TorchOps:
    """`DecoderOps` on any device and dtype."""

    name = "torch"
    whole = False

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def add_rms_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """See `DecoderOps`."""
        if delta is not None:
            x += delta
        return F.rms_norm(x, (x.shape[1],), weight, eps)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `DecoderOps`."""
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    def attend(
        self, qkv: torch.Tensor, heads: int, rope: tuple[torch.Tensor, torch.Tensor], batch: PagedBatch, layer: int
    ) -> torch.Tensor:
        """See `DecoderOps`. The live keys and values are gathered, which a twin does not have to."""
        rows, all_heads, head_dim = qkv.shape
        kv_heads = (all_heads - heads) // 2
        rotated = rotate(qkv[:, : heads + kv_heads], rope)
        q, k, v = rotated[:, :heads], rotated[:, heads:], qkv[:, heads + kv_heads :]
        attended = torch.empty_like(q)  # [rows, heads, head_dim]
        row = 0
        for index, blocks in enumerate(batch.blocks):
            start, count = int(batch.starts[index]), int(batch.counts[index])
            own = slice(row, row + count)
            _write(blocks, layer, start, k[own], v[own])
            keys, values = _read(blocks, layer, start + count, kv_heads, head_dim)
            sight = None if batch.sight is None else torch.from_numpy(batch.sight[own]).to(q.device)
            for first in range(0, count, QUERIES):
                last = min(first + QUERIES, count)
                live = start + (last if sight is None else count)
                mask = _mask(start, first, last, live, sight, q)
                part = slice(row + first, row + last)
                attended[part] = _attend(q[part], keys[:, :live], values[:, :live], mask)
            row += count
        return attended.view(rows, heads * head_dim)


def rotate(qk: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotary embedding (arXiv 2104.09864) of [rows, heads, head_dim] in float32, returned in its own dtype."""
    cos, sin = (part[:, None] for part in rope)  # [rows, 1, head_dim / 2]
    a, b = qk.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(qk.dtype)


def _write(blocks: Sequence[torch.Tensor], layer: int, start: int, k: torch.Tensor, v: torch.Tensor) -> None:
    """k and v [count, kv_heads, head_dim] to the positions from `start` on."""
    count, kv_heads, head_dim = k.shape
    at = start
    while at < start + count:
        inside = at % BLOCK
        size = min(BLOCK - inside, start + count - at)
        part = blocks[at // BLOCK][layer]
        rows = slice(at - start, at - start + size)
        part[:, 0].view(kv_heads, head_dim, BLOCK)[:, :, inside : inside + size] = k[rows].permute(1, 2, 0)
        part[:, 1].view(kv_heads, BLOCK, head_dim)[:, inside : inside + size] = v[rows].transpose(0, 1)
        at += size


def _read(
    blocks: Sequence[torch.Tensor], layer: int, length: int, kv_heads: int, head_dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of the first `length` positions, each [kv_heads, length, head_dim]."""
    used = [block[layer] for block in blocks[: -(-length // BLOCK)]]
    held = torch.stack(used, dim=1)  # [kv_heads, blocks, 2, BLOCK * head_dim]
    keys = held[:, :, 0].view(kv_heads, -1, head_dim, BLOCK).transpose(2, 3).reshape(kv_heads, -1, head_dim)
    return keys[:, :length], held[:, :, 1].reshape(kv_heads, -1, head_dim)[:, :length]


def _mask(
    start: int, first: int, last: int, live: int, sight: torch.Tensor | None, like: torch.Tensor
) -> torch.Tensor | None:
    """[last - first, live], true where a row may look; None where every row may look everywhere."""
    if sight is None:
        if last - first == 1:
            return None
        ones = torch.ones(last - first, live, dtype=torch.bool, device=like.device)
        return ones.tril(start + first)
    mask = torch.ones(last - first, live, dtype=torch.bool, device=like.device).tril(start + first)
    own = sight[first:last, None]
    bits = torch.arange(min(live - start, 64), device=like.device)
    tree = (own >> bits) & 1 == 1
    mask[:, start : start + len(bits)] = torch.where(own < 0, mask[:, start : start + len(bits)], tree)
    return mask


def _attend(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """q [rows, heads, head_dim] over keys and values [kv_heads, live, head_dim].

    The query heads that share a key head are laid out as more rows of it, so keys and values are never repeated.
    """
    rows, heads, head_dim = q.shape
    kv_heads = len(keys)
    group = heads // kv_heads
    folded = q.view(rows, kv_heads, group, head_dim).permute(1, 2, 0, 3).reshape(kv_heads, group * rows, head_dim)
    wide = None if mask is None else mask.repeat(group, 1)
    seen = F.scaled_dot_product_attention(folded[None], keys[None], values[None], attn_mask=wide)[0]
    return seen.view(kv_heads, group, rows, head_dim).permute(2, 0, 1, 3).reshape(rows, heads, head_dim)
