"""How much two laws overlap: gamma, the probability that a token drawn from one is accepted by the other.

gamma = sum over x of min(p(x), q(x)) = 1 - TV(p, q) (Leviathan et al., arXiv 2211.17192). The one idea: where either
law is sparse, only its own ids count, and the formula is symmetric, so a target with a dense p can score a drafter's
sparse q, and a drafter with a dense q can score itself against the target's sparse p. Drafters call this at every
committed position while they catch up.
"""

from __future__ import annotations

import torch

from paceline.kernels.dispatch import FLOATS, IDS, Rule, check_operand, check_rules, triton_twin


def overlap(dense: torch.Tensor, ids: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    """Overlap of one dense and one sparse law per row.

    The terms are summed in float64 and rounded once, so the twins differ by at most one float32 rounding (6e-8). An
    overlap beyond 1, which only rounding in the laws can cause, is cut to 1; NaN stays NaN.

    Args:
        dense: [rows, vocab] float32.
        ids: [rows, width] int32 or int64, distinct within a row; -1 in unused slots.
        probs: [rows, width] float32.

    Returns:
        [rows] float32.

    Raises:
        ValueError: an operand's shape, dtype or device is wrong, or an id lies beyond the vocabulary.
        ImportError: the operands are on a CUDA device and Triton is not installed.
    """
    check_operand("dense", dense, FLOATS, (None, None), dense.device)
    rows, vocab = dense.shape
    check_operand("ids", ids, IDS, (rows, None), dense.device)
    check_operand("probs", probs, FLOATS, ids.shape, dense.device)
    check_rules([Rule("ids", ids, ((ids >= -1) & (ids < vocab)).all(), f"ids below {vocab}, or -1")])
    twin = triton_twin("overlap", dense)
    result: torch.Tensor = (twin.overlap_triton if twin else overlap_torch)(dense, ids, probs)
    return result


def overlap_torch(dense: torch.Tensor, ids: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    """Reference of `overlap`, without its checks."""
    at = dense.gather(1, ids.long().clamp(min=0))  # [rows, width]
    terms = torch.minimum(at, probs).masked_fill(ids < 0, 0.0)
    return terms.sum(dim=-1, dtype=torch.float64).clamp(max=1.0).float()
