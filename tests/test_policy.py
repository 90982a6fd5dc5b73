"""Selection policies: what each plays, who may be played at all, and what new sequences start from."""

from __future__ import annotations

import numpy as np
import pytest

from paceline.actors.errors import ConfigError
from paceline.cluster.config import SelectorConfig, parse_config
from paceline.cluster.policy import build_policy
from paceline.cluster.policy_base import Played, Policy
from paceline.cluster.policy_mix import PolicyMix
from paceline.cluster.policy_options import POLICY_NAMES, REQUEST_POLICIES
from paceline.cluster.shared_prior import MAX_ROUTES

NAMES = ("ngram", "suffix", "exit")
ROW = np.zeros(1, dtype=np.intp)
ALL = np.ones((1, 3), dtype=bool)


def policy(**settings: object) -> PolicyMix:
    built = build_policy(SelectorConfig.model_validate({"max_sequences": 8, **settings}), 7)
    for name in NAMES:
        built.join(name)
    return built


def play(played: Policy, row: int, column: int, accepted: int, drafted: int = 7) -> None:
    played.played(np.array([row]), Played(np.array([column]), np.array([drafted]), np.array([accepted])))


@pytest.mark.parametrize("name", REQUEST_POLICIES)
@pytest.mark.parametrize("up", [(1, 1, 1), (0, 1, 1), (0, 0, 1), (0, 0, 0)])
def test_weights_cover_exactly_what_is_up(name: str, up: tuple[int, ...]) -> None:
    played = policy(policy=name)
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
        play(played, 0, 0, 1)
    assert turns == [[0, 0], [1, 0], [2, 0], [0, 0]]
    play(played, 0, 0, 1)
    played.close(0)
    played.open(0, "")
    assert played.weights(ROW, ALL).tolist() == [[1, 0, 0]]


def teach(played: Policy, row: int, losses: list[float], positions: int, allowed: np.ndarray = ALL) -> None:
    for _ in range(positions):
        played.learn(np.array([row]), np.array([losses]), allowed)


@pytest.mark.parametrize("name", ["normalhedge", "adanormalhedge", "hedge", "follow_the_leader"])
def test_a_new_sequence_starts_from_what_others_taught(name: str) -> None:
    played = policy(policy=name, prior_weight=0.5)
    played.open(0, "")
    teach(played, 0, [0.6, 0.2, 0.7], 100)
    assert played.prior(ALL[0]).argmax() == 1
    played.open(1, "")
    assert played.weights(np.array([1]), ALL)[0, 1] > 0.6
    teach(played, 1, [0.1, 0.6, 0.7], 60)  # but its own text has the last word
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
    restricted = policy(policy="normalhedge", prior_weight=0.0)
    smaller = build_policy(SelectorConfig(max_sequences=8, prior_weight=0.0), 7)
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


def test_composite_asks_in_order_and_passes_over_who_has_nothing() -> None:
    played = policy(policy="composite", options={"composite": {"priority": ["suffix"]}})  # the others as they joined
    played.open(0, "")
    asked = []
    for drafted in (7, 0, 7, 0, 0, 0, 7):
        asked.append(int(played.weights(ROW, ALL)[0].argmax()))
        play(played, 0, asked[-1], 0, drafted)
    assert [NAMES[column] for column in asked] == ["suffix", "suffix", "ngram", "suffix", "ngram", "exit", "suffix"]
    without = np.array([[True, False, True]])
    assert played.weights(ROW, without)[0].tolist() == [1, 0, 0]


# ---------------------------------------------------------------- several policies at once


def test_sequences_of_different_policies_do_not_meet_but_all_teach_the_prior() -> None:
    mixed = policy(policy="normalhedge")
    alone = {name: policy(policy=name) for name in ("ucbspec", "hedge", "round_robin")}
    for row, name in enumerate(alone):
        mixed.open(row, "", name)
        alone[name].open(row, "")
    assert mixed.in_use == ("normalhedge", *alone)
    random = np.random.default_rng(0)
    rows, every = np.arange(3), np.ones((3, 3), dtype=bool)
    for _ in range(40):
        losses = random.random((3, 3)) * [1.0, 0.3, 1.0]
        columns, accepted = random.integers(0, 3, 3), random.integers(0, 8, 3)
        mixed.learn(rows, losses, every)
        mixed.played(rows, Played(columns, np.full(3, 7), accepted))
        got = mixed.weights(rows, every)
        for row, own in enumerate(alone.values()):
            own.learn(np.array([row]), losses[[row]], ALL)
            play(own, row, int(columns[row]), int(accepted[row]))
            assert got[row].tolist() == own.weights(np.array([row]), ALL)[0].tolist()
    mixed.open(3, "")
    assert mixed.weights(np.array([3]), ALL)[0, 1] > 0.9  # taught by sequences that were none of its own


def test_policies_are_made_once_each_and_know_who_joined_before_and_after() -> None:
    mixed = policy()
    assert mixed.in_use == ("normalhedge",)
    for row in range(6):
        mixed.open(row, "", ("uniform", "thompson")[row % 2])
    assert mixed.in_use == ("normalhedge", "uniform", "thompson")
    mixed.join("late")
    assert mixed.weights(ROW, np.ones((1, 4), dtype=bool)).tolist() == [[0.25] * 4]
    mixed.close(0)
    mixed.open(0, "", "round_robin")  # a row changes its policy with its sequence
    assert mixed.weights(ROW, np.ones((1, 4), dtype=bool)).tolist() == [[1, 0, 0, 0]]


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_every_name_is_accepted_by_the_settings(name: str) -> None:
    settings: dict[str, object] = {"policy": name}
    if name == "fixed":
        settings["drafter"] = "a"
    config = parse_config({"drafters": [{"name": "a", "kind": "ngram"}], "selector": settings})
    assert build_policy(config.selector, 7).in_use == (name,)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epsilon_greedy": {"epsilon": 1.5}}, "selector.options.epsilon_greedy.epsilon"),
        ({"ucbspec": {"coefficient": 0.1}}, "selector.options.ucbspec.coefficient"),  # the tuned one's
        ({"normalhedge": {"epsilon": 0.1}}, "selector.options.normalhedge"),
        ({"thompson": {"seed": True}}, "seed"),
        ({"metasd_ucb": {"beta": -1}}, "selector.options.metasd_ucb.beta"),
        ({"composite": {"priority": ["a", "a"]}}, "'a' is named twice"),
        ({"composite": {"priority": ["b"]}}, "selector.options.composite.priority: 'b' is not one of the drafters"),
    ],
)
def test_options_are_refused_where_they_have_no_effect_or_no_sense(options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_config({"drafters": [{"name": "a", "kind": "ngram"}], "selector": {"options": options}})


@pytest.mark.parametrize(
    ("name", "option", "values"),
    [
        ("epsilon_greedy", "epsilon", (0.0, 0.5)),
        ("thompson", "seed", (1, 2)),
        ("ucbspec", "delta", (0.9, 1e-12)),
        ("ucbspec_tuned", "coefficient", (0.0, 1.0)),
        ("ucbspec_tuned", "delta", (0.9, 1e-12)),
        ("metasd_ucb", "beta", (0.0, 2.0)),
    ],
)
def test_every_option_has_an_effect(name: str, option: str, values: tuple[float, float]) -> None:
    seen = []
    for value in values:
        played = policy(policy=name, options={name: {option: value}})
        played.open(0, "")
        random = np.random.default_rng(4)
        told = []
        for _ in range(200):
            weights = played.weights(ROW, ALL)[0]
            told.append(weights.tolist())
            column, accepted = int(weights.argmax()), int(random.integers(8))
            play(played, 0, column, accepted)
            played.judged(0, column, np.full(1, accepted / 7))
        seen.append(told)
    assert seen[0] != seen[1]
