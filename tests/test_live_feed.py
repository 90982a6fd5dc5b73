"""`/v1/paceline/live`: history first, then what changed, the same for all; without viewers nobody is asked."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_backend import CONFIG, EOS, MODEL, FakeBackend, make_api, make_tokenizer, rounds, served

from paceline.actors.errors import Overloaded
from paceline.actors.generation import Chunk, Generation
from paceline.actors.latency_histogram import REQUEST_BOUNDS_S
from paceline.cluster.activity import Activity
from paceline.cluster.backend import ClusterStatus, Pulse
from paceline.cluster.latency_window import WINDOW_S
from paceline.cluster.live_feed import (
    IDLE_PULSE_S,
    LINGER_S,
    MAX_VIEWERS,
    PULSE_EVERY_S,
    SILENCE_S,
    SPEED_UP_S,
    STATE_EVERY_S,
    LiveFeed,
)
from paceline.cluster.tokenizer import ChatTokenizer

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}


class CountingBackend(FakeBackend):
    """Counts what it is asked; `pace` and `queued` are what the target's counters say, one pulse after the other."""

    def __init__(self) -> None:
        super().__init__(lambda _: [])
        self.pulses = self.statuses = 0
        self.pace: list[tuple[str, float, float]] = []
        self.queued: list[tuple[str, tuple[int, ...]]] = []

    async def pulse(self) -> Pulse | None:
        self.pulses += 1
        if self.queued:
            replica, counts = self.queued.pop(0)
            return Pulse(replica, 0, 0, (), (), {}, queue_counts=counts)
        if not self.pace:
            return await super().pulse()
        replica, decode_ms, plain_ms = self.pace.pop(0)
        return Pulse(replica, 0, 0, (), (), {}, decode_ms, plain_ms, 10.0)

    async def status(self) -> ClusterStatus:
        self.statuses += 1
        return await super().status()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def backend() -> CountingBackend:
    return CountingBackend()


@pytest.fixture
def client(backend: CountingBackend, tokenizer: ChatTokenizer) -> Iterator[httpx.Client]:
    backend.script = lambda _: rounds(tokenizer.encode("the quick brown fox" + EOS), [3, 1, 2])
    with served(make_api(backend, tokenizer)) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


def messages(lines: Iterator[str], count: int) -> list[dict[str, Any]]:
    """The next messages of a stream."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        line = next(lines)
        if line.startswith("data: "):
            found.append(json.loads(line.removeprefix("data: ")))
    return found


def test_who_comes_later_sees_what_ran_before(client: httpx.Client, backend: CountingBackend) -> None:
    reply = client.post("/v1/chat/completions", json=CHAT).json()
    assert backend.pulses == backend.statuses == 0, "nobody watches, nobody is asked"
    with client.stream("GET", "/v1/paceline/live") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        hello, *ticks = messages(stream.iter_lines(), 3)
    assert (hello["type"], hello["model"], hello["policy"]) == ("hello", MODEL, "normalhedge")
    assert hello["state"]["ready"]
    assert told_drafters(hello) == {"ngram": "ngram", "suffix": "suffix"}
    (request,) = hello["requests"]["ended"]
    assert request["id"].startswith(reply["id"])
    assert (request["state"], request["tokens"]) == ("stop", reply["usage"]["completion_tokens"])
    points = {point["t"]: point for point in (*hello["points"], *(tick["point"] for tick in ticks))}.values()
    assert sum(point["tokens"] for point in points) == reply["usage"]["completion_tokens"]
    rounds_by = reply["metrics"]["speculative_decoding"]["rounds"]
    assert sum(sum(point["rounds"].values()) for point in points) == rounds_by
    assert [tick["type"] for tick in ticks] == ["tick", "tick"]
    assert ticks[1]["point"]["t"] == ticks[0]["point"]["t"] + 1
    point = ticks[0]["point"]
    assert (point["ready"], point["running"], point["weights"]) == (True, 0, {"ngram": 0.75, "suffix": 0.25})
    assert "requests" not in ticks[1], "nothing changed"


def test_viewers_share_one_message_and_the_last_one_ends_the_work(
    client: httpx.Client, backend: CountingBackend
) -> None:
    began = time.monotonic()
    with (
        client.stream("GET", "/v1/paceline/live") as one,
        client.stream("GET", "/v1/paceline/live") as other,
    ):
        seen, too = messages(one.iter_lines(), 3), messages(other.iter_lines(), 3)
        assert {item["point"]["t"] for item in seen[1:]} & {item["point"]["t"] for item in too[1:]}
        assert backend.pulses <= time.monotonic() - began + 2, "once a second, for both"
        assert backend.statuses == 1
    asked, left = backend.pulses, time.monotonic()
    with client.stream("GET", "/v1/paceline/live") as again:
        assert messages(again.iter_lines(), 2)[1]["type"] == "tick"
    assert backend.pulses - asked <= time.monotonic() - left + 2, "one task, not two"


def test_a_target_that_is_lost_is_said_and_seen_again(client: httpx.Client, backend: CountingBackend) -> None:
    with client.stream("GET", "/v1/paceline/live") as stream:
        lines = stream.iter_lines()
        messages(lines, 2)
        backend.ready = False
        told = first_point(lines, ready=False)
        assert "weights" not in told
        backend.ready = True
        assert "weights" in first_point(lines, ready=True)


def first_point(lines: Iterator[str], *, ready: bool) -> dict[str, Any]:
    """The first second in which the target was so, of the next ten."""
    points = (messages(lines, 1)[0]["point"] for _ in range(10))
    return next(point for point in points if point["ready"] is ready)


class Clock:
    """Seconds that pass when somebody waits for them."""

    def __init__(self) -> None:
        self.now = 1000.3

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def make_feed(backend: CountingBackend, activity: Activity | None = None) -> LiveFeed:
    clock = Clock()
    if activity is None:
        activity = Activity(clock)
    else:
        activity.clock = clock
    return LiveFeed(backend, activity, CONFIG, MODEL, clock.sleep)


def busy() -> Activity:
    """A request runs all the time."""
    activity = Activity(lambda: 0.0)
    activity.watch(Generation("held", (1,), 9, frozenset()))
    return activity


async def following(watching: AsyncIterator[str]) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await anext(watching))
    return message


async def ticks(feed: LiveFeed, count: int) -> list[dict[str, Any]]:
    watching = feed.watch()
    found = [await following(watching) for _ in range(count + 1)][1:]
    await watching.aclose()
    return found


async def test_speed_up_is_plain_time_over_time_taken_of_the_last_seconds(backend: CountingBackend) -> None:
    backend.pace = [
        ("a", 100.0, 100.0),
        ("a", 100.0, 100.0),
        ("a", 300.0, 500.0),
        ("b", 50.0, 90.0),
        ("b", 150.0, 215.0),
    ]
    feed = make_feed(backend, busy())
    told = [tick["point"]["speed_up"] for tick in await ticks(feed, 5 * PULSE_EVERY_S)][::PULSE_EVERY_S]
    assert told == [None, None, 2.0, None, 1.25], "another replica's counters are its own"
    pulses = SPEED_UP_S // PULSE_EVERY_S + 2
    backend.pace = [("a", 10.0, 30.0), *[("a", 10.0 + n, 30.0 + n) for n in range(1, pulses)]]
    told = [tick["point"]["speed_up"] for tick in await ticks(feed, pulses * PULSE_EVERY_S)]
    assert told[-1] == 1.0


async def test_queue_times_are_those_of_the_requests_that_left_it_lately(backend: CountingBackend) -> None:
    """By bucket: of four that left, two had waited up to 10 ms, and two from 0.5 to 1 s."""

    def counts(at_once: int, long: int) -> tuple[int, ...]:
        return (at_once, 0, 0, 0, 0, long, *[0] * (len(REQUEST_BOUNDS_S) - 5))

    feed = make_feed(backend, busy())
    steps = [("a", counts(7, 7)), ("a", counts(9, 9)), ("b", counts(50, 0)), ("b", counts(50, 1))]
    backend.queued = [*steps, *[("b", counts(50, 1))] * int(WINDOW_S / PULSE_EVERY_S + 1)]
    told = [tick["point"]["queue_ms"] for tick in await ticks(feed, len(backend.queued) * PULSE_EVERY_S)]
    told = told[::PULSE_EVERY_S]
    assert told[:4] == [None, [10.0, 950.0], None, [750.0, 975.0]], "another replica's counters are its own"
    assert told[-1] is None, "what left earlier than the window"


async def test_a_second_in_which_nothing_happened_has_no_message(backend: CountingBackend) -> None:
    activity = Activity()
    feed = make_feed(backend, activity)
    watching = feed.watch()
    began = (await following(watching))["now"]
    told = [await following(watching) for _ in range(LINGER_S + 8)]
    assert [tick["point"]["t"] for tick in told[:LINGER_S]] == list(range(began, began + LINGER_S))
    for tick, later in itertools.pairwise(told[LINGER_S - 1 :]):
        assert "state" in later or later["point"]["t"] == tick["point"]["t"] + SILENCE_S
    assert sum("state" in tick for tick in told[LINGER_S:]) == 2, "of 16 s each"
    asked, quiet = backend.pulses, 4
    for _ in range(quiet):
        await following(watching)
    assert backend.pulses - asked <= 1 + quiet * SILENCE_S / IDLE_PULSE_S
    for name in ("r-0", "r-1"):
        at = play(activity, name)
        seen = await until(watching, at)
        (ended,) = [told["id"] for tick in seen for told in tick.get("requests", {}).get("ended", ())]
        assert ended == name, "what was told is not told again"
        assert seen[-1]["point"]["rounds"] == {"plain": 1}, "told when its second is over"
        after = [(await following(watching))["point"]["t"] for _ in range(LINGER_S - 1)]
        assert after == list(range(at + 1, at + LINGER_S)), "means of 5 s fall"
    await watching.aclose()


async def until(watching: AsyncIterator[str], at: int) -> list[dict[str, Any]]:
    """Messages up to the one of a second, of the next twenty."""
    seen: list[dict[str, Any]] = []
    while not seen or seen[-1]["point"]["t"] != at:
        assert len(seen) < 20, f"{at} was not told: {[message['point']['t'] for message in seen]}"
        seen.append(await following(watching))
    return seen


def play(activity: Activity, name: str) -> int:
    """A request of one round; returns its second."""
    with activity.watch(Generation(name, (1,), 9, frozenset())) as request:
        request.round(Chunk([1]), 1)
        request.ended("stop")
    return int(activity.clock())


async def test_all_actors_are_asked_now_and_then_and_when_a_drafter_goes(backend: CountingBackend) -> None:
    feed = make_feed(backend, busy())
    told = await ticks(feed, 2 * STATE_EVERY_S + 2)
    assert backend.statuses == 3
    assert 1 <= sum("state" in tick for tick in told) <= 3
    watching = feed.watch()
    for _ in range(4):
        await following(watching)
    asked = backend.statuses
    backend.usable = ()
    seen = [await following(watching) for _ in range(3 * PULSE_EVERY_S)]
    await watching.aclose()
    assert backend.statuses == asked + 2, "once more after it, since others may hear of it later than the target"
    assert any("state" in tick for tick in seen)


def told_drafters(message: dict[str, Any]) -> dict[str, str]:
    """Drafter -> kind, of a message with a state."""
    return {drafter["name"]: drafter["kind"] for drafter in message["state"]["drafters"]}


async def test_a_drafter_that_was_added_or_removed_is_told_though_none_becomes_usable(
    backend: CountingBackend,
) -> None:
    feed = make_feed(backend, busy())
    watching = feed.watch()
    assert told_drafters(await following(watching)) == {"ngram": "ngram", "suffix": "suffix"}
    for kinds in ({"ngram": "ngram", "math": "head", "suffix": "suffix"}, {"math": "head"}):
        backend.kinds = kinds
        asked = backend.statuses
        seen = [await following(watching) for _ in range(3 * PULSE_EVERY_S + 1)]
        told = [told_drafters(message) for message in seen if "state" in message]
        assert told[-1] == kinds
        assert asked < backend.statuses <= asked + 2
    await watching.aclose()


async def test_viewers_are_bounded_and_a_slow_one_is_let_go(backend: CountingBackend) -> None:
    feed = make_feed(backend, busy())
    slow = feed.watch()
    await anext(slow)
    assert len(await ticks(feed, 40)) == 40
    assert feed.viewers == 0
    left = [message async for message in slow]
    assert left == []
    watching: list[AsyncIterator[str]] = [feed.watch() for _ in range(MAX_VIEWERS)]
    for viewer in watching:
        await anext(viewer)
    with pytest.raises(Overloaded, match=f"{MAX_VIEWERS} watch"):
        await anext(feed.watch())
    await asyncio.gather(*(viewer.aclose() for viewer in watching))  # type: ignore[attr-defined]
    assert feed.viewers == 0


def test_a_request_that_runs_is_seen_running(
    client: httpx.Client, backend: CountingBackend, tokenizer: ChatTokenizer
) -> None:
    backend.delay_s = 0.4
    seen: list[Generation] = backend.asked
    with client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        with client.stream("GET", "/v1/paceline/live") as stream:
            (hello,) = messages(stream.iter_lines(), 1)
    (request,) = hello["requests"]["running"]
    assert (request["id"], request["state"]) == (seen[0].request_id, "running")
