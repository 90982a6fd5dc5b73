# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"
# (Triton ships no types, and a kernel's arguments are pointers and numbers that only its compiler types.)
"""Triton twin of `law.sampling_law_torch`: temperature, top-k, top-p and the softmax of a row in one program.

Nothing is sorted. Weights are not negative, so that their bits as integers are in their own order, and the last weight
that is kept is found by bisecting those bits: 30 passes over a row that lies in the cache, whatever k and p are. The
twin keeps the same tokens as the reference, the lowest ids of equals included, and does not wait for the device. The
dispatcher in `law` has checked the parameters.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 4096  # tokens of the vocabulary at a time
_WARPS = 16
_LARGEST = tl.constexpr(0x3F800000)  # the bits of 1.0, the likeliest token's weight


@triton.jit
def _beyond(weights, vocab, level, block: tl.constexpr):
    """How many weights of a row are larger than the one with the bits `level`, and their sum."""
    count = tl.zeros([block], dtype=tl.int32)
    mass = tl.zeros([block], dtype=tl.float64)
    for first in range(0, vocab, block):
        token = first + tl.arange(0, block)
        weight = tl.load(weights + token, mask=token < vocab, other=0.0)
        larger = weight.to(tl.int32, bitcast=True) > level
        count += larger.to(tl.int32)
        mass += tl.where(larger, weight, 0.0).to(tl.float64)
    return tl.sum(count, axis=0), tl.sum(mass, axis=0)


@triton.jit
def law_kernel(logits, temperature, top_k, top_p, law, vocab, block: tl.constexpr):
    """Row r: its weights into `law`, the level below which they are cut, and the rest over their sum."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocab
    law += row * vocab
    heat = tl.load(temperature + row)
    most = tl.load(top_k + row)
    share = tl.load(top_p + row)

    highest = tl.full([block], -float("inf"), dtype=tl.float32)
    for first in range(0, vocab, block):
        token = first + tl.arange(0, block)
        logit = tl.load(logits + token, mask=token < vocab, other=-float("inf")).to(tl.float32)
        highest = tl.maximum(highest, logit)
    top = tl.max(highest, axis=0)
    sums = tl.zeros([block], dtype=tl.float64)
    for first in range(0, vocab, block):
        token = first + tl.arange(0, block)
        logit = tl.load(logits + token, mask=token < vocab, other=-float("inf")).to(tl.float32)
        weight = tl.exp(tl.div_rn(logit - top, heat))
        tl.store(law + token, weight, mask=token < vocab)
        sums += weight.to(tl.float64)
    mass = tl.sum(sums, axis=0)
    tl.debug_barrier()  # from here on threads read what others wrote

    level = tl.full((), -1, tl.int32)  # bits of the last weight kept; -1 keeps all
    room = tl.full((), 0, tl.int64)  # how many of the tokens at that level are kept
    if (most > 0) & (most < vocab):
        level, high = tl.full((), 0, tl.int32), tl.full((), _LARGEST, tl.int32)
        while level < high:
            middle = level + (high - level) // 2
            count, _ = _beyond(law, vocab, middle, block)
            high = tl.where(count <= most, middle, high)
            # As many as are wanted lie beyond: the cut goes between two weights, and nothing is left to find.
            level = tl.where(count == most, middle, tl.where(count < most, level, middle + 1))
        count, larger = _beyond(law, vocab, level, block)
        room = most - count
        mass = larger + room.to(tl.float64) * level.to(tl.float32, bitcast=True).to(tl.float64)
    if share < 1.0:
        goal = share.to(tl.float64) * mass
        cut_by_k, room_by_k = level, room
        level, high = tl.maximum(level, 0), tl.full((), _LARGEST, tl.int32)
        while level < high:
            middle = level + (high - level) // 2
            _, larger = _beyond(law, vocab, middle, block)
            high = tl.where(larger < goal, middle, high)
            level = tl.where(larger < goal, level, middle + 1)
        count, larger = _beyond(law, vocab, level, block)
        value = level.to(tl.float32, bitcast=True).to(tl.float64)
        wanted = tl.ceil((goal - larger) / tl.where(value > 0.0, value, 1.0)).to(tl.int64)
        wanted = tl.where(value > 0.0, wanted, 0)  # tokens without weight have no share
        room = tl.where(level == cut_by_k, tl.minimum(wanted, room_by_k), wanted)
        room = tl.where(count + room < 1, 1, room)
        mass = larger + room.to(tl.float64) * value

    # `room` counts tokens at the level in the order of their ids: those at the level beyond it are cut.
    whole = mass.to(tl.float32)
    before = tl.full((), 0, tl.int64)
    for first in range(0, vocab, block):
        token = first + tl.arange(0, block)
        weight = tl.load(law + token, mask=token < vocab, other=0.0)
        bits = weight.to(tl.int32, bitcast=True)
        equal = (bits == level) & (token < vocab)
        place = before + tl.cumsum(equal.to(tl.int64), axis=0)
        before += tl.sum(equal.to(tl.int64), axis=0)
        kept = (bits > level) | (equal & (place <= room))
        tl.store(law + token, tl.where(kept, tl.div_rn(weight, whole), 0.0), mask=token < vocab)


def sampling_law_triton(
    logits: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    """Twin of `law.sampling_law_torch`, with the same arguments and result."""
    rows, vocab = logits.shape
    law = torch.empty(rows, vocab, dtype=torch.float32, device=logits.device)
    if rows:
        with torch.cuda.device_of(logits):
            law_kernel[(rows,)](
                logits.contiguous(),
                temperature.contiguous(),
                top_k.contiguous(),
                top_p.contiguous(),
                law,
                vocab,
                block=min(_BLOCK, triton.next_power_of_2(vocab)),
                num_warps=_WARPS,
                enable_fp_fusion=False,
            )
    return law
