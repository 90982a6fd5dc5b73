"""The law a token is drawn from, and drawing from it.

`sampling_law` turns logits into probabilities by the request's temperature, top-k and top-p, for targets and drafters
alike (a Triton twin does on a CUDA device); `top_width` truncates a law to what travels on the wire; `position_noise`
and `race` draw. The one idea: a draw is the race of exponential clocks, argmax p(x) / e(x) with e(x) ~ Exp(1), which
picks x with probability p(x) exactly.
It needs no sums, so implementations agree on the id, and a seed can fix the noise of every position for good.
Everything here breaks ties towards the lowest id.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from paceline.kernels.dispatch import triton_twin

# How many of the likeliest tokens are ranked, widening for the rows that need more, before all are. Top-p rarely needs
# more than the first, and for a vocabulary of 49,152 the cost per row is about 0.1, 0.4 and 3.5 ms of a CPU core.
_WINDOWS = (64, 1024)

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_STEPS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))  # of SplitMix64's output function: shift, then multiply


def sampling_law(
    logits: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    """Probabilities after temperature, then top-k, then top-p on the renormalised rest (as vLLM and transformers do).

    Top-k keeps exactly k tokens. Top-p keeps the fewest of the likeliest tokens that together reach `top_p`, and always
    the likeliest one. Among tokens of equal probability the lowest ids are kept.

    Args:
        logits: [rows, vocab], any floating dtype; -inf bans a token.
        temperature: [rows] float32, positive. All three may lie on the CPU, where looking at them waits for nobody.
        top_k: [rows] int64; 0 is off.
        top_p: [rows] float32 in [0, 1]; 1 is off.

    Returns:
        [rows, vocab] float32; rows sum to 1 within rounding.

    Raises:
        ValueError: a parameter's shape or value is wrong.
        ImportError: the logits are on a CUDA device and Triton is not installed.
    """
    _check_parameters(logits, temperature, top_k, top_p)
    twin = triton_twin("law", logits)
    law = twin.sampling_law_triton if twin else sampling_law_torch
    heat, share = (part.to(logits.device, torch.float32, non_blocking=True) for part in (temperature, top_p))
    result: torch.Tensor = law(logits, heat, top_k.to(logits.device, non_blocking=True), share)
    return result


def sampling_law_torch(
    logits: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    """Reference of `sampling_law`, without its checks.

    With w(x) = exp((logit(x) - max) / temperature) and tokens ranked by (-w, id): K is the first k, and the law is
    w(x) / sum over N of w on N, the members of K before which less than p * sum over K of w lies, at least the first.
    """
    # The maximum goes first: a temperature near 0 must not overflow.
    weights = logits.float() - logits.amax(dim=-1, keepdim=True).float()
    weights.div_(temperature[:, None]).exp_()
    filtered = ((top_k > 0) & (top_k < logits.shape[1])) | (top_p < 1)
    rows = filtered.nonzero().squeeze(-1)
    if rows.numel():
        some = weights if len(rows) == len(weights) else weights[rows]
        _filter(some, top_k[rows], top_p[rows])
        if some is not weights:
            weights[rows] = some
    return weights.div_(weights.sum(dim=-1, keepdim=True))


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The id of each row's largest value; the lowest of equal ones.

    Args:
        logits: [rows, vocab], any floating dtype, none of them NaN.

    Returns:
        [rows] int64.
    """
    if logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.bfloat16):
        from paceline.kernels.likeliest_numba import (
            likeliest_numba,  # seconds of imports that light drafters do without
        )

        return likeliest_numba(logits)
    return logits.argmax(dim=-1)


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
    values, ids = _ranked(p, min(width, vocab))
    probs = p.new_zeros(rows, width)
    probs[:, : values.shape[1]] = values
    kept = torch.full((rows, width), -1, dtype=torch.int32, device=p.device)
    kept[:, : values.shape[1]] = ids.int()
    kept = kept.masked_fill(probs <= 0, -1)
    if renormalise:
        probs = probs / probs.sum(dim=-1, keepdim=True)
    return kept, probs


def position_noise(seed: int, position: int, vocab_size: int, device: torch.device | None = None) -> torch.Tensor:
    """Exponential(1) noise for one position of a seeded request: a function of (seed, position) and nothing else.

    SplitMix64 (Steele, Lea, Flood 2014) over the token ids, keyed by a mix of both numbers. 52 bits per value, so that
    the noise resolves down to 1e-16: improbable tokens keep their share. On every device it is made of the same bits;
    logarithms may differ in their last place.

    Args:
        seed: Any integer; taken modulo 2**64.
        position: Position of the token, counted from the start of the prompt.
        vocab_size: Tokens in the vocabulary.
        device: Where it is made; None for the CPU.

    Returns:
        [vocab_size] float32 on `device`, every value positive.

    Raises:
        ValueError: `position` is negative.
    """
    if position < 0:
        raise ValueError(f"position: expected at least 0, got {position}")
    key = _mixed(_mixed(seed) + position * _GOLDEN)
    if device is not None and device.type != "cpu":
        return _noise_torch(key, vocab_size, device)
    bits = _counters(vocab_size) + np.uint64(key)  # wraps, as meant
    for shift, factor in _STEPS:
        bits ^= bits >> np.uint64(shift)
        bits *= np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    # Half a step inside both ends: the logarithm is finite and never 0.
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return torch.from_numpy((-np.log(uniform)).astype(np.float32))


def _noise_torch(key: int, vocab_size: int, device: torch.device) -> torch.Tensor:
    """The same in torch, whose integers of 64 bits are signed: what is shifted in from the left is masked."""
    bits = torch.arange(vocab_size, device=device) * _signed(_GOLDEN) + _signed(key)
    for shift, factor in _STEPS:
        bits ^= (bits >> shift) & (_MASK >> shift)
        bits *= _signed(factor)
    bits ^= (bits >> 31) & (_MASK >> 31)
    uniform = (((bits >> 12) & (_MASK >> 12)).double() + 0.5) * 2.0**-52
    return -uniform.log().float()


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


def _ranked(p: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `width` largest values of each row and their ids, equal values by rising id.

    Which of equal values `topk` finds, and in what order, is its own affair: rows that it cuts between equals are
    sorted whole, and the others' few slots are put in order afterwards. On a device that would wait for the host, keys
    of which no two are equal are ranked instead.
    """
    if p.device.type != "cpu":
        return ranked_by_key(p, width)
    values, ids = p.topk(min(width + 1, p.shape[1]), dim=-1)
    cut_between_equals = (values[:, width - 1 : width] == values[:, width:]) & (values[:, width:] > 0)
    split = cut_between_equals.any(dim=-1).nonzero().squeeze(-1)
    values, ids = values[:, :width], ids[:, :width]
    if split.numel():
        order = p[split].sort(dim=-1, descending=True, stable=True)
        values[split], ids[split] = order.values[:, :width], order.indices[:, :width]
    ids, by_id = ids.sort(dim=-1)
    values, by_value = values.gather(1, by_id).sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(1, by_value)


def ranked_by_key(p: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same without waiting: 64-bit keys of the value's bits (not negative, so in its order), then of the id."""
    last = p.shape[1] - 1
    ids = torch.arange(p.shape[1], device=p.device)
    keys = (p.contiguous().view(torch.int32).long() << 32) + (last - ids)
    top = keys.topk(width, dim=-1).values  # in falling order
    found = last - (top & 0xFFFFFFFF)
    return p.gather(1, found), found


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


def _filter(weights: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> None:
    """Set everything that top-k and top-p cut to 0, in place."""
    rows, vocab = weights.shape
    most = torch.where(top_k > 0, top_k.clamp(max=vocab), vocab)  # [rows]
    mass = weights.sum(dim=-1).double()  # [rows]
    count, last, crowded = torch.zeros_like(most), weights.new_zeros(rows), torch.zeros_like(most, dtype=torch.bool)
    wanting = torch.arange(rows, device=weights.device)
    for window in (*(width for width in _WINDOWS if width < vocab), vocab):
        some = weights if len(wanting) == rows else weights[wanting]
        ranked = some.topk(window, dim=-1).values
        count[wanting], last[wanting], crowded[wanting], settled = _cut(
            ranked, most[wanting], top_p[wanting], mass[wanting], vocab
        )
        wanting = wanting[~settled]
        if not len(wanting):
            break
    tied = crowded.nonzero().squeeze(-1)
    weights[tied] = _lowest_ids(weights[tied], count[tied], last[tied])
    weights.masked_fill_(weights < last[:, None], 0.0)


def _lowest_ids(weights: torch.Tensor, count: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Keep `count` [rows] tokens of each row: all above `last` [rows], and the lowest ids of those that equal it."""
    above, level = weights > last[:, None], weights == last[:, None]
    room = count - above.sum(dim=-1)
    return weights.masked_fill(~(above | (level & (level.cumsum(dim=-1) <= room[:, None]))), 0.0)


def _cut(
    ranked: torch.Tensor, most: torch.Tensor, top_p: torch.Tensor, mass: torch.Tensor, vocab: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where the ranked weights are cut: how many are kept, the last weight kept, and two flags.

    The flags: whether tokens beyond the cut may weigh the same, and whether the window was wide enough to tell.

    `ranked` [rows, window] is in falling order, `most` [rows] is top-k's bound (`vocab` where off), and `mass` [rows]
    that of the whole row; top-p acts on what top-k left of it.
    """
    window = ranked.shape[1]
    allowed = torch.arange(window, device=ranked.device) < most[:, None]  # [rows, window]
    weight = ranked.double().masked_fill(~allowed, 0.0)
    through = weight.cumsum(dim=-1)
    goal = top_p.double() * torch.where(most < vocab, through[:, -1], mass)
    inside = allowed & (through - weight < goal[:, None])
    count = torch.where(top_p < 1, inside.sum(dim=-1).clamp(min=1), most)
    settled = (most <= window) | ((most == vocab) & (through[:, -1] >= goal))
    last = ranked.gather(1, count.clamp(max=window)[:, None] - 1).squeeze(1)
    after = ranked.gather(1, count.clamp(max=window - 1)[:, None]).squeeze(1)  # the first one cut, if in the window
    return count, last, (after == last) & (last > 0) & (count < vocab), settled


def _mixed(number: int) -> int:
    """SplitMix64's output function: every bit of the result depends on every bit of the number."""
    number = (number + _GOLDEN) & _MASK
    for shift, factor in _STEPS:
        number = ((number ^ (number >> shift)) * factor) & _MASK
    return number ^ (number >> 31)


def _signed(number: int) -> int:
    """The signed integer with the same 64 bits."""
    return number - (1 << 64) if number >> 63 else number


@lru_cache(maxsize=4)
def _counters(vocab_size: int) -> npt.NDArray[np.uint64]:
    counters = np.arange(vocab_size, dtype=np.uint64) * np.uint64(_GOLDEN)
    counters.setflags(write=False)
    return counters
