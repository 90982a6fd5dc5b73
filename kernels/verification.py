"""Verification: which drafted tokens stand, and the token that follows them.

Rejection sampling of a ragged batch of chains: the output follows the target's law p exactly, whatever the drafter's
law q. The one idea: all randomness comes in as tensors, so the op is a pure function, and its torch and Triton twins
agree on every id. The speculative round calls it once, for all sequences that are sampled without a seed.

Layout: the drafts of all sequences lie one after the other, `lengths[b]` of them for sequence b. The target's
rows lie likewise, `lengths[b] + 1` of them: row i is the target's word on draft i, and the last one is the bonus.
"""

from __future__ import annotations

import torch

from paceline.kernels.dispatch import FLOATS, IDS, Rule, check_operand, check_rules, triton_twin
from paceline.kernels.law import race_scores

Verified = tuple[torch.Tensor, torch.Tensor]


def verify_chains(
    p: torch.Tensor,
    draft_ids: torch.Tensor,
    q_ids: torch.Tensor,
    q_probs: torch.Tensor,
    lengths: torch.Tensor,
    accept_noise: torch.Tensor,
    sample_noise: torch.Tensor,
) -> Verified:
    """Accept each draft x with probability min(1, p(x) / q(x)), up to the first rejection.

    At a rejection the next token follows norm((p - q)+); if all drafts stand, the bonus follows p (Leviathan et al.,
    arXiv 2211.17192; Chen et al., arXiv 2302.01318). Lossless provided that each draft was drawn from its q, and that
    neither depends on this call's noise.

    `accept_noise * q(x) < p(x)` accepts: strictly, so that an impossible token never stands. Where rounding leaves
    nothing of (p - q)+, the next token follows p: the two laws are then equal within rounding, and so is the result. A
    noise of exactly 0 lets a possible token win its race; ties go to the lowest id.

    Args:
        p: [drafts + batch, vocab] float32, rows summing to 1: the target's law at each row.
        draft_ids: [drafts] int64. All operands but p and `sample_noise` may lie on the CPU: their values are then
            checked there, and nothing waits for p's device.
        q_ids: [drafts, width] int32 or int64; -1 in unused slots. An id that is repeated counts with its sum.
        q_probs: [drafts, width] float32; a point mass is width 1 and probability 1.
        lengths: [batch] int64, drafts per sequence; 0 decodes plainly.
        accept_noise: [drafts] float32, uniform in [0, 1).
        sample_noise: [batch, vocab] float32, exponential(1).

    Returns:
        accepted [batch] int64 and next_ids [batch] int64.

    Raises:
        ValueError: an operand's shape, dtype or device is wrong, the lengths do not add up, an id lies beyond the
            vocabulary, or a draft has no probability under its own q. (That q sums to 1 is the caller's to check.)
        ImportError: the operands are on a CUDA device and Triton is not installed.
    """
    rule = _check_layout(p.shape[0], draft_ids, lengths)
    device, drafts = draft_ids.device, draft_ids.shape[0]
    check_operand("p", p, FLOATS, (None, None), device if device.type != "cpu" else p.device)
    vocab = p.shape[1]
    check_operand("q_ids", q_ids, IDS, (drafts, None), device)
    check_operand("q_probs", q_probs, FLOATS, q_ids.shape, device)
    check_operand("accept_noise", accept_noise, FLOATS, (drafts,), device)
    check_operand("sample_noise", sample_noise, FLOATS, (lengths.shape[0], vocab), p.device)
    in_vocab = (draft_ids >= 0) & (draft_ids < vocab)
    own = _own_probability(draft_ids, q_ids, q_probs)
    check_rules(
        [
            rule,
            Rule("draft_ids", draft_ids, in_vocab.all(), f"ids below {vocab}"),
            Rule("q_ids", q_ids, ((q_ids >= -1) & (q_ids < vocab)).all(), f"ids below {vocab}, or -1"),
            Rule("q_probs", own, (own > 0).all(), "each draft to have a positive probability under its q"),
        ]
    )
    twin = triton_twin("verification", p)
    verify = twin.verify_chains_triton if twin else verify_chains_torch
    given = (draft_ids, q_ids, q_probs, lengths, accept_noise)
    operands = (p, *(part.to(p.device, non_blocking=True) for part in given), sample_noise)
    verified: Verified = verify(*operands)
    return verified


def verify_chains_torch(
    p: torch.Tensor,
    draft_ids: torch.Tensor,
    q_ids: torch.Tensor,
    q_probs: torch.Tensor,
    lengths: torch.Tensor,
    accept_noise: torch.Tensor,
    sample_noise: torch.Tensor,
) -> Verified:
    """Reference of `verify_chains`, without its checks; takes any floating dtype, so that proofs can run in float64."""
    drafts, batch = draft_ids.shape[0], lengths.shape[0]
    first, owner = _ragged(lengths, drafts)
    draft_rows = torch.arange(drafts, device=p.device) + owner
    passed = accept_noise * _own_probability(draft_ids, q_ids, q_probs) < p[draft_rows, draft_ids]
    accepted = _leading(passed, lengths, first, owner)

    rejected = accepted < lengths  # [batch]
    at = (first + accepted)[rejected]  # the drafts that were turned down
    slots = q_ids[at].long()  # [rejected, width]
    turned_down = p.new_zeros(at.shape[0], p.shape[1])
    turned_down.scatter_add_(1, slots.clamp(min=0), q_probs[at].masked_fill(slots < 0, 0.0))
    law = p[first + torch.arange(batch, device=p.device) + accepted]  # [batch, vocab]
    residual = law.clone()
    residual[rejected] -= turned_down

    best, next_ids = race_scores(residual, sample_noise).max(dim=-1)
    fallback = race_scores(law, sample_noise).argmax(dim=-1)
    return accepted, torch.where(best > 0, next_ids, fallback)


def _check_layout(rows: int, draft_ids: torch.Tensor, lengths: torch.Tensor) -> Rule:
    """Check the layout; the rule on the values of `lengths` is returned, to be read back with others."""
    check_operand("draft_ids", draft_ids, (torch.int64,), (None,), draft_ids.device)
    check_operand("lengths", lengths, (torch.int64,), (None,), draft_ids.device)
    drafts, batch = draft_ids.shape[0], lengths.shape[0]
    if rows != drafts + batch:
        raise ValueError(f"rows: expected {drafts} drafts + {batch} sequences = {drafts + batch}, got {rows}")
    adds_up = (lengths >= 0).all() & (lengths.sum() == drafts)
    return Rule("lengths", lengths, adds_up, f"none negative, and a sum of {drafts} drafts")


def _own_probability(draft_ids: torch.Tensor, q_ids: torch.Tensor, q_probs: torch.Tensor) -> torch.Tensor:
    """q(x) of each draft x: [drafts]."""
    return torch.where(q_ids == draft_ids[:, None], q_probs, torch.zeros_like(q_probs)).sum(dim=-1)


def _ragged(lengths: torch.Tensor, drafts: int) -> Verified:
    """The first draft of each sequence [batch], and the sequence of each draft [drafts]."""
    batch = torch.arange(lengths.shape[0], device=lengths.device)
    return lengths.cumsum(0) - lengths, torch.repeat_interleave(batch, lengths, output_size=drafts)


def _leading(passed: torch.Tensor, lengths: torch.Tensor, first: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """How many drafts passed before the first that did not: [batch]."""
    place = torch.arange(passed.shape[0], device=lengths.device) - first[owner]
    ends = torch.where(passed, lengths[owner], place)
    return lengths.scatter_reduce(0, owner, ends, "amin")
