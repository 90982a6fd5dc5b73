"""Bandits: each formula against its paper, and what they may not hear."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paceline.cluster.bandit import Bandit, EpsilonGreedy, Thompson
from paceline.cluster.exp3 import Exp3Spec
from paceline.cluster.learner import Pending
from paceline.cluster.policy_base import Played, Policy
from paceline.cluster.ucb import MetaSdUcb, UcbSpec

L, ROWS = 7, 3
ROW = np.zeros(1, dtype=np.intp)
BANDITS = {
    "epsilon_greedy": lambda: EpsilonGreedy(ROWS, 0.1),
    "thompson": lambda: Thompson(ROWS, 5),
    "exp3spec": lambda: Exp3Spec(ROWS, L),
    "ucbspec": lambda: UcbSpec(ROWS, L, 0.1),
    "ucbspec_tuned": lambda: UcbSpec(ROWS, L, 0.1, 0.1),
    "metasd_ucb": lambda: MetaSdUcb(ROWS, 0.2),
}
every = pytest.mark.parametrize("name", BANDITS)


def made(name: str, drafters: int = 3) -> Bandit:
    bandit: Bandit = BANDITS[name]()
    for drafter in range(drafters):
        bandit.join(str(drafter))
    for row in range(ROWS):
        bandit.open(row, "")
    return bandit


def weights(policy: Policy, row: int = 0, drafters: int = 3) -> list[float]:
    got: list[float] = policy.weights(np.array([row]), np.ones((1, drafters), dtype=bool))[0].tolist()
    return got


def play(policy: Policy, column: int, accepted: int, drafted: int = L, row: int = 0) -> None:
    policy.played(np.array([row]), Played(np.array([column]), np.array([drafted]), np.array([accepted])))
    if drafted and column >= 0:
        policy.judged(row, column, np.append(np.ones(accepted), 0.0)[:drafted])


@every
def test_a_bandit_is_deaf_to_all_but_its_own_rounds(name: str) -> None:
    """Two bandits play the same rounds; one is also told every drafter's losses, pending ones, and other sequences'
    rounds. They must not differ by a bit."""
    random = np.random.default_rng(0)
    told, untold = made(name), made(name)
    for _ in range(60):
        pending = Pending(random.random((1, 3)), np.full((1, 3), 14.0))
        got = told.weights(ROW, np.ones((1, 3), dtype=bool), pending)[0]
        assert got.tolist() == weights(untold)
        column, accepted = int(random.choice(3, p=got)), int(random.integers(L + 1))
        for bandit in (told, untold):
            play(bandit, column, accepted)
        told.learn(ROW, random.random((1, 3)), np.ones((1, 3), dtype=bool))
        play(told, int(random.integers(3)), int(random.integers(L + 1)), row=1)
        play(told, -1, 0, drafted=0)  # a plain round is nobody's


@every
def test_weights_are_over_the_available_and_a_new_sequence_starts_anew(name: str) -> None:
    bandit = made(name)
    for _ in range(50):
        play(bandit, 1, L)
    available = np.array([[True, False, True], [False, False, True], [False, False, False]])
    got = bandit.weights(np.zeros(3, dtype=np.intp), available)
    assert (got[~available] == 0).all()
    np.testing.assert_allclose(got.sum(axis=1), [1, 1, 0])
    if name != "thompson":  # which draws
        fresh = made(name)
        everyone = np.ones(3, dtype=bool)
        assert bandit.prior(everyone).tolist() == fresh.prior(everyone).tolist()
        bandit.open(0, "")
        assert weights(bandit) == weights(fresh)
    bandit.join("3")
    assert len(weights(bandit, drafters=4)) == 4


@every
def test_it_comes_to_play_the_better_drafter(name: str) -> None:
    random = np.random.default_rng(1)
    bandit = made(name)
    share, rounds = 0.0, 1500
    for _ in range(rounds):
        got = weights(bandit)
        share += got[2] / rounds
        column = int(random.choice(3, p=got))
        accepted = int(np.cumprod(random.random(L) < (0.9 if column == 2 else 0.3)).sum())
        play(bandit, column, accepted)
    assert share > 0.5


@every
def test_a_drafter_with_nothing_to_offer_is_not_asked_for_ever(name: str) -> None:
    bandit = made(name)
    chosen = []
    random = np.random.default_rng(2)
    for _ in range(300):
        column = int(random.choice(3, p=weights(bandit)))
        chosen.append(column)
        play(bandit, column, 0, drafted=0) if column == 0 else play(bandit, column, 4)
    assert chosen[150:].count(0) < 75


@every
def test_a_batch_of_rounds_equals_one_after_the_other(name: str) -> None:
    """Several rounds of one sequence in one report, between two tellings of weights."""
    random = np.random.default_rng(3)
    one, many = made(name), made(name)
    for _ in range(10):
        everyone, rows = np.ones((ROWS, 3), dtype=bool), np.arange(ROWS)
        assert one.weights(rows, everyone).tolist() == many.weights(rows, everyone).tolist()
        rows, columns, accepted = random.integers(0, 3, (3, 8))
        for row, column, kept in zip(rows, columns, accepted, strict=True):
            play(one, int(column), int(kept), row=int(row))
        many.played(rows, Played(columns, np.full(8, L), accepted))
        for row, column, kept in zip(rows, columns, accepted, strict=True):
            many.judged(int(row), int(column), np.append(np.ones(kept), 0.0))


def test_ucbspec_is_the_published_formula() -> None:
    rewards = {0: [3, 5, 1], 1: [8, 2], 2: [4] * 9}
    t = sum(map(len, rewards.values()))
    bounds = []
    for values in rewards.values():
        n = len(values)
        term = (1 + n) / n**2 * (1 + 2 * math.log(3 * t**2 * math.sqrt(1 + n) / 0.1))
        bounds.append((sum(values) / n, L / 2 * math.sqrt(term)))
    for coefficient in (1.0, 0.1, 0.0):
        bandit = UcbSpec(ROWS, L, 0.1, coefficient)
        for drafter in range(3):
            bandit.join(str(drafter))
        for column, values in rewards.items():
            for tokens in values:
                play(bandit, column, tokens - 1)
        expected = int(np.argmax([mean + coefficient * width for mean, width in bounds]))
        assert weights(bandit)[expected] == 1.0


def test_exp3spec_weighs_by_importance() -> None:
    bandit = made("exp3spec")
    total = [0.0, 0.0, 0.0]
    for rounds, (column, accepted) in enumerate([(0, 2), (1, 7), (2, 0), (1, 3)], 1):
        told = weights(bandit)
        play(bandit, column, accepted)
        total[column] += (L - accepted) / (L * told[column])
        eta = math.sqrt(math.log(3) / (rounds * 3))
        raw = [math.exp(-eta * z) for z in total]
        assert weights(bandit) == pytest.approx([weight / sum(raw) for weight in raw])


def test_metasd_rewards_the_mean_gamma_of_the_drafter_that_played() -> None:
    bandit = MetaSdUcb(ROWS, 0.2)
    for drafter in range(2):
        bandit.join(str(drafter))
    scores = {0: [[0.9, 0.2], [0.7]], 1: [[0.5, 0.6, 0.1]]}
    for column, rounds in scores.items():
        for gammas in rounds:
            bandit.played(ROW, Played(np.array([column]), np.array([L]), np.array([len(gammas) - 1])))
            bandit.judged(0, column, np.array(gammas))
    bounds = [
        np.mean([np.mean(gammas) for gammas in rounds]) + 0.2 * math.sqrt(2 * math.log(3) / len(rounds))
        for rounds in scores.values()
    ]
    assert weights(bandit, drafters=2)[int(np.argmax(bounds))] == 1.0
    bandit.played(ROW, Played(np.array([1]), np.array([L]), np.array([L])))  # its scores are still on their way
    bandit.judged(0, 1, np.ones(L))
    assert weights(bandit, drafters=2) == [0.0, 1.0]


def test_epsilon_greedy_tries_each_once_and_then_mixes() -> None:
    bandit = made("epsilon_greedy")
    for column, accepted in ((0, 1), (1, 5), (2, 3)):
        assert weights(bandit)[column] == 1.0
        play(bandit, column, accepted)
    assert weights(bandit) == pytest.approx([0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3])


def test_thompson_draws_by_what_it_believes_and_by_its_seed() -> None:
    """P(Beta(1,1) beats Beta(3,1)) is 1/4; 4000 draws leave a standard error of 0.007, four of which are allowed
    (error rate 6e-5, though the seed is fixed)."""
    bandit, again = Thompson(4000, 9), Thompson(4000, 9)
    everyone, rows = np.ones((4000, 2), dtype=bool), np.arange(4000)
    for policy in (bandit, again):
        policy.join("0")
        policy.join("1")
        policy.played(rows, Played(np.ones(4000, dtype=np.intp), np.full(4000, 2), np.full(4000, 2)))
    got = bandit.weights(rows, everyone)
    assert got[:, 0].mean() == pytest.approx(0.25, abs=4 * 0.007)
    assert got.tolist() == again.weights(rows, everyone).tolist()
