"""Verification: twins against references, id for id.

`test_verification_proof` holds the proofs. Which bug each regime catches:
    ordinary        a wrong stride, or a row of p one off from its draft
    point masses    a residual that keeps the rejected token
    plain           zero-length drafts: a sequence whose rejection row is its neighbour's
    odd vocabulary  an unmasked tail (vocabulary and width no powers of two, vocabulary beyond one block)
    all accepted    a bonus drawn from a residual
    all rejected    a bonus drawn where there is none; a second draft accepted after a rejection
    wide q          ids of q where p has no mass, and an empty residual elsewhere
    p equals q      (p - q)+ is all zero: what then
    long batch      offsets beyond one block of sequences; drafts beyond one block
    unused slots    -1 read as a token, where the slot's probability is not 0
    ties            a later block's equal score taken for a better one
    repeated ids    a slot that overwrites another instead of adding to it
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch

from paceline.kernels.law import top_width
from paceline.kernels.verification import (
    verify_chains,
    verify_chains_torch,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Chains(NamedTuple):
    """The operands of `verify_chains`, in its order."""

    p: torch.Tensor
    draft_ids: torch.Tensor
    q_ids: torch.Tensor
    q_probs: torch.Tensor
    lengths: torch.Tensor
    accept_noise: torch.Tensor
    sample_noise: torch.Tensor


def chains(lengths: list[int], vocab: int, width: int, seed: int = 0, closeness: float = 1.0) -> Chains:
    """Drafts drawn from a truncated q that resembles p."""
    noise = torch.Generator().manual_seed(seed)
    drafts, batch = sum(lengths), len(lengths)
    logits = torch.randn(drafts + batch, vocab, generator=noise) * 2
    per_sequence = torch.tensor(lengths, dtype=torch.int64)
    rows = torch.arange(drafts) + torch.repeat_interleave(torch.arange(batch), per_sequence)
    other = logits[rows] + torch.randn(drafts, vocab, generator=noise) * closeness
    q_ids, q_probs = top_width(other.softmax(-1), width, renormalise=True)
    drawn = torch.multinomial(q_probs, 1, generator=noise) if drafts else torch.zeros(0, 1, dtype=torch.int64)
    return Chains(
        logits.softmax(-1),
        q_ids.long().gather(1, drawn).squeeze(1),
        q_ids,
        q_probs,
        per_sequence,
        torch.rand(drafts, generator=noise),
        torch.empty(batch, vocab).exponential_(generator=noise),
    )


def point_masses() -> Chains:
    case = chains([3, 1, 2, 4], 11, 1, seed=1)
    return case._replace(q_ids=case.draft_ids[:, None].clone(), q_probs=torch.ones(10, 1))


def p_equals_q() -> Chains:
    case = chains([2, 3, 1], 9, 9, seed=2)
    rows = torch.tensor([0, 1, 3, 4, 5, 7])
    ids = torch.arange(9).expand(6, 9).contiguous()
    # Noise just below 1 and above: the second cannot happen, and must still end in a draw from p.
    return case._replace(q_ids=ids, q_probs=case.p[rows], accept_noise=torch.tensor([0.99, 1.5, 0.5, 0.99, 1.5, 1.5]))


def wide_q() -> Chains:
    """p has mass on three ids, q on all: most drafts are impossible, and the residual is p's support at most."""
    case = chains([2, 2, 2, 2, 2], 40, 40, seed=3)
    p = torch.zeros(15, 40)
    p[:, [1, 17, 39]] = torch.tensor([0.2, 0.3, 0.5])
    return case._replace(p=p)


def unused_slots() -> Chains:
    case = chains([3, 2, 2], 12, 4, seed=15)
    unused = case.q_ids != case.draft_ids[:, None]
    case.sample_noise[:, 0] = 1e-6  # token 0 wins, unless an unused slot was taken for it
    return case._replace(
        q_ids=case.q_ids.masked_fill(unused, -1),
        q_probs=torch.where(unused, 0.9, 1.0),
        accept_noise=torch.full((7,), 0.9),
    )


def ties() -> Chains:
    case = chains([1, 0, 2], 5000, 3, seed=16)
    clocks = torch.randint(1, 3, (3, 5000), generator=torch.Generator().manual_seed(17)).float()
    clocks[1, :4000] = 2.0  # the winner is in the second block or later
    return case._replace(p=torch.full((6, 5000), 1 / 5000), sample_noise=clocks)


def repeated_ids() -> Chains:
    case = chains([2, 1], 6, 3, seed=4)
    ids = torch.tensor([[2, 2, 4], [0, 5, 0], [3, 3, 3]], dtype=torch.int32)
    probs = torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])
    return case._replace(draft_ids=torch.tensor([2, 0, 3]), q_ids=ids, q_probs=probs)


REGIMES = {
    "ordinary": lambda: chains([4, 4, 4], 64, 8),
    "ragged": lambda: chains([5, 0, 1, 7, 2], 64, 8, seed=5),
    "point masses": point_masses,
    "plain": lambda: chains([0, 0, 0, 0], 33, 4, seed=6),
    "odd vocabulary": lambda: chains([3, 0, 2], 4099, 13, seed=7),
    "all accepted": lambda: chains([3, 5], 21, 21, seed=8)._replace(accept_noise=torch.zeros(8)),
    "all rejected": lambda: chains([3, 5, 1], 21, 5, seed=9)._replace(accept_noise=torch.full((9,), 1e6)),
    "wide q": wide_q,
    "p equals q": p_equals_q,
    "long batch": lambda: chains([1, 0, 2] * 100, 7, 3, seed=10),
    "long draft": lambda: chains([300, 2], 8, 8, seed=11, closeness=0.01),
    "repeated ids": repeated_ids,
    "unused slots": unused_slots,
    "ties": ties,
    "one token": lambda: chains([2, 0], 1, 1, seed=12),
    "no sequences": lambda: chains([], 8, 2, seed=13),
}


def on_device(case: Chains) -> Chains:
    return Chains(*(operand.to(DEVICE) for operand in case))


def assert_same(got: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    for name, mine, theirs in zip(("accepted", "next_ids"), got, expected, strict=True):
        assert mine.dtype == torch.int64
        assert mine.tolist() == theirs.tolist(), name


def plain_chains(case: Chains) -> tuple[list[int], list[int]]:
    """The definition, one sequence and one draft at a time, in Python floats."""
    accepted, next_ids, start = [], [], 0
    for sequence, length in enumerate(case.lengths.tolist()):
        residual = case.p[start + sequence + length].tolist()
        count = length
        for place in range(length):
            draft, row = start + place, case.p[start + sequence + place].tolist()
            q = [0.0] * len(row)
            for token, prob in zip(case.q_ids[draft].tolist(), case.q_probs[draft].tolist(), strict=True):
                if token >= 0:
                    q[token] += prob
            token = int(case.draft_ids[draft])
            if not float(case.accept_noise[draft]) * q[token] < row[token]:
                positive = [max(a - b, 0.0) for a, b in zip(row, q, strict=True)]
                residual = positive if any(positive) else row
                count = place
                break
        noise = case.sample_noise[sequence].tolist()
        scores = [weight / e for weight, e in zip(residual, noise, strict=True)]
        accepted.append(count)
        next_ids.append(scores.index(max(scores)))
        start += length
    return accepted, next_ids


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("id_dtype", [torch.int32, torch.int64])
def test_chains_twin_agrees_with_the_reference(regime: str, id_dtype: torch.dtype) -> None:
    from paceline.kernels.verification_triton import verify_chains_triton

    case = on_device(REGIMES[regime]())
    case = case._replace(q_ids=case.q_ids.to(id_dtype))
    assert_same(verify_chains_triton(*case), verify_chains_torch(*case))


@pytest.mark.parametrize("regime", REGIMES)
def test_chains_follow_the_definition(regime: str) -> None:
    case = REGIMES[regime]()
    accepted, next_ids = verify_chains(*case)
    assert (accepted.tolist(), next_ids.tolist()) == plain_chains(case)


def test_the_regimes_are_what_they_say() -> None:
    """A regime that stopped reaching its corner would still pass above."""
    accepted = {name: verify_chains(*REGIMES[name]())[0].tolist() for name in ("all accepted", "all rejected")}
    assert accepted == {"all accepted": [3, 5], "all rejected": [0, 0, 0]}
    equal = p_equals_q()
    assert verify_chains(*equal)[0].tolist() == [1, 2, 0]
    for name in ("ragged", "long batch", "odd vocabulary", "wide q"):
        case = REGIMES[name]()
        ends = verify_chains(*case)[0]
        assert (ends < case.lengths).any(), f"{name}: nothing was rejected"
        assert (ends == case.lengths).any() or name == "wide q", f"{name}: nothing was accepted"


@pytest.mark.parametrize("twin", ["torch", "triton"])
def test_noise_and_ties_at_their_edges(twin: str) -> None:
    if twin == "torch":
        verify = verify_chains_torch
    else:
        from paceline.kernels.verification_triton import verify_chains_triton as verify
    p = torch.tensor([[0.0, 0.5, 0.5, 0.0], [0.25, 0.25, 0.25, 0.25]])

    def outcome(draft: int, noise: float, race: list[float], q: float = 1.0) -> tuple[int, int]:
        case = Chains(
            p,
            torch.tensor([draft]),
            torch.tensor([[draft]]),
            torch.tensor([[q]]),
            torch.tensor([1]),
            torch.tensor([noise]),
            torch.tensor([race]),
        )
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # the interpreter computes with NumPy
            accepted, next_ids = verify(*on_device(case))
        return int(accepted), int(next_ids)

    even = [1.0, 1.0, 1.0, 1.0]
    assert outcome(0, 0.0, even) == (0, 1)  # noise 0 does not accept an impossible token; ties go to the lowest id
    assert outcome(1, 0.0, even) == (1, 0)
    assert outcome(1, 0.5, even) == (0, 2)  # 0.5 * 1 < 0.5 is false; the rejected token is not in the residual
    assert outcome(1, 0.4999, even) == (1, 0)
    assert outcome(0, 0.5, [0.0, 3.0, 2.0, 0.0]) == (0, 2)  # noise 0 does not make an impossible token win
    assert outcome(0, 0.5, [1.0, 0.0, 0.0, 1.0]) == (0, 1)  # two that are certain to win: the lowest id
    assert outcome(1, 0.0, [1.0, 1.0, 1.0, 1e-38]) == (1, 3)  # a quotient that overflows


@pytest.mark.parametrize("twin", ["torch", "triton"])
def test_an_unfit_law_still_gives_an_id(twin: str) -> None:
    """A NaN in p is the target's fault and is caught elsewhere; it must not become an id beyond the vocabulary."""
    if twin == "torch":
        verify = verify_chains_torch
    else:
        from paceline.kernels.verification_triton import verify_chains_triton as verify
    case = chains([2, 0], 5, 2, seed=14)
    case.p[:] = torch.nan
    assert_same(verify(*on_device(case)), (torch.tensor([0, 0]), torch.tensor([0, 0])))


# ---------------------------------------------------------------- bad operands, and the dispatcher


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("rows", {"p": torch.ones(4, 6)}),
        ("p", {"p": torch.ones(5, 6, dtype=torch.float64)}),
        ("draft_ids", {"draft_ids": torch.tensor([1, 6, 1])}),
        ("draft_ids", {"draft_ids": torch.tensor([1, -1, 1])}),
        ("draft_ids", {"draft_ids": torch.tensor([1, 1, 1], dtype=torch.int32)}),
        ("q_ids", {"q_ids": torch.tensor([[1, 2], [1, 6], [1, 2]])}),
        ("q_ids", {"q_ids": torch.tensor([[1, 2], [1, -2], [1, 2]])}),
        ("q_ids", {"q_ids": torch.tensor([[1, 2], [1, 2]])}),
        ("q_probs", {"q_probs": torch.ones(3, 3)}),
        ("q_probs", {"draft_ids": torch.tensor([1, 1, 3])}),  # not in its q
        ("q_probs", {"q_probs": torch.full((3, 2), torch.nan)}),
        ("lengths", {"lengths": torch.tensor([2, 2])}),
        ("lengths", {"lengths": torch.tensor([4, -1])}),
        ("lengths", {"lengths": torch.tensor([2.0, 1.0])}),
        ("accept_noise", {"accept_noise": torch.zeros(2)}),
        ("sample_noise", {"sample_noise": torch.ones(2, 5)}),
    ],
)
def test_bad_operands_are_refused_by_name(field: str, change: dict[str, torch.Tensor]) -> None:
    good = Chains(
        torch.full((5, 6), 1 / 6),
        torch.tensor([1, 1, 1]),
        torch.tensor([[1, 2]] * 3),
        torch.full((3, 2), 0.5),
        torch.tensor([2, 1]),
        torch.zeros(3),
        torch.ones(2, 6),
    )
    verify_chains(*good)
    with pytest.raises(ValueError, match=rf"^{field}: expected .* got "):
        verify_chains(*good._replace(**change))


def test_lengths_that_do_not_add_up_are_refused() -> None:
    good = chains([2, 1], 6, 2, seed=1)
    with pytest.raises(ValueError, match=r"^lengths: expected .* a sum of 3 drafts, got values from 1 to 3"):
        verify_chains(*good._replace(lengths=torch.tensor([1, 3])))


class _OnGpu:
    """Stands for a tensor on a CUDA device, as far as the choice of a twin can see."""

    is_cuda = True
    device = "cuda:0"


def test_dispatcher_picks_the_twin_by_device_and_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from paceline.kernels.dispatch import triton_twin

    assert triton_twin("verification", torch.zeros(1)) is None
    twin = triton_twin("verification", _OnGpu())  # type: ignore[arg-type]
    assert twin is not None
    assert twin.__name__ == "paceline.kernels.verification_triton"
    monkeypatch.delitem(sys.modules, "paceline.kernels.verification_triton")
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"verification: tensors on cuda:0 need Triton.*pip install"):
        triton_twin("verification", _OnGpu())  # type: ignore[arg-type]


@pytest.mark.gpu
def test_full_size_twin_agrees() -> None:
    from paceline.kernels.verification_triton import verify_chains_triton

    for vocab, width, seed in ((128_256, 64, 1), (49_152, 1, 2), (151_936, 256, 3)):
        case = on_device(chains([7, 0, 3, 5] * 8, vocab, width, seed=seed))
        assert_same(verify_chains_triton(*case), verify_chains_torch(*case))
