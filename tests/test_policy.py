"""Selection policies: what each plays, who may be played at all, and what new sequences start from."""

from __future__ import annotations

import numpy as np
import pytest

from paceline.cluster.config import SelectorConfig
from paceline.cluster.learned_policy import MAX_ROUTES, LearnedPolicy
from paceline.cluster.policy import Policy, build_policy

NAMES = ("ngram", "suffix", "exit")
ROW = np.zeros(1, dtype=np.intp)
ALL = np.ones((1, 3), dtype=bool)


def policy(**settings: object) -> Policy:
    built = build_policy(SelectorConfig.model_validate({"max_sequences": 8, **settings}))
    for name in NAMES:
        built.join(name)
    return built


@pytest.mark.parametrize("settings", [{"policy": "normalhedge"}, {"policy": "uniform"}, {"policy": "round_robin"}])
@pytest.mark.parametrize("up", [(1, 1, 1), (0, 1, 1), (0, 0, 1), (0, 0, 0)])
def test_weights_cover_exactly_what_is_up(settings: dict[str, object], up: tuple[int, ...]) -> None:
    played = policy(**settings)
    played.open(0, "")
    available = np.array(up, dtype=bool)
    for weights in (played.weights(ROW, available[None])[0], played.prior(available)):
        assert (weights[~available] == 0).all()
        assert weights.sum() == pytest.approx(1.0 if available.any() else 0.0)


def test_fixed_plays_its_drafter_or_none() -> None:
    played = policy(policy="fixed", drafter="suffix")
    played.open(0, "")
    assert played.weights(ROW, ALL).tolist() == [[0, 1, 0]]
    assert played.prior(ALL[0]).tolist() == [0, 1, 0]
    assert played.weights(ROW, np.array([[True, False, True]])).tolist() == [[0, 0, 0]]


def test_round_robin_takes_turns_by_sequence() -> None:
    played = policy(policy="round_robin")
    for row in (0, 1):
        played.open(row, "")
    rows, both = np.arange(2), np.repeat(ALL, 2, axis=0)
    turns = []
    for _ in range(4):
        turns.append(played.weights(rows, both).argmax(axis=1).tolist())
        played.played(0)
    assert turns == [[0, 0], [1, 0], [2, 0], [0, 0]]
    played.played(0)
    played.close(0)
    played.open(0, "")
    assert played.weights(ROW, ALL).tolist() == [[1, 0, 0]]


def teach(played: Policy, row: int, losses: list[float], positions: int, allowed: np.ndarray = ALL) -> None:
    for _ in range(positions):
        played.learn(np.array([row]), np.array([losses]), allowed)


def test_a_new_sequence_starts_from_what_others_taught() -> None:
    played = policy(policy="normalhedge", prior_weight=0.5)
    played.open(0, "")
    teach(played, 0, [0.6, 0.2, 0.7], 100)
    assert played.prior(ALL[0]).argmax() == 1
    played.open(1, "")
    assert played.weights(np.array([1]), ALL)[0, 1] > 0.9
    teach(played, 1, [0.1, 0.6, 0.7], 40)  # but its own text has the last word
    assert played.weights(np.array([1]), ALL)[0, 0] > 0.9


def test_without_prior_weight_every_sequence_starts_level() -> None:
    played = policy(policy="normalhedge", prior_weight=0.0)
    played.open(0, "")
    teach(played, 0, [0.6, 0.2, 0.7], 100)
    played.open(1, "")
    third = pytest.approx([1 / 3] * 3)
    assert played.weights(np.array([1]), ALL)[0].tolist() == third
    assert played.prior(ALL[0]).tolist() == third


def test_routes_have_priors_of_their_own() -> None:
    played = policy(policy="normalhedge")
    played.open(0, "sql")
    played.open(1, "chat")
    for _ in range(300):
        played.learn(np.arange(2), np.array([[0.1, 0.5, 0.6], [0.6, 0.5, 0.1]]), np.repeat(ALL, 2, axis=0))
    played.open(2, "sql")
    played.open(3, "chat")
    assert played.weights(np.array([2, 3]), np.repeat(ALL, 2, axis=0)).argmax(axis=1).tolist() == [0, 2]


def test_routes_are_bounded() -> None:
    played = policy(policy="normalhedge")
    played.open(0, "kept")
    teach(played, 0, [0.6, 0.2, 0.7], 50)
    for number in range(2 * MAX_ROUTES):
        played.open(1, f"route-{number}")
        played.close(1)
        teach(played, 0, [0.6, 0.2, 0.7], 1)  # a route in use is not forgotten for others
    assert isinstance(played, LearnedPolicy)
    assert played.routes == MAX_ROUTES
    played.open(2, "kept")
    assert played.weights(np.array([2]), ALL)[0, 1] > 0.9


def test_a_restricted_sequence_learns_among_what_it_may_use() -> None:
    """The best drafter is forbidden: the second best must still win, and as it would if the first were not there."""
    played = policy(policy="normalhedge")
    played.open(0, "")
    allowed = np.array([[False, True, True]])
    teach(played, 0, [0.0, 0.5, 0.7], 60, allowed)
    weights = played.weights(ROW, allowed)[0]
    assert weights[0] == 0
    assert weights[1] > 0.9
    assert played.prior(ALL[0]).argmax() == 0  # others hear of the forbidden one


def test_a_forbidden_drafter_might_as_well_not_be_there() -> None:
    losses = np.random.default_rng(3).random((25, 3)) * [0.1, 1.0, 1.0]
    restricted, smaller = policy(policy="normalhedge", prior_weight=0.0), LearnedPolicy(8, 0.97, 0.0)
    for name in NAMES[1:]:
        smaller.join(name)
    restricted.open(0, "")
    smaller.open(0, "")
    allowed, both = np.array([[False, True, True]]), np.ones((1, 2), dtype=bool)
    for row in losses:
        restricted.learn(ROW, row[None], allowed)
        smaller.learn(ROW, row[None, 1:], both)
        got = restricted.weights(ROW, allowed)[0]
        assert got[1:].tolist() == pytest.approx(smaller.weights(ROW, both)[0].tolist())
