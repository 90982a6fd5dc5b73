"""The likeliest id of each row of logits on a CPU: twin of `law.likeliest`, which calls it."""

from __future__ import annotations

import numpy as np
import torch
from numba import carray

from paceline.kernels.simd import KINDS, at, compiled, rank

PART = 1024  # of a vocabulary, whose largest value is found as vectors; only the winning part is searched for its id


@compiled(4, 0)
def _argmax_rows(logits_at, out_at, rows, vocab, kind):  # type: ignore[no-untyped-def]
    logits = carray(at(logits_at, kind), (rows, vocab))
    out = carray(at(out_at, np.int64(0)), (rows,))
    for row in range(rows):
        best, place = np.int32(-(2**31)), 0
        for first in range(0, vocab, PART):
            top = np.int32(-(2**31))
            for i in range(first, min(first + PART, vocab)):
                own = rank(logits[row, i])
                top = own if own > top else top
            if top > best:
                best, place = top, first
        out[row] = 0
        for i in range(place, min(place + PART, vocab)):
            if rank(logits[row, i]) == best:
                out[row] = i
                break


def likeliest_numba(logits: torch.Tensor) -> torch.Tensor:
    """Twin of `law.likeliest` for float32 and bfloat16 on a CPU."""
    logits = logits.contiguous()
    out = torch.empty(len(logits), dtype=torch.int64)
    _argmax_rows(logits.data_ptr(), out.data_ptr(), *logits.shape, KINDS[logits.dtype])
    return out
