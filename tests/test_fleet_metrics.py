"""The fleet's samples over actors that die, restart and hang; Ray's own calls are played."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from paceline.actors.messages import DrafterStatistics, Member, SelectorSnapshot, replica_name
from paceline.cluster.metrics import fleet_metrics, names
from paceline.cluster.metrics.fleet_metrics import FleetMetrics, WatchedActor
from paceline.cluster.metrics.labels import MOST_OTHERS


class Call:
    """A method of an actor's handle; what it returns is the reference."""

    def __init__(self, actor: FakeActor, answer: str) -> None:
        self._actor = actor
        self._answer = answer

    def remote(self) -> tuple[FakeActor, str]:
        self._actor.asked += 1
        return self._actor, self._answer


class FakeActor:
    """Answers at once, fails, or hangs."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.state = "up"
        self.asked = 0
        for answer in answers:
            setattr(self, answer, Call(self, answer))


def drafter(**counters: float) -> FakeActor:
    zero = {"open": 0.0, "catch_up": 0.0, "propose": 0.0, "sessions": 0, "scored": 0, "scores_dropped": 0}
    return FakeActor(counters={**zero, **counters})


def selector(*up: str) -> FakeActor:
    members = tuple(Member(name, "ngram", "a:1", up=name in up) for name in ("ngram", "math"))
    statistics = tuple(
        DrafterStatistics(name, 9, 0.5, 2.0, weight) for name, weight in (("ngram", 0.75), ("math", 0.25))
    )
    snapshot = SelectorSnapshot("normalhedge", 1, 2, members, statistics, 3, 1.0)
    return FakeActor(snapshot=snapshot, counts={"gammas_late": 4, "scores_dropped_by_drafters": 7})


@pytest.fixture(autouse=True)
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's answers."""

    def wait(references: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert num_returns == len(references)
        return [r for r in references if r[0].state != "hangs"], [r for r in references if r[0].state == "hangs"]

    def get(references: list[Any]) -> list[Any]:
        if any(actor.state == "dead" for actor, _ in references):
            raise ray.exceptions.ActorDiedError
        return [actor.answers[answer] for actor, answer in references]

    monkeypatch.setattr(fleet_metrics.ray, "wait", wait)
    monkeypatch.setattr(fleet_metrics.ray, "get", get)


class Fleet:
    """The metrics of a selector and two drafters."""

    def __init__(self) -> None:
        self.actors: dict[str, FakeActor | None] = {
            "selector": selector("ngram", "math"),
            "ngram": drafter(scored=10, sessions=2),
            "math": drafter(catch_up=1.5),
        }
        self.replicas = {"Target": 1, "Ingress": 1}
        self.metrics = FleetMetrics(
            self._watched, {"ngram": 1, "math": 1}, lambda deployment: self.replicas[deployment]
        )

    def _watched(self) -> list[WatchedActor]:
        handles: dict[str, Any] = dict(self.actors)
        return [
            WatchedActor(name, "ngram" if name != "selector" else name, "" if name == "selector" else name, handle)
            for name, handle in handles.items()
        ]

    def gather(self) -> dict[tuple[str, tuple[str, ...]], Any]:
        return self.metrics.gather().values


def up(values: dict[tuple[str, tuple[str, ...]], Any]) -> set[str]:
    return {labels[0] for (name, labels), value in values.items() if name == names.ACTOR_UP.name and value == 1.0}


def test_everything_answers() -> None:
    values = Fleet().gather()
    assert up(values) == {"selector", "ngram", "math", "target", "ingress"}
    assert values[names.SCORED_POSITIONS.name, ("ngram",)] == 10
    assert values[names.BUSY_SECONDS.name, ("math", "catch_up")] == 1.5
    assert values[names.DRAFTER_WEIGHT.name, ("ngram",)] == 0.75
    assert values[names.SELECTOR_DISCARDS.name, ("gammas_late",)] == 4
    assert (names.SELECTOR_DISCARDS.name, ("scores_dropped_by_drafters",)) not in values, "told by drafter"


def test_each_replica_of_a_configured_drafter_has_its_own_label_whoever_came_before() -> None:
    actors = [WatchedActor(f"stranger-{number}", "ngram", f"stranger-{number}", None) for number in range(MOST_OTHERS)]
    metrics = FleetMetrics(lambda: actors, {"math": 40}, lambda _: 1)
    metrics.gather()
    actors[:] = [WatchedActor(replica_name("math", number), "head", "math", None) for number in range(40)]
    told = {labels[0] for name, labels in metrics.gather().values if name == names.ACTOR_UP.name}
    assert told == {"math", *(f"math/{number}" for number in range(1, 40)), "target", "ingress"}


def test_a_dead_drafter_is_down_and_what_it_counted_stays() -> None:
    fleet = Fleet()
    fleet.gather()
    old = fleet.actors["ngram"]
    assert old is not None
    old.state = "dead"
    values = fleet.gather()
    assert "ngram" not in up(values)
    assert values[names.ACTOR_UP.name, ("ngram", "ngram")] == 0.0
    assert values[names.SCORED_POSITIONS.name, ("ngram",)] == 10
    assert (names.DRAFTER_SESSIONS.name, ("ngram",)) not in values
    fleet.actors["ngram"] = drafter(scored=3)  # restarted: it counts from 0
    values = fleet.gather()
    assert "ngram" in up(values)
    assert values[names.SCORED_POSITIONS.name, ("ngram",)] == 13


def test_one_that_hangs_is_down_and_not_asked_again_and_again() -> None:
    fleet = Fleet()
    hanging = fleet.actors["math"]
    assert hanging is not None
    hanging.state = "hangs"
    for _ in range(5):
        assert up(fleet.gather()) == {"selector", "ngram", "target", "ingress"}
    assert hanging.asked == 1
    hanging.state = "up"
    assert "math" in up(fleet.gather())


def test_one_that_was_never_placed_is_down() -> None:
    fleet = Fleet()
    fleet.actors["math"] = None
    assert fleet.gather()[names.ACTOR_UP.name, ("math", "ngram")] == 0.0


def test_weights_of_drafters_that_are_down_are_not_told() -> None:
    fleet = Fleet()
    fleet.actors["selector"] = selector("math")
    values = fleet.gather()
    assert (names.DRAFTER_WEIGHT.name, ("ngram",)) not in values
    assert (names.DRAFTER_WEIGHT.name, ("math",)) in values


def test_the_target_is_up_while_a_replica_runs() -> None:
    fleet = Fleet()
    fleet.replicas["Target"] = 0
    assert fleet.gather()[names.ACTOR_UP.name, ("target", "target")] == 0.0
    fleet.replicas["Target"] = 2
    assert fleet.gather()[names.ACTOR_UP.name, ("target", "target")] == 1.0
