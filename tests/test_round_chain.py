"""Rounds of a drafter's own: by hand, by enumeration, for every length, and what means over positions get wrong."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from single_ring import SingleChain


def starts(gammas: np.ndarray, *lengths: int) -> np.ndarray:
    """u [positions, drafters, lengths] of gammas [positions, drafters]."""
    chain = SingleChain(gammas.shape[1], np.array(lengths))
    everyone = np.arange(gammas.shape[1])
    return np.array([chain.advance(everyone, np.tile(row[:, None], max(lengths))) for row in gammas])


def walk(hits: tuple[int, ...], most: int) -> np.ndarray:
    """Where rounds begin when each position's draft is right or wrong for certain."""
    u, at = np.zeros(len(hits)), 0
    while at < len(hits):
        u[at] = 1.0
        run = 0
        while run < most and at + run < len(hits) and hits[at + run]:
            run += 1
        at += run + 1
    return u


def test_certain_drafts_are_walked() -> None:
    lengths = (1, 2, 3, 7)
    for hits in product((0, 1), repeat=8):
        got = starts(np.array(hits, dtype=float)[:, None], *lengths)
        for place, length in enumerate(lengths):
            assert got[:, 0, place] == pytest.approx(walk(hits, length))


def test_chances_are_the_mean_over_all_outcomes() -> None:
    gammas = np.random.default_rng(0).random((7, 2))
    got = starts(gammas, 1, 3)
    for drafter, (place, length) in product((0, 1), enumerate((1, 3))):
        own, expected = gammas[:, drafter], np.zeros(7)
        for hits in product((0, 1), repeat=7):
            expected += np.prod(np.where(hits, own, 1 - own)) * walk(hits, length)
        assert got[:, drafter, place] == pytest.approx(expected)


def test_a_steady_drafter_beats_one_with_a_run_though_its_mean_length_is_less() -> None:
    """Of 64 positions one is right on every second, the other on the first 16 and never again."""
    steady, runs = np.tile([1.0, 0.0], 32), np.repeat([1.0, 0.0], [16, 48])
    rounds = starts(np.stack([steady, runs], axis=1), 7).sum(axis=0)[:, 0]
    assert rounds == pytest.approx([32, 50])
    lengths = [
        1 + sum(np.prod(hits[at : at + ahead + 1]) for ahead in range(7)) for hits in (steady, runs) for at in range(57)
    ]
    assert np.mean(lengths[57:]) > 1.4 * np.mean(lengths[:57])


def test_a_gamma_may_be_worth_less_deeper_in_a_draft() -> None:
    chain = SingleChain(1, np.array([2]))
    everyone = np.arange(1)
    worth = np.array([[1.0, 0.5]])
    got = [chain.advance(everyone, worth)[0, 0] for _ in range(4)]
    assert got == pytest.approx([1.0, 0.0, 0.5, 0.5])  # ends at the second token, or with the bonus after it


def test_who_is_not_named_stays_where_it_is_and_who_joins_begins_there() -> None:
    chain = SingleChain(2, np.array([3]))
    hit, miss = np.ones((1, 3)), np.zeros((1, 3))
    assert chain.advance(np.array([0, 1]), np.ones((2, 3)))[:, 0].tolist() == [1, 1]
    assert chain.advance(np.array([1]), hit)[:, 0].tolist() == [0]
    assert chain.advance(np.array([1]), miss)[:, 0].tolist() == [0]
    chain.join()
    assert chain.advance(np.arange(3), np.ones((3, 3)))[:, 0].tolist() == [0, 1, 1]


def test_no_chance_is_negative_by_rounding() -> None:
    random = np.random.default_rng(2)
    chances = np.where(random.random((4000, 2)) < 0.5, 1.0, random.random((4000, 2)))
    assert (starts(chances, 2, 5) >= 0).all()
