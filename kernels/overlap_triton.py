# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"
# (Triton ships no types, and a kernel's arguments are pointers and numbers that only its compiler types.)
"""Triton twin of `overlap.overlap_torch`: one program per row, in blocks of slots.

The dispatcher in `overlap` has checked the operands; a stray id would still not be read, its slot counts nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 128  # slots


@triton.jit
def overlap_kernel(dense, ids, probs, gammas, vocab, width, block: tl.constexpr):
    """Row r: sum over slots of min(dense[r, id], prob)."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros([block], dtype=tl.float64)
    for first in range(0, width, block):
        slot = first + tl.arange(0, block)
        inside = slot < width
        token = tl.load(ids + row * width + slot, mask=inside, other=-1).to(tl.int64)
        used = inside & (token >= 0) & (token < vocab)
        there = tl.load(dense + row * vocab + token, mask=used, other=0.0)
        here = tl.load(probs + row * width + slot, mask=used, other=0.0)
        total += tl.minimum(there, here, propagate_nan=tl.PropagateNan.ALL).to(tl.float64)
    gamma = tl.sum(total, axis=0)
    gamma = tl.where(gamma > 1.0, 1.0, gamma)
    tl.store(gammas + row, gamma.to(tl.float32))


def overlap_triton(dense: torch.Tensor, ids: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    """Twin of `overlap.overlap_torch`, with the same arguments and result; never waits for the device."""
    rows, vocab = dense.shape
    gammas = torch.empty(rows, dtype=torch.float32, device=dense.device)
    if rows:
        with torch.cuda.device_of(dense):
            overlap_kernel[(rows,)](
                dense.contiguous(),
                ids.contiguous(),
                probs.contiguous(),
                gammas,
                vocab,
                ids.shape[1],
                block=_BLOCK,
                enable_fp_fusion=False,
            )
    return gammas
