"""How a drafter looks from what its processes answered and what the selector knows; and why one did not start."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import pytest

from paceline.actors.messages import DrafterStatistics, Member, SelectorSnapshot
from paceline.cluster.backend import ActorStatus
from paceline.cluster.config import DrafterConfig, parse_config
from paceline.cluster.fleet_actors import FleetActors, cause
from paceline.cluster.fleet_view import as_heard, drafter_view, start_failure
from paceline.cluster.roster import RosterEntry

ENTRY = RosterEntry(config=DrafterConfig(name="a", kind="ngram", replicas=2, max_sessions=9))
UP = ActorStatus("a", "ngram", "n1", "cpu", "up", 5, "h:5", 3)
SILENT = ActorStatus("a/1", "ngram", "", "cpu", "starting", detail="does not answer yet")
DOWN = ActorStatus("a/1", "ngram", "", "cpu", "down", detail="killed")


def snapshot(*members: Member) -> SelectorSnapshot:
    statistics = DrafterStatistics("a", 100, 0.5, 1.5, 0.25, 9, 30, 15, 2.0)
    return SelectorSnapshot("uniform", 1, 0, members, (statistics,), 0, 1.0)


@pytest.mark.parametrize(
    ("states", "draining", "sessions", "settled", "expected"),
    [
        (("up", "down"), False, 0, True, "up"),
        (("starting", "down"), False, 0, True, "starting"),
        (("down", "down"), False, 0, True, "down"),
        (("up", "up"), True, 3, True, "draining"),
        (("up", "up"), True, 0, False, "draining"),
        (("up", "up"), True, 0, True, "drained"),
    ],
)
def test_states(states: tuple[str, str], draining: bool, sessions: int, settled: bool, expected: str) -> None:
    entry = ENTRY.model_copy(update={"draining": draining})
    actors = [replace(UP, state=state, sessions=sessions) for state in states]
    view = drafter_view(entry, actors, None, settled=settled)
    assert view.state == expected
    assert view.statistics is None
    assert [replica.capacity for replica in view.replicas] == [9, 9]


def test_a_process_that_is_slow_to_answer_is_up_while_the_selector_hears_it() -> None:
    member = Member("a", "ngram", "h:7", "n2", "cpu", 7, True, 4, 9, replica=1)
    one, two = as_heard("a", [UP, SILENT], snapshot(member))
    assert one == UP
    assert (two.state, two.pid, two.node, two.address, two.sessions, two.detail) == ("up", 7, "n2", "h:7", 4, "")
    assert as_heard("a", [UP, SILENT], snapshot(replace(member, up=False)))[1] == SILENT
    assert as_heard("a", [UP, SILENT], snapshot(replace(member, drafter="b")))[1] == SILENT
    assert as_heard("a", [UP, DOWN], snapshot(member))[1] == DOWN, "Ray knows that it is dead"
    assert as_heard("a", [UP, SILENT], None) == [UP, SILENT]
    # On the same host it can be seen that a process has ended before the selector misses its heartbeats.
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert as_heard("a", [UP, SILENT], snapshot(replace(member, pid=ended.pid)), "n2")[1] == SILENT
    assert as_heard("a", [UP, SILENT], snapshot(replace(member, pid=os.getpid())), "n2")[1].state == "up"


async def test_who_does_not_answer_any_more_was_last_where_it_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, str | Exception] = {"a": "n1", "b": "n2"}

    async def call(_: FleetActors, name: str, method: str) -> dict[str, str]:
        assert method == "ping"
        answer = answers[name]
        if isinstance(answer, Exception):
            raise answer
        return {"node": answer}

    monkeypatch.setattr(FleetActors, "call", call)
    actors = FleetActors(parse_config({}), "space", "key")
    assert actors.last_node("a") == "", "nowhere yet"
    for name in answers:
        await actors.ping(name)
    answers["a"] = TimeoutError()
    with pytest.raises(TimeoutError):
        await actors.ping("a")
    assert (actors.last_node("a"), actors.last_node("b")) == ("n1", "n2")
    answers["a"] = "n3"
    await actors.ping("a")
    assert actors.last_node("a") == "n3", "it came back elsewhere"
    actors.end(["a"])
    assert actors.last_node("a") == "", "what was removed is forgotten"


def test_statistics_are_the_selectors() -> None:
    view = drafter_view(ENTRY, [UP, DOWN], snapshot(), settled=True)
    assert view.statistics is not None
    assert (view.statistics.weight, view.statistics.scored, view.statistics.draft_ms) == (0.25, 100, 2.0)


CRASH = """The actor died because of an error raised in its creation task, ray::DrafterActor.__init__() (pid=7, ip=h)
  File "drafter_actor.py", line 52, in __init__
ValueError: first

During handling of the above exception, another exception occurred:

  File "head.py", line 9, in build_head
paceline.actors.errors.{kind}: {message}"""


@pytest.mark.parametrize(
    ("kind", "message", "status", "param"),
    [
        ("ConfigError", "options.model: has 9 ids, the target 10", 400, "options.model"),
        ("ModelSourceError", "/x/head.safetensors: cannot be read", 400, None),
        ("EngineError", "out of memory", 500, None),
    ],
)
def test_why_it_did_not_start_is_its_own_error(kind: str, message: str, status: int, param: str | None) -> None:
    reason = cause(RuntimeError(CRASH.format(kind=kind, message=message)))
    assert reason == f"{kind}: {message}"
    error = start_failure("a", reason)
    assert error.http_status == status
    assert getattr(error, "param", None) == param
    assert str(error).startswith("drafter a did not start: ")
    assert message in str(error)


def test_a_cause_without_an_error_is_its_last_line() -> None:
    assert cause(RuntimeError("it died\nthe node was lost")) == "the node was lost"
    assert cause(TimeoutError()) == "TimeoutError"
