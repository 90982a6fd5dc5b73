"""What `paceline serve` waits for, and what it goes on without."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest
from rich.console import Console

from paceline.actors.errors import NotReady
from paceline.cluster import serve_command
from paceline.cluster.backend import ClusterStatus, DrafterState
from paceline.cluster.config import ClusterConfig
from paceline.cluster.start_progress import StartProgress
from paceline.cluster.stop_signals import StopSignals

CONFIG = ClusterConfig.model_validate({"drafters": [{"name": name, "kind": "ngram"} for name in ("one", "two")]})


class Cluster:
    """An application and its endpoint, coming up poll by poll: (deployments not up, /ready, drafters up, selector)."""

    def __init__(self, *polls: tuple[str, bool, tuple[str, ...], bool]) -> None:
        self.polls = list(polls)

    def waiting_for(self) -> str:
        if len(self.polls) > 1:
            self.polls.pop(0)
        return self.polls[0][0]

    def is_ready(self) -> bool:
        return self.polls[0][1]

    def status(self) -> ClusterStatus:
        _, ready, up, selector = self.polls[0]
        drafters = [DrafterState(name, "ngram", name in up, 0, 0, 0, 0, 0, 0, 0) for name in ("one",)]
        drafters += [DrafterState("two", "ngram", True, 0, 0, 0, 0, 0, 0, 0)] if "two" in up else []
        return ClusterStatus(ready, "speculation", "tiny", "fixed", selector, drafters=drafters)


def wait(cluster: Cluster, ready_s: float, said: list[str] | None = None) -> tuple[ClusterStatus, list[str]]:
    fake = cast(Any, cluster)
    signals = StopSignals(lambda: None)
    said = [] if said is None else said
    return serve_command._wait_until_up(CONFIG, fake, fake, ready_s, said.append, signals)


def test_it_waits_for_each_thing_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_command, "_POLL_S", 0.001)
    cluster = Cluster(
        ("", False, (), False),
        ("Target", False, (), False),
        ("", False, (), False),
        ("", True, ("one",), False),
        ("", True, ("one", "two"), False),
        ("", True, ("one", "two"), True),
    )
    said: list[str] = []
    status, missing = wait(cluster, 10, said)
    assert missing == []
    assert status.selector_up
    assert said == [
        "waiting for Target",
        "waiting for the endpoint",
        "waiting for two, selector",
        "waiting for selector",
    ]


def test_it_goes_on_without_a_drafter() -> None:
    _, missing = wait(Cluster(("", True, ("two",), True)), 0.01)
    assert missing == ["one"]


def test_it_does_not_go_on_without_the_target() -> None:
    with pytest.raises(NotReady, match=r"not ready after 0 s; still missing: Target \(--timeout waits longer\)"):
        wait(Cluster(("Target", False, (), False)), 0.01)


def test_a_step_that_fails_is_not_ticked() -> None:
    out = io.StringIO()
    progress = StartProgress(Console(file=out))

    def start() -> None:
        with progress.step("second") as say:
            say("waiting for a")
            say("waiting for a")
            raise NotReady("gone")

    with progress.step("first"):
        pass
    with pytest.raises(NotReady):
        start()
    assert "✓ first" in out.getvalue()
    assert "✓ second" not in out.getvalue()
    assert out.getvalue().count("waiting for a") == 1
