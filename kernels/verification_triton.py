# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"
# (Triton ships no types, and a kernel's arguments are pointers and numbers that only its compiler types.)
"""Triton twin of `verify_chains_torch`: one program per sequence, one launch.

It gives the same ids as the reference, bit for bit: the only arithmetic that decides is one product, one difference
and one correctly rounded quotient per token. It does not wait for the device. The dispatcher in `verification` has
checked the operands; a stray id would still not be read or written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 2048  # tokens of the vocabulary at a time
_LENGTHS_BLOCK = 256  # sequences, or drafts, at a time
_WARPS = 8


@triton.jit
def _first_draft(lengths, sequence, block: tl.constexpr):
    """Where the sequence's drafts begin: the lengths of all before it, summed."""
    total = tl.zeros([block], dtype=tl.int64)
    for first in range(0, sequence, block):
        before = first + tl.arange(0, block)
        total += tl.load(lengths + before, mask=before < sequence, other=0)
    return tl.sum(total, axis=0)


@triton.jit
def _lead(weight, noise, first, best, winner):
    """One block of the race: the best score and its id so far. Ties stay with the lower id."""
    # `/` alone is a faster, less exact quotient on a GPU; the twins must agree on ties.
    scores = tl.where(weight > 0.0, tl.div_rn(weight, noise), 0.0)
    top, place = tl.max(scores, axis=0, return_indices=True)
    ahead = top > best
    return tl.where(ahead, top, best), tl.where(ahead, first + place, winner)


@triton.jit
def chains_kernel(
    p,
    draft_ids,
    q_ids,
    q_probs,
    lengths,
    accept_noise,
    sample_noise,
    turned_down,  # [batch, vocab] zeros: the q of the rejected draft is spread out here
    accepted,
    next_ids,
    vocab,
    width,
    slots: tl.constexpr,
    lengths_block: tl.constexpr,
    block: tl.constexpr,
):
    """Sequence b: walk its drafts to the first rejection, then race for the next token."""
    sequence = tl.program_id(0).to(tl.int64)
    start = _first_draft(lengths, sequence, lengths_block)
    length = tl.load(lengths + sequence)
    slot = tl.arange(0, slots)

    end = length
    for place in range(length):
        draft = start + place
        token = tl.load(draft_ids + draft)
        ids = tl.load(q_ids + draft * width + slot, mask=slot < width, other=-1).to(tl.int64)
        probs = tl.load(q_probs + draft * width + slot, mask=slot < width, other=0.0)
        q_token = tl.sum(tl.where(ids == token, probs, 0.0), axis=0)
        in_vocab = (token >= 0) & (token < vocab)
        p_token = tl.load(p + (draft + sequence) * vocab + token, mask=in_vocab, other=0.0)
        passed = tl.load(accept_noise + draft) * q_token < p_token
        end = tl.where(passed, end, tl.minimum(end, place))

    draft = start + end
    used = slot < tl.where(end < length, width, 0)  # none where all drafts stand
    ids = tl.load(q_ids + draft * width + slot, mask=used, other=-1).to(tl.int64)
    probs = tl.load(q_probs + draft * width + slot, mask=used, other=0.0)
    tl.atomic_add(turned_down + sequence * vocab + ids, probs, mask=used & (ids >= 0) & (ids < vocab))
    tl.debug_barrier()  # this program's other threads read what was spread

    best = 0.0
    winner = tl.full((), 0, tl.int64)
    fallback_best = 0.0
    fallback = tl.full((), 0, tl.int64)
    for first in range(0, vocab, block):
        token = first + tl.arange(0, block)
        inside = token < vocab
        law = tl.load(p + (draft + sequence) * vocab + token, mask=inside, other=0.0)
        taken = tl.load(turned_down + sequence * vocab + token, mask=inside, other=0.0)
        noise = tl.load(sample_noise + sequence * vocab + token, mask=inside, other=1.0)
        best, winner = _lead(law - taken, noise, first, best, winner)
        fallback_best, fallback = _lead(law, noise, first, fallback_best, fallback)
    tl.store(accepted + sequence, end)
    tl.store(next_ids + sequence, tl.where(best > 0.0, winner, fallback))


def verify_chains_triton(
    p: torch.Tensor,
    draft_ids: torch.Tensor,
    q_ids: torch.Tensor,
    q_probs: torch.Tensor,
    lengths: torch.Tensor,
    accept_noise: torch.Tensor,
    sample_noise: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Twin of `verification.verify_chains_torch`, with the same arguments and results (float32 only)."""
    accepted, next_ids = torch.empty_like(lengths), torch.empty_like(lengths)
    batch, width, vocab = lengths.shape[0], q_ids.shape[1], p.shape[1]
    if batch:
        with torch.cuda.device_of(p):
            chains_kernel[(batch,)](
                p.contiguous(),
                draft_ids.contiguous(),
                q_ids.contiguous(),
                q_probs.contiguous(),
                lengths.contiguous(),
                accept_noise.contiguous(),
                sample_noise.contiguous(),
                torch.zeros(batch, vocab, dtype=torch.float32, device=p.device),
                accepted,
                next_ids,
                vocab,
                width,
                slots=triton.next_power_of_2(max(width, 1)),
                lengths_block=_LENGTHS_BLOCK,
                block=_BLOCK,
                num_warps=_WARPS,
                enable_fp_fusion=False,
            )
    return accepted, next_ids
