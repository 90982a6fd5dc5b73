"""Drafters that come and go on a running cluster, by the commands an operator types, while text streams."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from live_cluster import (
    DRAFTERS,
    ask,
    body,
    kill,
    prompts,
    stream,
    text_of,
    wait_until,
)

from paceline.cluster import cli
from paceline.cluster.served_process import ServedProcess

pytestmark = pytest.mark.cluster

PATH = "/v1/paceline/drafters"
TOKENS = 12


def listed(live: ServedProcess) -> dict[str, dict[str, Any]]:
    """All drafters by name."""
    reply = httpx.get(live.url + PATH, timeout=10)
    assert reply.status_code == 200, reply.text
    return {drafter["name"]: drafter for drafter in reply.json()["data"]}


def state(live: ServedProcess, name: str) -> str | None:
    """A drafter's state; None where there is none of that name."""
    found = listed(live).get(name)
    return None if found is None else str(found["state"])


def figures(live: ServedProcess, name: str) -> dict[str, Any]:
    """What the selector knows of a drafter; nothing where it has not heard of it."""
    found: dict[str, Any] = listed(live)[name]["statistics"] or {}
    return found


def command(live: ServedProcess, *words: str) -> None:
    """`paceline drafters ...`, which must succeed."""
    assert cli.main(["drafters", *words, "--url", live.url]) == 0


def refused(live: ServedProcess, status: int, **fields: Any) -> dict[str, Any]:
    """The error that adding a drafter of these settings ends with; nothing of it is left."""
    reply = httpx.post(live.url + PATH, json=fields, timeout=90)
    assert reply.status_code == status, reply.text
    assert set(listed(live)) == set(DRAFTERS)
    error: dict[str, Any] = reply.json()["error"]
    return error


class Traffic:
    """Two clients, one of them streaming, that ask for the same greedy texts over and over, and note what is wrong."""

    def __init__(self, live: ServedProcess) -> None:
        self._live = live
        plain = {"enabled": False}
        self._expected = {
            prompt: text_of(ask(live, prompt, max_tokens=TOKENS, paceline=plain)) for prompt in prompts()[:2]
        }
        self._done = threading.Event()
        self.faults: list[str] = []
        self.answered = 0

    @contextmanager
    def running(self) -> Iterator[Traffic]:
        clients = [threading.Thread(target=self._ask_on, args=(streamed,)) for streamed in (True, False)]
        for client in clients:
            client.start()
        try:
            yield self
        finally:
            self._done.set()
            for client in clients:
                client.join(120)
        assert not self.faults
        assert self.answered > 0

    def wait_for(self, more: int) -> None:
        """Until so many more requests were answered."""
        goal = self.answered + more
        wait_until(lambda: self.answered >= goal or bool(self.faults), 120, f"{more} more requests are answered")

    def _ask_on(self, streamed: bool) -> None:
        for prompt, expected in itertools.cycle(self._expected.items()):
            if self._done.is_set():
                return
            try:
                if streamed:
                    text, _ = stream(self._live, prompt, max_tokens=TOKENS)
                else:
                    text = text_of(ask(self._live, prompt, max_tokens=TOKENS))
            except (httpx.HTTPError, AssertionError) as error:
                self.faults.append(f"{type(error).__name__}: {error}")
                return
            if text != expected:
                self.faults.append(f"{prompt!r}: another text: {text!r}")
            self.answered += 1


@pytest.mark.timeout(600)  # of which the cluster's start is the smaller part on a busy machine
def test_a_drafter_comes_is_tried_drains_and_leaves_while_requests_run(
    live: ServedProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    live.wait_for_drafters(set(DRAFTERS), 60)
    with Traffic(live).running() as traffic:
        traffic.wait_for(1)
        command(live, "add", "name=late", "kind=suffix", "options.min_match=1")
        assert state(live, "late") == "up"
        live.wait_for_drafters({*DRAFTERS, "late"}, 10)
        before = traffic.answered
        wait_until(lambda: figures(live, "late").get("scored", 0) > 0, 120, "the new drafter is scored")
        assert traffic.answered <= before + 50, "a new drafter is tried within 50 requests"
        named = ask(live, prompts()[5], paceline={"drafter": "late"})
        assert set(named["metrics"]["speculative_decoding"]["rounds_by_drafter"]) <= {"late", "plain"}
        assert text_of(named) == text_of(ask(live, prompts()[5], paceline={"enabled": False}))
        wait_until(lambda: figures(live, "late")["rounds"] > 0, 60, "it was played")
        assert 0 <= figures(live, "late")["weight"] <= 1

        command(live, "drain", "late")
        wait_until(lambda: state(live, "late") == "drained", 60, "its last sequence has ended")
        scored = figures(live, "late")["scored"]
        traffic.wait_for(3)
        assert figures(live, "late")["scored"] == scored, "a drained drafter takes no new sequences"
        assert figures(live, "late")["weight"] == 0.0

        pid = listed(live)["late"]["replicas"][0]["pid"]
        capsys.readouterr()
        command(live, "list")
        assert "drained" in capsys.readouterr().out
        command(live, "remove", "late")
        assert state(live, "late") is None
        wait_until(lambda: not psutil.pid_exists(pid), 10, "its process is gone")
        traffic.wait_for(2)
        request = body(live, prompts()[0], paceline={"drafter": "late"})
        reply = httpx.post(f"{live.url}/v1/chat/completions", json=request, timeout=60)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "paceline.drafter")
    live.wait_for_drafters(set(DRAFTERS), 10)


def test_what_was_changed_outlives_the_selector_and_the_fleet(live: ServedProcess) -> None:
    live.wait_for_drafters(set(DRAFTERS), 60)
    command(live, "add", "name=kept", "kind=ngram", "replicas=2")
    command(live, "add", "name=gone", "kind=ngram")
    command(live, "drain", "kept")
    command(live, "remove", "gone")
    pids = {replica["pid"] for replica in listed(live)["kept"]["replicas"]}
    assert len(pids) == 2
    try:
        kill(live, "selector")
        wait_until(lambda: live.status()["selector_up"], 60, "the selector is back")
        wait_until(lambda: state(live, "kept") == "drained", 30, "the new selector's members are there")
        live.wait_for_drafters({*DRAFTERS, "kept"}, 60)
        ask(live, prompts()[0], max_tokens=24)
        assert figures(live, "kept").get("scored", 0) == 0, "it still takes nothing new"

        fleet = next(
            process
            for process in psutil.Process(live.pid).children(recursive=True)
            if "ServeReplica:paceline:Fleet" in " ".join(process.cmdline())
        )
        os.kill(fleet.pid, signal.SIGKILL)
        wait_until(lambda: not fleet.is_running() or fleet.status() == psutil.STATUS_ZOMBIE, 10, "the fleet is gone")
        wait_until(lambda: fleet_answers(live), 60, "the fleet is back")
        assert set(listed(live)) == {*DRAFTERS, "kept"}
        assert {replica["pid"] for replica in listed(live)["kept"]["replicas"]} == pids, "they were left in peace"
        assert state(live, "kept") == "drained"
    finally:
        command(live, "remove", "kept")
    live.wait_for_drafters(set(DRAFTERS), 30)


def fleet_answers(live: ServedProcess) -> bool:
    """Whether the list can be had, and everything on it is up."""
    reply = httpx.get(live.url + PATH, timeout=30)
    return reply.status_code == 200 and all(
        replica["state"] == "up" for drafter in reply.json()["data"] for replica in drafter["replicas"]
    )


def test_a_replica_dies_in_mid_stream_and_the_sequence_goes_on_with_the_other(live: ServedProcess) -> None:
    live.wait_for_drafters(set(DRAFTERS), 60)
    command(live, "add", "name=twin", "kind=ngram", "replicas=2", "options.min_ngram=1")
    held: list[list[int]] = []  # sessions by replica

    def on_event(number: int, _: dict[str, Any]) -> None:
        if number >= 4 and number % 4 == 0 and len(held) < 20:
            replicas = listed(live)["twin"]["replicas"]
            held.append([replica["sessions"] for replica in replicas])
            if len(held) == 1:
                os.kill(replicas[held[0].index(1)]["pid"], signal.SIGKILL)

    try:
        live.wait_for_drafters({*DRAFTERS, "twin"}, 30)
        expected = text_of(ask(live, prompts()[11], max_tokens=160, paceline={"enabled": False}))
        text, _ = stream(live, prompts()[11], on_event, max_tokens=160, paceline={"drafter": "twin"})
        assert text == expected
        assert sorted(held[0]) == [0, 1]
        assert held[0][::-1] in held[1:], "the other replica holds it now"
        wait_until(
            lambda: all(replica["state"] == "up" for replica in listed(live)["twin"]["replicas"]), 60, "it is back"
        )
        assert text_of(ask(live, prompts()[11], max_tokens=160, paceline={"drafter": "twin"})) == expected
    finally:
        command(live, "remove", "twin")


def test_what_cannot_be_added_is_refused_and_leaves_nothing(live: ServedProcess, tmp_path: Path) -> None:
    live.wait_for_drafters(set(DRAFTERS), 60)
    error = refused(live, 409, name="ngram", kind="ngram")
    assert (error["param"], error["code"]) == ("name", "conflict")
    error = refused(live, 409, name="dear", kind="ngram", resources={"num_gpus": 0.25})
    assert "drafter dear needs num_gpus 0.25; free: num_gpus 0 of 0 on " in error["message"]
    error = refused(live, 400, name="away", kind="early_exit", device="cuda:99")
    assert error["param"] == "device"
    assert "drafter away needs device 'cuda:99'; the nodes have at most " in error["message"]
    error = refused(live, 400, name="loose", kind="ngram", replicas="2")
    assert error["message"] == "replicas: got '2'; expected a whole number"
    error = refused(live, 400, name="far", kind="head", options={"model": str(tmp_path / "nothing")})
    assert error["param"] == "options.model"

    config = json.loads((Path(live.document["drafters"][3]["options"]["model"]) / "head.json").read_text())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "head.json").write_text(json.dumps({**config, "feature_layers": [3, 9]}))
    error = refused(live, 400, name="other", kind="head", options={"model": str(tmp_path / "other")})
    assert "[3, 9]" in error["message"]
    assert "target.feature_layers" in error["message"]

    # Its settings are fine; its own process finds that there are no weights.
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "head.json").write_text(json.dumps(config))
    error = refused(live, 400, name="hollow", kind="head", options={"model": str(tmp_path / "hollow")})
    assert "drafter hollow did not start: " in error["message"]
    assert "head.safetensors" in error["message"]
    names = {actor["name"] for actor in live.status()["actors"]}
    assert names == {"ingress", "target", "selector", *DRAFTERS}
    for method, path in (("POST", f"{PATH}/nobody/drain"), ("DELETE", f"{PATH}/nobody")):
        reply = httpx.request(method, live.url + path, headers={"Content-Type": "application/json"}, timeout=10)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "drafter_not_found")
