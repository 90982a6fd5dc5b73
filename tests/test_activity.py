"""The last minutes of an ingress: what is counted, in which second, and that it stays bounded."""

from __future__ import annotations

import pytest

from paceline.actors.errors import EngineError
from paceline.actors.generation import Chunk, Generation
from paceline.cluster.activity import HISTORY_S, RECENT, RUNNING, Activity
from paceline.cluster.latency_window import MOST, WINDOW_S, LatencyWindow, bucket_percentiles


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def activity(clock: Clock) -> Activity:
    return Activity(clock)


def generation(name: str = "cmpl-1-0", *, streamed: bool = True) -> Generation:
    return Generation(name, (1,), 100, frozenset(), streamed=streamed)


def test_rounds_by_second_and_drafter(activity: Activity, clock: Clock) -> None:
    with activity.watch(generation()) as watched:
        clock.now = 1000.2
        watched.round(Chunk([1]), 1)
        watched.round(Chunk([1, 2, 3], None, "ngram", 4, 2), 3)
        watched.round(Chunk([1, 2], None, "ngram", 1, 1), 2)
        clock.now = 1001.5
        watched.round(Chunk([7], "stop", "suffix", 3, 0), 1)
        watched.ended("stop")
    first, second = activity.history(1002)
    assert (first["t"], first["tokens"], first["rounds"]) == (1000, 6, {"plain": 1, "ngram": 2})
    # Of four tokens two were right and the third wrong; the fourth was not reached. Of the one, none was wrong.
    assert (first["judged"], first["accepted"]) == ({"ngram": [2, 1, 1]}, {"ngram": [2, 1]})
    assert (second["judged"], second["accepted"]) == ({"suffix": [1]}, {"suffix": []})
    assert activity.history(1001) == [first], "the present second is not over"


def test_a_text_that_ends_inside_a_draft_judges_no_token_after_its_end(activity: Activity) -> None:
    with activity.watch(generation()) as watched:
        watched.round(Chunk([1, 2], "stop", "ngram", 5, 2), 2)
        watched.ended("stop")
    (second,) = activity.history(1001)
    assert second["judged"] == second["accepted"] == {"ngram": [1, 1]}


def test_a_request_is_told_as_it_was(activity: Activity, clock: Clock) -> None:
    with activity.watch(generation("chatcmpl-x-0")) as watched:
        (running,) = activity.requests()["running"]
        assert (running["state"], running["tokens_per_s"]) == ("running", None)
        assert activity.requests()["ended"] == []
        clock.now += 0.5
        watched.round(Chunk([1, 2, 3], None, "ngram", 4, 2), 3)
        clock.now += 1.5
        watched.round(Chunk([4]), 1)
        watched.ended("length")
    told = {
        "id": "chatcmpl-x-0",
        "at": 1000.0,
        "state": "length",
        "tokens": 4,
        "tokens_per_s": 2.0,
        "tokens_per_round": 2.0,
        "ttft_ms": 500,
        "rounds": {"ngram": 1, "plain": 1},
    }
    assert activity.requests() == {"running": [], "ended": [told]}
    assert activity.running == 0


def test_ends_that_are_none_of_the_targets(activity: Activity) -> None:
    with pytest.raises(EngineError), activity.watch(generation()):
        raise EngineError("lost")
    with pytest.raises(GeneratorExit), activity.watch(generation()):
        raise GeneratorExit
    assert [request["state"] for request in activity.requests()["ended"]] == ["client left", "error"]


def test_requests_that_ended_are_told_from_any_moment_on(activity: Activity) -> None:
    for number in range(RECENT + 3):
        with activity.watch(generation(f"r-{number}")):
            pass
    assert activity.ended == RECENT + 3
    assert [request["id"] for request in activity.requests(RECENT + 1)["ended"]] == [
        f"r-{RECENT + 2}",
        f"r-{RECENT + 1}",
    ]
    assert activity.requests(RECENT + 3)["ended"] == []
    assert len(activity.requests(0)["ended"]) == RECENT, "as many as are kept"


def test_memory_is_bounded(activity: Activity, clock: Clock) -> None:
    held = [activity.watch(generation(f"held-{number}")) for number in range(RUNNING + 5)]
    for number in range(HISTORY_S + 100):
        with activity.watch(generation(f"r-{number}")) as watched:
            watched.round(Chunk([1]), 1)
            clock.now += 1
    assert len(activity.history(int(clock.now))) == HISTORY_S
    assert [len(told) for told in activity.requests().values()] == [RUNNING, RECENT]
    assert activity.running == len(held)
    window = LatencyWindow()
    for number in range(3 * MOST):
        window.tokens(1.0, float(number), 1)
    assert window.percentiles(1.0)["token_ms"] == [2.5 * MOST - 1, pytest.approx(2.99 * MOST, abs=1)]


def test_latencies_are_those_of_streams(activity: Activity, clock: Clock) -> None:
    """Three tokens in one round 30 ms after the last: each took 10. Rounds that are gathered say nothing of that."""
    with activity.watch(generation()) as watched, activity.watch(generation("whole", streamed=False)) as whole:
        clock.now += 0.2
        watched.round(Chunk([1]), 1)
        whole.round(Chunk([1]), 1)
        clock.now += 0.03
        watched.round(Chunk([1, 2, 3], None, "ngram", 3, 2), 3)
        clock.now += 0.1
        whole.round(Chunk([1]), 1)
        watched.round(Chunk([1]), 1)
    found = activity.latencies.percentiles(clock.now)
    assert found == {"ttft_ms": [200.0, 200.0], "token_ms": [10.0, 100.0], "whole_ms": None}
    assert set(activity.latencies.percentiles(clock.now + 2 * WINDOW_S).values()) == {None}


def test_the_time_of_a_whole_answer_is_that_of_those_that_came_to_their_end(activity: Activity, clock: Clock) -> None:
    """Streams or not; who left did not wait for the end."""
    for number in range(20):
        with activity.watch(generation(streamed=number % 2 == 0)) as watched:
            clock.now += 0.25 + number / 1024
            watched.round(Chunk([1], "stop"), 1)
            watched.ended("stop")
    leaving = activity.watch(generation())
    clock.now += 8
    with pytest.raises(GeneratorExit), leaving:
        raise GeneratorExit
    median, rare = activity.latencies.percentiles(clock.now)["whole_ms"]
    assert median == pytest.approx(250 + 9 * 1000 / 1024, abs=0.01), "ten of twenty took at most so long"
    assert rare == pytest.approx(250 + 18 * 1000 / 1024, abs=0.01), "nineteen of twenty"


def test_percentiles_of_buckets_lie_evenly_within_them() -> None:
    assert bucket_percentiles((0.1, 0.2), (0, 0, 0)) is None
    assert bucket_percentiles((0.1, 0.2), (10, 0, 0)) == [50.0, 95.0]
    assert bucket_percentiles((0.1, 0.2), (5, 15, 0)) == [pytest.approx(133.33), pytest.approx(193.33)]
    assert bucket_percentiles((0.1, 0.2), (1, 0, 3)) == [200.0, 200.0], "beyond the last bound"
