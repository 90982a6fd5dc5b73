# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"
# (Triton ships no types, and a kernel's arguments are pointers and numbers that only its compiler types.)
"""Triton twin of `kv_compaction.compact_kv_torch`: a program per sequence, layer and head reads all before it writes.

The dispatcher in `kv_compaction` has checked the operands; a stray slot would still not be read or written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from paceline.kernels.decoder_ops import BLOCK


@triton.jit(do_not_specialize=["moves"])
def compaction_kernel(
    memory, sources, targets, slots, moves, layers, kv_heads, dim,
    block: tl.constexpr, move_lanes: tl.constexpr, dims: tl.constexpr,
):  # fmt: skip
    """One sequence, one layer, one key head."""
    sequence, layer, head = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    move = tl.arange(0, move_lanes)
    source = tl.load(sources + sequence * moves + move, mask=move < moves, other=-1)
    target = tl.load(targets + sequence * moves + move, mask=move < moves, other=-1)
    used = (source >= 0) & (source < slots) & (target >= 0) & (target < slots)
    d = tl.arange(0, dims)[None, :]
    inside = used[:, None] & (d < dim)
    part = 2 * block * dim  # keys and values of one head in one block
    old = memory + (((source // block) * layers + layer) * kv_heads + head)[:, None] * part
    new = memory + (((target // block) * layers + layer) * kv_heads + head)[:, None] * part
    old_slot, new_slot = (source % block)[:, None], (target % block)[:, None]
    keys = tl.load(old + d * block + old_slot, mask=inside)
    values = tl.load(old + block * dim + old_slot * dim + d, mask=inside)
    tl.debug_barrier()  # this program's other threads may still have to read what is written now
    tl.store(new + d * block + new_slot, keys, mask=inside)
    tl.store(new + block * dim + new_slot * dim + d, values, mask=inside)


def compact_kv_triton(memory: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor) -> None:
    """Twin of `kv_compaction.compact_kv_torch`, with the same arguments; never waits for the device."""
    count, layers, kv_heads, _, size = memory.shape
    sequences, moves = sources.shape
    if not sequences or not moves:
        return
    with torch.cuda.device_of(memory):
        compaction_kernel[(sequences, layers, kv_heads)](
            memory,
            sources.contiguous(),
            targets.contiguous(),
            count * BLOCK,
            moves,
            layers,
            kv_heads,
            size // BLOCK,
            block=BLOCK,
            move_lanes=triton.next_power_of_2(moves),
            dims=triton.next_power_of_2(size // BLOCK),
            num_warps=4,
        )
