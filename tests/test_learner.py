"""Every full-information learner: its law against the published formula, and what all of them have in common."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paceline.cluster.adanormalhedge import AdaNormalHedge
from paceline.cluster.hedge import FollowTheLeader, Hedge
from paceline.cluster.learner import Learner, Pending, Start
from paceline.cluster.normalhedge import NormalHedge

LEARNERS = [NormalHedge, AdaNormalHedge, Hedge, FollowTheLeader]
ROW = np.zeros(1, dtype=np.intp)
every = pytest.mark.parametrize("kind", LEARNERS)


def made(kind: type[Learner], drafters: int, rows: int = 1, discount: float = 1.0) -> Learner:
    learner = kind(rows, discount)
    for _ in range(drafters):
        learner.join()
    return learner


def weights(learner: Learner, drafters: int, row: int = 0) -> np.ndarray:
    return learner.weights(np.array([row]), np.ones((1, drafters), dtype=bool))[0]


def asleep(losses: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    return np.where(random.random(losses.shape) < share, np.nan, losses)


@every
@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_weights_are_a_distribution_over_the_available(kind: type[Learner], discount: float) -> None:
    random = np.random.default_rng(0)
    learner = made(kind, 6, rows=20, discount=discount)
    rows = np.arange(20)
    for _ in range(60):
        learner.learn(rows, asleep(random.random((20, 6)), 0.3, random))
        available = random.random((20, 6)) < 0.5
        got = learner.weights(rows, available)
        assert (got >= 0).all()
        assert (got[~available] == 0).all()
        np.testing.assert_allclose(got.sum(axis=1), available.any(axis=1), atol=1e-12)


@every
def test_a_batch_equals_each_row_alone(kind: type[Learner]) -> None:
    random = np.random.default_rng(1)
    together, alone = made(kind, 5, 4, 0.9), [made(kind, 5, 1, 0.9) for _ in range(4)]
    rows, available = np.arange(4), np.ones((4, 5), dtype=bool)
    for _ in range(40):
        losses = asleep(random.random((4, 5)), 0.2, random)
        pending = Pending(random.random((4, 5)), random.integers(0, 9, (4, 5)).astype(float))
        together.learn(rows, losses)
        got = together.weights(rows, available, pending)
        for row, learner in enumerate(alone):
            learner.learn(ROW, losses[[row]])
            mine = Pending(pending.losses[[row]], pending.counts[[row]])
            np.testing.assert_allclose(learner.weights(ROW, available[[row]], mine)[0], got[row], atol=1e-12)


@every
def test_zero_information_changes_nothing(kind: type[Learner]) -> None:
    learner = made(kind, 4, discount=0.9)
    learner.learn(ROW, np.array([[0.2, 0.6, 0.4, 0.5]]))
    before, regret = weights(learner, 4), learner.memory(0).booked[:, 0]
    learner.learn(ROW, np.full((1, 4), np.nan))  # nobody was awake
    learner.learn(np.zeros(3, dtype=np.intp), np.full((3, 4), np.nan))
    nothing = Pending(np.full((1, 4), np.nan), np.zeros((1, 4)))
    assert learner.memory(0).booked[:, 0].tolist() == regret.tolist()
    assert learner.weights(ROW, np.ones((1, 4), dtype=bool), nothing)[0].tolist() == before.tolist()
    untaught = made(kind, 4)
    for _ in range(5):
        untaught.learn(ROW, np.full((1, 4), 0.3))  # all alike
    assert weights(untaught, 4).tolist() == [0.25] * 4


@every
def test_permuting_drafters_permutes_weights(kind: type[Learner]) -> None:
    random = np.random.default_rng(2)
    order = random.permutation(6)
    plain, permuted = made(kind, 6, discount=0.95), made(kind, 6, discount=0.95)
    for _ in range(50):
        losses = asleep(random.random((1, 6)), 0.1, random)
        plain.learn(ROW, losses)
        permuted.learn(ROW, losses[:, order])
        np.testing.assert_allclose(weights(permuted, 6), weights(plain, 6)[order], atol=1e-9)


@every
def test_a_sleeper_gets_no_regret(kind: type[Learner]) -> None:
    learner = made(kind, 3)
    learner.learn(ROW, np.array([[0.2, 0.6, np.nan]]))
    np.testing.assert_allclose(learner.memory(0).booked[:, 0], [0.2, -0.2, 0.0])


@every
def test_under_prices_a_sleeper_is_compared_with_the_play_while_it_was_awake(kind: type[Learner]) -> None:
    """The second sleeps through what is hard for everybody, and is worse where it is awake."""
    learner = kind(1, 1 - 1 / 512, 1, lambda rows: np.ones((len(rows), 2, 1)))
    plain = kind(1, 1 - 1 / 512)
    for each in (learner, plain):
        each.join()
        each.join()
        for _ in range(20):
            for losses in ([[1.8, np.nan]], [[0.6, 0.9]]):
                each.learn(np.zeros(1, dtype=np.intp), np.array(losses))
    everyone = np.ones((1, 2), dtype=np.bool_)
    priced, booked = learner.weights(ROW, everyone), plain.weights(ROW, everyone)
    assert priced[0] == pytest.approx(booked[0], abs=1e-6), "exact while prices stand still"
    assert priced[0, 0] > 0.8


@every
def test_prices_change_what_was_lost_at_once(kind: type[Learner]) -> None:
    price = np.ones((1, 2, 1))
    learner = kind(1, 0.97, 1, lambda rows: price[np.zeros(len(rows), dtype=np.intp)])
    learner.join()
    learner.join()
    for _ in range(60):
        learner.learn(ROW, np.array([[0.9, 0.6]]))
    everyone = np.ones((1, 2), dtype=np.bool_)
    assert learner.weights(ROW, everyone)[0, 1] > 0.9
    price = np.array([[[1.0], [3.0]]])
    assert learner.weights(ROW, everyone)[0, 0] > 0.9


@every
def test_a_new_drafter_that_is_better_takes_over_within_a_few_positions(kind: type[Learner]) -> None:
    learner = made(kind, 2, discount=0.97)
    for _ in range(200):
        learner.learn(ROW, np.array([[0.4, 0.8]]))
    learner.join()
    for _ in range(12):
        learner.learn(ROW, np.array([[0.4, 0.8, 0.1]]))
    assert weights(learner, 3)[2] > 0.5


@every
def test_pending_losses_count_in_the_weights_and_are_not_booked(kind: type[Learner]) -> None:
    learner = made(kind, 3)
    for _ in range(10):
        learner.learn(ROW, np.array([[0.5, 0.45, 0.6]]))
    before, regret = weights(learner, 3), learner.memory(0).booked[:, 0]
    hint = Pending(np.array([[0.1, 0.9, np.nan]]), np.array([[14.0, 14.0, 0.0]]))
    hinted = learner.weights(ROW, np.ones((1, 3), dtype=bool), hint)[0]
    assert hinted[0] > max(before[0], 0.9)
    assert learner.memory(0).booked[:, 0].tolist() == regret.tolist()
    assert weights(learner, 3).tolist() == before.tolist()


@every
def test_what_others_taught_is_where_a_row_starts_and_no_chain(kind: type[Learner]) -> None:
    learner = made(kind, 3, rows=2, discount=0.97)
    learner.reset(0, Start(np.array([-8.0, 8.0, -8.0]), np.array([0.01, 0.98, 0.01]), 16.0))
    assert weights(learner, 3).argmax() == 1
    assert weights(learner, 3)[1] > 0.7
    assert weights(learner, 3, row=1).tolist() == pytest.approx([1 / 3] * 3)
    for _ in range(60):
        learner.learn(ROW, np.array([[0.1, 0.6, 0.7]]))
    assert weights(learner, 3)[0] > 0.9
    learner.reset(0)
    assert weights(learner, 3).tolist() == pytest.approx([1 / 3] * 3)


# ---------------------------------------------------------------- each law against its paper, one drafter at a time


def scalar_hedge(losses: np.ndarray) -> list[float]:
    total, count = losses.sum(axis=0), losses.shape[1]
    eta = math.sqrt(8 * math.log(count) / len(losses))
    raw = [math.exp(-eta * (loss - total.min())) for loss in total]
    return [weight / sum(raw) for weight in raw]


def test_hedge_is_exponential_in_the_losses() -> None:
    losses = np.random.default_rng(3).random((40, 5))
    learner = made(Hedge, 5)
    for row in losses:
        learner.learn(ROW, row[None])
    assert weights(learner, 5).tolist() == pytest.approx(scalar_hedge(losses))


def scalar_adanormalhedge(losses: np.ndarray, prior: list[float]) -> list[float]:
    """Luo and Schapire's algorithm for sleeping experts, word for word."""

    def phi(regret: float, mass: float) -> float:
        return math.exp(max(regret, 0.0) ** 2 / (3 * mass))

    def law(regret: list[float], mass: list[float], awake: list[int]) -> list[float]:
        raw = [
            prior[i] * (phi(regret[i] + 1, mass[i] + 1) - phi(regret[i] - 1, mass[i] + 1)) / 2 if i in awake else 0.0
            for i in range(len(prior))
        ]
        if sum(raw) == 0:
            raw = [float(i in awake) for i in range(len(prior))]
        return [weight / sum(raw) for weight in raw]

    regret, mass = [0.0] * len(prior), [0.0] * len(prior)
    for row in losses:
        awake = [i for i, loss in enumerate(row) if not math.isnan(loss)]
        played = law(regret, mass, awake)
        mean = sum(played[i] * row[i] for i in awake)
        for i in awake:
            regret[i] += mean - row[i]
            mass[i] += abs(mean - row[i])
    return law(regret, mass, list(range(len(prior))))


def test_adanormalhedge_follows_its_paper_with_sleepers_and_a_prior() -> None:
    random = np.random.default_rng(4)
    losses = asleep(random.random((60, 4)), 0.25, random)
    law = np.array([0.4, 0.3, 0.2, 0.1])
    learner = made(AdaNormalHedge, 4)
    learner.reset(0, Start(np.zeros(4), law, 0.0))
    for row in losses:
        learner.learn(ROW, row[None])
    prior = [0.1 + 0.9 * 4 * share for share in law]
    assert weights(learner, 4).tolist() == pytest.approx(scalar_adanormalhedge(losses, prior), abs=1e-9)


def test_adanormalhedge_does_not_overflow() -> None:
    learner = made(AdaNormalHedge, 2)
    for _ in range(6000):
        learner.learn(ROW, np.array([[0.0, 1.0]]))
    learner.reset(0, None)
    learner.learn(np.zeros(20_000, dtype=np.intp), np.tile([0.0, 1.0], (20_000, 1)))
    assert weights(learner, 2).tolist() == [1.0, 0.0]


def test_the_leader_is_followed_and_ties_are_shared() -> None:
    learner = made(FollowTheLeader, 3)
    learner.learn(ROW, np.array([[0.5, 0.2, 0.2]]))
    assert weights(learner, 3).tolist() == [0.0, 0.5, 0.5]
    learner.learn(ROW, np.array([[0.5, 0.2, 0.3]]))
    assert weights(learner, 3).tolist() == [0.0, 1.0, 0.0]


# ---------------------------------------------------------------- delays, and an adversary


def adversarial_regret(kind: type[Learner], positions: int, delay: int, drafters: int = 4) -> float:
    """Regret per position against an adversary that hurts whatever has most weight, losses coming `delay` late."""
    learner, total, suffered = made(kind, drafters), np.zeros(drafters), 0.0
    held: list[np.ndarray] = []
    for _ in range(positions):
        played = weights(learner, drafters)
        losses = np.zeros(drafters)
        losses[played.argmax()] = 1.0
        suffered += float(played @ losses)
        total += losses
        held.append(losses)
        if len(held) > delay:
            learner.learn(ROW, held.pop(0)[None])
    return (suffered - total.min()) / positions


@pytest.mark.parametrize("kind", [NormalHedge, AdaNormalHedge, Hedge])
@pytest.mark.parametrize("delay", [0, 14])
def test_against_an_adversary_regret_is_that_of_theory(kind: type[Learner], delay: int) -> None:
    """With losses d late at most (d + 1) sqrt(2 T ln N): a learner not tuned to the delay plays d + 1 interleaved games
    (Weinberger and Ordentlich 2002)."""
    positions = 4000
    assert adversarial_regret(kind, positions, delay) < (delay + 1) * math.sqrt(2 * math.log(4) / positions)


@pytest.mark.parametrize("kind", [NormalHedge, AdaNormalHedge])
def test_losses_64_tokens_late_still_leave_no_regret_in_the_long_run(kind: type[Learner]) -> None:
    assert adversarial_regret(kind, 12_000, 64) < 0.9 * adversarial_regret(kind, 3000, 64)


def test_the_leader_cannot_be_followed_against_an_adversary() -> None:
    assert adversarial_regret(FollowTheLeader, 2000, 14) > 0.5
