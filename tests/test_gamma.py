"""Every gamma against what it stands for: the chance that the verifier accepts, by enumeration over all drafts.

The chain's rule accepts a token x drawn from q with probability min(1, p(x)/q(x)); greedy verification accepts the
target's likeliest token; a point mass on d is a draft that is d for sure.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from single_ring import SingleRing

from paceline.actors.gamma import overlap_sparse, point_gammas
from paceline.actors.messages import Commit, Laws
from paceline.kernels.overlap import overlap

VOCAB = 4


def laws(parts: int) -> list[list[Fraction]]:
    """All laws over the vocabulary in steps of 1 / parts."""
    return [
        [Fraction(part, parts) for part in split]
        for split in itertools.product(range(parts + 1), repeat=VOCAB)
        if sum(split) == parts
    ]


def accepted(p: Sequence[Fraction], q: Sequence[Fraction]) -> Fraction:
    """Over every token that could be drawn: its chance, times the chance that it is accepted."""
    return sum((q[x] * min(Fraction(1), p[x] / q[x]) for x in range(VOCAB) if q[x] > 0), Fraction(0))


def sparse(rows: Sequence[Sequence[Fraction]]) -> Laws:
    """Ids in descending probability, as laws travel; what has none is an unused slot."""
    order = [sorted(range(VOCAB), key=lambda x, law=law: -law[x]) for law in rows]  # type: ignore[misc]
    ids = [[x if law[x] > 0 else -1 for x in line] for law, line in zip(rows, order, strict=True)]
    probs = [[float(law[x]) for x in line] for law, line in zip(rows, order, strict=True)]
    return Laws(np.array(ids, dtype=np.int32), np.array(probs, dtype=np.float32))


@pytest.fixture(scope="module")
def pairs() -> list[tuple[list[Fraction], list[Fraction]]]:
    return list(itertools.product(laws(5), laws(3)))


def test_the_overlap_is_the_chance_of_acceptance(pairs: list[tuple[list[Fraction], list[Fraction]]]) -> None:
    """For laws that were sampled from: both the light kinds' sparse form and the model kinds' kernel."""
    p, q = sparse([p for p, _ in pairs]), sparse([q for _, q in pairs])
    expected = np.array([float(accepted(p, q)) for p, q in pairs])
    np.testing.assert_allclose(overlap_sparse(p, q), expected, atol=1e-6)
    dense = torch.tensor([[float(x) for x in p] for p, _ in pairs])
    got = overlap(dense, torch.from_numpy(q.ids), torch.from_numpy(q.probs))
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


def test_a_guess_is_a_point_mass_to_the_same_rule() -> None:
    cases = list(itertools.product(laws(5), range(VOCAB)))
    commit = Commit(1, 0, [0] * len(cases), sparse([p for p, _ in cases]))
    expected = [float(accepted(p, [Fraction(int(x == d)) for x in range(VOCAB)])) for p, d in cases]
    np.testing.assert_allclose(point_gammas([d for _, d in cases], commit), expected, atol=1e-6)


def test_greedy_accepts_the_targets_token_and_nothing_else() -> None:
    cases = list(itertools.product(range(VOCAB), range(-1, VOCAB)))
    commit = Commit(1, 0, [token for token, _ in cases])
    got = point_gammas([guess for _, guess in cases], commit)
    assert got.tolist() == [float(token == guess) for token, guess in cases]


def test_no_guess_is_never_accepted() -> None:
    commit = Commit(1, 0, [0, 1], sparse([laws(5)[7], laws(5)[20]]))
    assert point_gammas([-1, -1], commit).tolist() == [0.0, 0.0]


def test_rounds_begin_as_often_as_every_draft_that_could_be_drawn_lets_them() -> None:
    """Six positions with laws of their own: every way in which guesses can be accepted, each by its chance, walked in
    rounds of three drafted tokens."""
    random = np.random.default_rng(5)
    choices = laws(6)
    for _ in range(10):
        p, q = ([choices[index] for index in random.integers(len(choices), size=6)] for _ in range(2))
        chances = [sum((min(a, b) for a, b in zip(p[at], q[at], strict=True)), Fraction(0)) for at in range(6)]
        expected = [Fraction(0)] * 6
        for hits in itertools.product((True, False), repeat=6):
            chance, age = Fraction(1), 0
            for hit, accepted in zip(hits, chances, strict=True):
                chance *= accepted if hit else 1 - accepted
            for at, hit in enumerate(hits):
                expected[at] += chance * (age == 0)
                age = age + 1 if hit and age < 3 else 0
        ring = SingleRing(0, 3, 0, 1)
        ring.put(0, 0, overlap_sparse(sparse(p), sparse(q)))
        assert ring.advance(9)[:, 0, 0] == pytest.approx([float(value) for value in expected], abs=1e-5)
