"""The law a token is drawn from, and drawing from it.

`sampling_law` turns logits into probabilities by the request's temperature, top-k and top-p, for targets and drafters
alike; `top_width` truncates a law to what travels on the wire; `position_noise` and `race` draw. The one idea: a draw
is the race of exponential clocks, argmax p(x) / e(x) with e(x) ~ Exp(1), which picks x with probability p(x) exactly.
It needs no sums, so implementations agree on the id, and a seed can fix the noise of every position for good.
Everything here breaks ties towards the lowest id.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

# How many of the likeliest tokens are ranked before all are: top-p below 1 rarely needs more, and a full sort of a
# vocabulary of 49,152 costs nine times as much.
_FIRST_LOOK = 1024

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def sampling_law(
    logits: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    """Probabilities after temperature, then top-k, then top-p on the renormalised rest (as vLLM and transformers do).

    Top-k keeps exactly k tokens. Top-p keeps the fewest of the likeliest tokens that together reach `top_p`, and always
    the likeliest one. Among tokens of equal probability the lowest ids are kept.

    Args:
        logits: [rows, vocab], any floating dtype; -inf bans a token.
        temperature: [rows] float32, positive.
        top_k: [rows] int64; 0 is off.
        top_p: [rows] float32 in [0, 1]; 1 is off.

    Returns:
        [rows, vocab] float32; rows sum to 1 within rounding.

    Raises:
        ValueError: a parameter's shape or value is wrong.
    """
    _check_parameters(logits, temperature, top_k, top_p)
    scores = logits.float()
    # The maximum goes first: a temperature near 0 must not overflow.
    scores = (scores - scores.amax(dim=-1, keepdim=True)) / temperature[:, None]
    filtered = ((top_k > 0) & (top_k < logits.shape[1])) | (top_p < 1)
    rows = filtered.nonzero().squeeze(-1)
    if rows.numel():
        scores[rows] = _filter(scores[rows], top_k[rows], top_p[rows])
    return scores.softmax(dim=-1)


def top_width(p: torch.Tensor, width: int, renormalise: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The `width` likeliest ids of each law, in falling order of probability, as it travels on the wire.

    Args:
        p: [rows, vocab] float32.
        width: Slots per row, at least 1.
        renormalise: Make what is kept sum to 1 (a law to sample from), or keep p's own values (so the missing mass is
            known).

    Returns:
        ids [rows, width] int32 and probs [rows, width] float32; a slot of probability 0 holds id -1.

    Raises:
        ValueError: `width` is below 1, or `p` is not float32.
    """
    if width < 1:
        raise ValueError(f"width: expected at least 1, got {width}")
    if p.dtype != torch.float32:
        raise ValueError(f"p: expected dtype torch.float32, got {p.dtype}")
    rows, vocab = p.shape
    # Non-negative floats order like their bits; the id in the low half makes the keys distinct, so ties have one order.
    ids = torch.arange(vocab - 1, -1, -1, device=p.device)  # [vocab]
    keys = (p.contiguous().view(torch.int32).long() << 32) | ids
    top_ids = vocab - 1 - (keys.topk(min(width, vocab), dim=-1).values & 0xFFFFFFFF)  # [rows, <= width]
    probs = p.new_zeros(rows, width)
    probs[:, : top_ids.shape[1]] = p.gather(1, top_ids)
    kept = torch.full((rows, width), -1, dtype=torch.int32, device=p.device)
    kept[:, : top_ids.shape[1]] = top_ids.int()
    kept = kept.masked_fill(probs <= 0, -1)
    if renormalise:
        probs = probs / probs.sum(dim=-1, keepdim=True)
    return kept, probs


def position_noise(seed: int, position: int, vocab_size: int) -> torch.Tensor:
    """Exponential(1) noise for one position of a seeded request: a function of (seed, position) and nothing else.

    SplitMix64 (Steele, Lea, Flood 2014) over the token ids, keyed by a mix of both numbers. 52 bits per value, so that
    the noise resolves down to 1e-16: improbable tokens keep their share.

    Args:
        seed: Any integer; taken modulo 2**64.
        position: Position of the token, counted from the start of the prompt.
        vocab_size: Tokens in the vocabulary.

    Returns:
        [vocab_size] float32 on the CPU, every value positive.

    Raises:
        ValueError: `position` is negative.
    """
    if position < 0:
        raise ValueError(f"position: expected at least 0, got {position}")
    key = _mixed(_mixed(seed) + position * _GOLDEN)
    bits = _counters(vocab_size) + np.uint64(key)  # wraps, as meant
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits ^= bits >> np.uint64(shift)
        bits *= np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    # Half a step inside both ends: the logarithm is finite and never 0.
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return torch.from_numpy((-np.log(uniform)).astype(np.float32))


def race(p: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Draw one id per row: x wins with probability p(x) / sum(p) where the noise is exponential(1).

    Args:
        p: [rows, vocab] non-negative weights; they need not sum to 1.
        noise: [rows, vocab] or [vocab]. A noise of exactly 0 lets a possible token win.

    Returns:
        [rows] int64. An impossible token wins only where no token is possible: then it is id 0.
    """
    return race_scores(p, noise).argmax(dim=-1)


def race_scores(p: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """p / noise, and 0 where p is 0, negative or NaN, whatever the noise."""
    return torch.where(p > 0, p / noise, torch.zeros_like(p))


def _check_parameters(
    logits: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> None:
    if logits.dim() != 2:
        raise ValueError(f"logits: expected shape [rows, vocab], got {list(logits.shape)}")
    for name, parameter in (("temperature", temperature), ("top_k", top_k), ("top_p", top_p)):
        if parameter.shape != logits.shape[:1]:
            raise ValueError(f"{name}: expected shape [{logits.shape[0]}], got {list(parameter.shape)}")
    for name, parameter, holds, expected in (
        ("temperature", temperature, (temperature > 0) & (temperature < torch.inf), "positive and finite"),
        ("top_k", top_k, top_k >= 0, "at least 0"),
        ("top_p", top_p, (top_p >= 0) & (top_p <= 1), "from 0 to 1"),
    ):
        if not holds.all():
            raise ValueError(f"{name}: expected {expected}, got {parameter[~holds][0].item()}")


def _filter(scores: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Scores with everything that top-k and top-p cut set to -inf."""
    vocab = scores.shape[1]
    most = torch.where(top_k > 0, top_k.clamp(max=vocab), vocab)  # [rows]
    narrowed = most < vocab
    window = min(vocab, int(torch.where(narrowed, most, _FIRST_LOOK).max()))
    mass = scores.exp().sum(dim=-1, dtype=torch.float64)  # [rows]
    count, last, settled = _cut(scores.topk(window, dim=-1).values, most, narrowed, top_p, mass)
    late = (~settled).nonzero().squeeze(-1)
    if late.numel():
        ranked = scores[late].sort(dim=-1, descending=True).values
        count[late], last[late], _ = _cut(ranked, most[late], narrowed[late], top_p[late], mass[late])
    above = scores > last[:, None]
    tied = scores == last[:, None]
    room = count - above.sum(dim=-1)
    kept = above | (tied & (tied.cumsum(dim=-1) <= room[:, None]))
    return scores.masked_fill(~kept, -torch.inf)


def _cut(
    ranked: torch.Tensor, most: torch.Tensor, narrowed: torch.Tensor, top_p: torch.Tensor, mass: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How many of the ranked scores are kept, the last score kept, and whether the window was wide enough to tell.

    `ranked` [rows, window] is in falling order and spans `most` [rows], top-k's bound, where it is on (`narrowed`);
    `mass` [rows] is that of the whole row, and top-p acts on what top-k left of it.
    """
    window = ranked.shape[1]
    allowed = torch.arange(window, device=ranked.device) < most[:, None]  # [rows, window]
    weight = ranked.double().exp().masked_fill(~allowed, 0.0)
    through = weight.cumsum(dim=-1)
    goal = top_p.double() * torch.where(narrowed, through[:, -1], mass)
    inside = allowed & (through - weight < goal[:, None])
    count = torch.where(top_p < 1, inside.sum(dim=-1).clamp(min=1), most)
    settled = (most <= window) | (through[:, -1] >= goal)
    last = ranked.gather(1, count.clamp(max=window)[:, None] - 1).squeeze(1)
    return count, last, settled


def _mixed(number: int) -> int:
    """SplitMix64's output function: every bit of the result depends on every bit of the number."""
    number = (number + _GOLDEN) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


@lru_cache(maxsize=4)
def _counters(vocab_size: int) -> npt.NDArray[np.uint64]:
    counters = np.arange(vocab_size, dtype=np.uint64) * np.uint64(_GOLDEN)
    counters.setflags(write=False)
    return counters
