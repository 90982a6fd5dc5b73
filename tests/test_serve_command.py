"""What `paceline serve` waits for, and what it goes on without."""

from __future__ import annotations

import io
import shlex
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from paceline.actors.errors import ConfigError, NotReady
from paceline.cluster import cli, placement, serve_command
from paceline.cluster.backend import ClusterStatus, DrafterState
from paceline.cluster.client import Client
from paceline.cluster.config import ClusterConfig, Resources
from paceline.cluster.http_port import address_of
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


@pytest.mark.parametrize(
    ("http", "url"),
    [({}, "http://127.0.0.1:8000"), ({"port": 9123}, "http://127.0.0.1:9123"), ({"host": "::1"}, "http://[::1]:8000")],
)
@pytest.mark.parametrize("keys", [(), ("some-key-1234",)], ids=["open", "keyed"])
def test_the_commands_that_it_prints_reach_it(http: dict[str, Any], url: str, keys: tuple[str, ...]) -> None:
    config = ClusterConfig.model_validate({"http": {**http, "api_keys": keys}})
    host = cast(Any, SimpleNamespace(memory_bytes=lambda: None, metrics_addresses=list))
    console = Console(file=io.StringIO(), record=True, width=40)
    status = ClusterStatus(True, "speculation", "tiny", "fixed", True)
    with Client(address_of(config.http.host, config.http.port)) as client:
        serve_command._report(console, StartProgress(console), config, host, client, status, [])
    lines = [shlex.split(line) for line in console.export_text().splitlines() if " paceline " in f" {line}"]
    assert len(lines) == 3
    for words in lines:
        assert (words[0] == "PACELINE_API_KEYS=KEY") == bool(keys)
        command = words[words.index("paceline") + 1 :]
        assert cli.parser().parse_args(command).url == url


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


def test_a_target_that_nothing_has_room_for_says_what_it_needs() -> None:
    cluster, signals = cast(Any, Cluster(("Target", False, (), False))), StopSignals(lambda: None)
    with pytest.raises(NotReady, match=r"missing: Target .*; target needs num_gpus 8; free: nothing"):
        serve_command._wait_until_up(
            CONFIG, cluster, cluster, 0.01, print, signals, "target needs num_gpus 8; free: nothing"
        )


@pytest.mark.parametrize("joined", [False, True], ids=["a Ray of our own", "a joined Ray"])
def test_resources_that_no_node_has_are_named_before_anything_is_brought_up(
    monkeypatch: pytest.MonkeyPatch, joined: bool
) -> None:
    busy = placement.Node("10.0.0.1", {"num_cpus": 0.0}, {"num_cpus": 4.0})
    monkeypatch.setattr(placement, "ray_nodes", lambda: [busy])
    host = cast(Any, SimpleNamespace(joined=joined))
    if joined:
        found = serve_command._lacking(CONFIG, host)
        assert found == "target needs num_cpus 1; free: num_cpus 0 of 4 on 10.0.0.1"
    else:
        assert serve_command._lacking(CONFIG, host) is None, "all of a new Ray is free"
        dear = CONFIG.drafters[0].model_copy(update={"resources": Resources(num_gpus=0.25)})
        with pytest.raises(ConfigError, match=r"resources: drafter one needs num_gpus 0.25; free: num_gpus 0 of 0"):
            serve_command._lacking(CONFIG.model_copy(update={"drafters": (dear,)}), host)


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


@pytest.mark.parametrize("alive", [True, False], ids=["an ingress that hangs", "a Ray that is gone"])
def test_a_stop_waits_for_no_answer_that_does_not_come(alive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_command, "_DRAIN_SLACK_S", 0.2)
    config = ClusterConfig.model_validate({"http": {"drain_s": 0.0 if alive else 3600.0}})
    released = threading.Event()
    application = cast(Any, SimpleNamespace(drain=lambda within_s: released.wait()))
    host = cast(Any, SimpleNamespace(alive=lambda: alive))
    console = Console(file=io.StringIO(), record=True)
    try:
        serve_command._drain(config, application, host, StartProgress(console))
    finally:
        released.set()
    assert "could not be waited for" in console.export_text()
