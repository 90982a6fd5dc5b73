"""Real faults on a real cluster: kill -9 of drafters and of the selector while text streams."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from live_cluster import DRAFTERS, actor, ask, kill, prompts, stream, text_of, wait_until
from prometheus_server import Prometheus, require_binaries

from paceline.cluster.selector_state import read_state
from paceline.cluster.served_process import ServedProcess

pytestmark = pytest.mark.cluster

OnEvent = Callable[[int, dict[str, Any]], None]
PROMPT = prompts()[11]
TOKENS = 160


@pytest.fixture
def expected(live: ServedProcess) -> str:
    """The undisturbed text."""
    live.wait_for_drafters(set(DRAFTERS), 60)
    return text_of(ask(live, PROMPT, max_tokens=TOKENS, paceline={"enabled": False}))


def kill_at(live: ServedProcess, event: int, *names: str) -> tuple[OnEvent, dict[str, int]]:
    """Kill these actors when the stream's event of that number arrives; keeps the pids they had."""
    pids: dict[str, int] = {}

    def on_event(number: int, _: dict[str, Any]) -> None:
        if number == event:
            pids.update(kill(live, *names))

    return on_event, pids


def test_a_drafter_dies_in_mid_stream_and_comes_back(live: ServedProcess, expected: str) -> None:
    on_event, pids = kill_at(live, 5, "ngram")
    text, _ = stream(live, PROMPT, on_event, max_tokens=TOKENS, paceline={"drafter": "ngram"})
    assert text == expected
    wait_until(lambda: actor(live, "ngram")["pid"] not in {0, pids["ngram"]}, 60, "it is another process")
    live.wait_for_drafters(set(DRAFTERS), 60)
    again = ask(live, PROMPT, max_tokens=TOKENS, paceline={"drafter": "ngram"})
    assert text_of(again) == expected
    assert again["metrics"]["speculative_decoding"]["rounds_by_drafter"].get("ngram", 0.0) > 0.1


def test_the_selector_dies_in_mid_stream_and_learns_again(live: ServedProcess, expected: str) -> None:
    on_event, pids = kill_at(live, 5, "selector")
    text, events = stream(live, PROMPT, on_event, max_tokens=TOKENS)
    assert text == expected
    after = [event["paceline"]["drafter"] for event in events[6:] if event.get("paceline")]
    assert any(after), "without the selector the target goes on with the last weights"
    wait_until(lambda: live.status()["selector_up"], 60, "the selector is back")
    assert actor(live, "selector")["pid"] != pids["selector"]
    assert text_of(ask(live, PROMPT, max_tokens=TOKENS)) == expected
    wait_until(
        lambda: sum(item["rounds"] for item in live.status()["drafters"]) > 0, 30, "it hears of rounds that were played"
    )


def test_a_selector_that_dies_comes_back_with_what_it_had_learned(live: ServedProcess, expected: str) -> None:
    assert text_of(ask(live, PROMPT, max_tokens=TOKENS)) == expected
    file = live.log.parent / "selector-state.json"

    def saved() -> bool:
        """What the file says is what the selector says."""
        state = read_state(file)
        if state is None:
            return False
        for item in live.status()["drafters"]:
            kept = state.drafters[item["name"]]
            means = {"gamma": kept.gamma, "eal": kept.starts[::-1]}  # positions over rounds that began there
            if kept.rounds != item["rounds"] or any(
                item[field] != pytest.approx(total / max(count, 1e-9)) for field, (total, count) in means.items()
            ):
                return False
        return True

    wait_until(saved, 15, "what it learned is in the file")
    before = {item["name"]: item for item in live.status()["drafters"]}
    assert sum(item["rounds"] for item in before.values()) > 0
    pids = kill(live, "selector")
    wait_until(lambda: live.status()["selector_up"], 60, "the selector is back")
    assert actor(live, "selector")["pid"] != pids["selector"]
    fields = ("weight", "gamma", "eal", "rounds", "drafted", "accepted", "draft_ms")

    def lost() -> list[str]:
        now = {item["name"]: item for item in live.status()["drafters"]}
        return [
            f"{name}.{field}: {now[name][field]}, was {item[field]}"
            for name, item in before.items()
            for field in fields
            if now[name][field] != pytest.approx(item[field])
        ]

    with suppress(AssertionError):
        wait_until(lambda: not lost(), 30, "the drafters have registered anew")
    assert lost() == []


def test_the_target_dies_in_mid_stream_and_the_text_goes_on(live: ServedProcess, expected: str) -> None:
    on_event, pids = kill_at(live, 5, "target")
    text, events = stream(live, PROMPT, on_event, max_tokens=TOKENS, stream_options={"include_usage": True})
    assert text == expected, "nothing is lost, nothing is said twice"
    usage, plain = events[-1]["usage"], ask(live, PROMPT, max_tokens=TOKENS)["usage"]
    assert usage["total_tokens"] == plain["total_tokens"]
    assert usage["completion_tokens"] == plain["completion_tokens"]
    assert actor(live, "target")["pid"] != pids["target"]
    live.wait_for_drafters(set(DRAFTERS), 60)


def is_ready(live: ServedProcess) -> bool:
    """Whether it answers, and says so; the proxy holds requests while the ingress starts."""
    try:
        return httpx.get(f"{live.url}/ready", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def test_the_ingress_dies_and_its_generations_end(live: ServedProcess) -> None:
    """Nobody cancels them: the target has to notice."""
    on_event, _ = kill_at(live, 5, "ingress")
    with pytest.raises(httpx.TransportError):
        stream(live, PROMPT, on_event, max_tokens=2000)
    wait_until(lambda: is_ready(live), 60, "the ingress is back")
    wait_until(lambda: live.status()["running"] == 0, 15, "the target decodes for nobody")


def test_with_all_drafters_dead_it_decodes_plainly_and_says_so(live: ServedProcess, expected: str) -> None:
    nodes = {name: actor(live, name)["node"] for name in DRAFTERS}
    with no_drafter_lives(live):
        wait_until(lambda: mode(live) == "plain decoding", 30, "/ready says that nobody drafts")
        assert {name: actor(live, name)["node"] for name in DRAFTERS} == nodes, "the dead are shown where they were"
        reply = ask(live, PROMPT, max_tokens=TOKENS)
        assert text_of(reply) == expected
        assert reply["metrics"]["speculative_decoding"]["accepted_tokens"] == 0
    live.wait_for_drafters(set(DRAFTERS), 150)
    assert mode(live) == "speculation"
    again = ask(live, PROMPT, max_tokens=TOKENS)
    assert text_of(again) == expected
    assert again["metrics"]["speculative_decoding"]["accepted_tokens"] > 0


def test_the_alert_for_a_dead_drafter_fires_and_clears(live: ServedProcess, tmp_path: Path) -> None:
    """A head takes seconds to start, so that nobody needs to keep Ray from bringing it back."""
    require_binaries()
    live.wait_for_drafters(set(DRAFTERS), 60)
    alert = "PacelineDrafterDown", "generalist"
    with Prometheus(tmp_path, "prometheus.yml", live.url.removeprefix("http://")) as prometheus:
        up = 'paceline_actor_up{actor="generalist"}'
        wait_until(lambda: prometheus.values(up) == [1.0], 30, "the drafter is seen")
        assert alert not in prometheus.firing()
        kill(live, "generalist")
        wait_until(lambda: alert in prometheus.firing(), 30, "the alert fires")
        assert text_of(ask(live, PROMPT, max_tokens=8)), "and requests are answered"
        live.wait_for_drafters(set(DRAFTERS), 60)
        wait_until(lambda: alert not in prometheus.firing(), 30, "it clears")


def mode(live: ServedProcess) -> str:
    found: str = httpx.get(f"{live.url}/ready", timeout=10).json()["mode"]
    return found


@contextmanager
def no_drafter_lives(live: ServedProcess) -> Iterator[None]:
    """kill -9 every drafter, and each that Ray brings back, for as long as this lasts."""
    done = threading.Event()

    def reap() -> None:
        while not done.wait(0.1):
            for process in psutil.Process(live.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if "".join(process.cmdline()).startswith("ray::DrafterActor"):
                        process.kill()

    reaper = threading.Thread(target=reap)
    reaper.start()
    try:
        yield
    finally:
        done.set()
        reaper.join()
