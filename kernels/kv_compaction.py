"""Compaction of paged keys and values: the accepted path of a tree moved together, behind what was held before.

After a tree was verified its accepted rows lie scattered among those that were refused. The one idea: slots name
positions across all blocks, so that every sequence's moves, in all layers and heads, are one launch. `llama_cache`
calls it where the blocks of its pool lie in one tensor.
"""

from __future__ import annotations

import torch

from paceline.kernels.decoder_ops import BLOCK
from paceline.kernels.dispatch import Rule, check_operand, check_rules, triton_twin
from paceline.kernels.paged_attention import DTYPES

_INTEGERS = (torch.int64,)


def compact_kv(memory: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor) -> None:
    """Move positions, in place: each target becomes what its source was before the call, in every layer.

    A slot is block * BLOCK + place. A target may be another move's source in the same row, as when a path closes up.

    Args:
        memory: [blocks, layers, kv_heads, 2, BLOCK * head_dim], contiguous; see `PagedBatch`.
        sources: [sequences, moves] int64 slots; a row's moves are of one sequence. -1 pads.
        targets: Likewise, and -1 in the same places; no slot twice.

    Raises:
        ValueError: an operand's shape, dtype or device is wrong, or a slot is not there. (That rows do not touch each
            other's slots, and that targets differ, is the caller's to see to.)
        ImportError: the operands are on a CUDA device and Triton is not installed.
    """
    place = sources.device if sources.device.type == "cpu" else memory.device
    check_operand("memory", memory, DTYPES, (None, None, None, 2, None), memory.device)
    check_operand("sources", sources, _INTEGERS, (None, None), place)
    check_operand("targets", targets, _INTEGERS, sources.shape, place)
    slots = memory.shape[0] * BLOCK
    check_rules(
        [
            Rule("sources", sources, ((sources >= -1) & (sources < slots)).all(), f"slots below {slots}, or -1"),
            Rule("targets", targets, ((targets >= -1) & (targets < slots)).all(), f"slots below {slots}, or -1"),
            Rule(
                "targets", targets, ((sources < 0) == (targets < 0)).all(), "-1 where sources have it, and only there"
            ),
        ]
    )
    twin = triton_twin("kv_compaction", memory)
    compact = twin.compact_kv_triton if twin else compact_kv_torch
    compact(memory, *(moves.to(memory.device, non_blocking=True) for moves in (sources, targets)))


def compact_kv_torch(memory: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor) -> None:
    """Reference of `compact_kv`, without its checks: new[target] = old[source], every move at once."""
    count, layers, kv_heads, _, size = memory.shape
    old, new = (moves[moves >= 0] for moves in (sources, targets))
    keys = memory[:, :, :, 0].view(count, layers, kv_heads, size // BLOCK, BLOCK)
    keys[new // BLOCK, :, :, :, new % BLOCK] = keys[old // BLOCK, :, :, :, old % BLOCK]
    values = memory[:, :, :, 1].view(count, layers, kv_heads, BLOCK, size // BLOCK)
    values[new // BLOCK, :, :, new % BLOCK] = values[old // BLOCK, :, :, old % BLOCK]
