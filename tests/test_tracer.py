"""Spans: what is kept, what is let go, and what a whole trace says when it is opened."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path

import httpx
import pytest
from fake_backend import FakeBackend, make_api, make_tokenizer, served
from rich.console import Console

from paceline.actors.errors import ConfigError, RequestError
from paceline.actors.tracer import Span, Tracer
from paceline.cluster.client import Client
from paceline.cluster.trace_command import trace
from paceline.cluster.trace_document import ProcessTrace, trace_document


def test_spans_nest_and_tell_when_where_and_what() -> None:
    tracer = Tracer()
    before = time.time_ns()
    with tracer.span("outer", positions=3) as outer:
        with tracer.span("inner"):
            time.sleep(0.01)
        outer.notes["late"] = "yes"
    inner, whole = tracer.since(before)
    assert (inner.name, whole.name) == ("inner", "outer")
    assert whole.notes == {"positions": 3, "late": "yes"}
    assert whole.thread == threading.current_thread().name
    assert before <= whole.start_ns <= inner.start_ns
    assert inner.duration_ns >= 10_000_000
    assert whole.start_ns + whole.duration_ns >= inner.start_ns + inner.duration_ns


def test_a_span_ends_where_its_work_raises() -> None:
    tracer = Tracer()
    with pytest.raises(ZeroDivisionError), tracer.span("broken"):
        raise ZeroDivisionError
    assert [span.name for span in tracer.since(0)] == ["broken"]


def test_the_newest_are_kept_and_the_older_can_be_left_out() -> None:
    tracer = Tracer(capacity=3)
    for number in range(4):
        with tracer.span(str(number)):
            pass
    moment = time.time_ns()
    time.sleep(0.001)
    with tracer.span("4"):
        pass
    assert [span.name for span in tracer.since(0)] == ["2", "3", "4"]
    assert [span.name for span in tracer.since(moment)] == ["4"]


def test_reading_while_others_write_loses_nothing() -> None:
    tracer = Tracer(capacity=500)

    def write() -> None:
        for _ in range(3000):
            with tracer.span("x"):
                pass

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert len(tracer.since(0)) <= 500
    assert len(tracer.since(0)) == 500


def test_a_document_has_a_line_per_process_and_thread_and_arrows_between() -> None:
    target = [
        Span("ask", 5_000_000, 2_000, "engine", {"drafter": "ngram", "ask": 9}),
        Span("round", 4_000_000, 900_000, "engine", {}),
        Span("send", 4_500_000, 1_000, "loop", {}),
        Span("ask", 5_950_000, 2_000, "engine", {"drafter": "ngram", "ask": 10}),  # is handled after it
    ]
    drafter = [
        Span("propose", 4_200_000, 50_000, "pool", {"ask": 8}),  # was asked before the watched time
        Span("propose", 5_100_000, 50_000, "pool", {"ask": 9}),
    ]
    document = trace_document(
        [ProcessTrace("target", "10.0.0.1", 41, target), ProcessTrace("ngram", "10.0.0.2", 42, drafter)]
    )
    events = json.loads(json.dumps(document))["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {1: "target (10.0.0.1, pid 41)", 2: "ngram (10.0.0.2, pid 42)"}
    spans = {event["name"]: event for event in events if event["ph"] == "X"}
    assert (spans["round"]["ts"], spans["round"]["dur"]) == (0.0, 900.0)
    assert spans["ask"]["tid"] == spans["round"]["tid"] != spans["send"]["tid"]
    arrows = [(event["ph"], event["pid"], event["id"], event["ts"]) for event in events if event["ph"] in "sf"]
    assert sorted(arrows) == [("f", 2, "ngram:9", 1100.0), ("s", 1, "ngram:9", 1000.0)]
    assert trace_document([])["traceEvents"] == []


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> object:
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    with served(make_api(FakeBackend(lambda _: []), tokenizer)) as address:
        yield address


def test_the_command_writes_the_file_and_prints_the_shares(url: str, tmp_path: Path) -> None:
    output = tmp_path / "trace.json"
    screen = io.StringIO()
    assert trace(url, 0.05, output, Console(file=screen, width=100)) == 0
    assert len(json.loads(output.read_text())["traceEvents"]) > 5
    lines = [line.split() for line in screen.getvalue().splitlines()]
    shares = {tuple(line[:2]): line[-1] for line in lines if line and line[-1].endswith("%")}
    # Of a round of 9 ms, 2 were drafting (the asking lies within) and 6 verifying.
    assert shares == {
        ("target", "round"): "100.0%",
        ("target", "draft"): "22.2%",
        ("target", "verify"): "66.7%",
        ("target", "other"): "11.1%",
    }
    assert ["ngram", "propose", "1", "1.00"] in lines


def test_what_cannot_be_watched_or_written_is_said(url: str, tmp_path: Path) -> None:
    with (
        Client(url) as client,
        pytest.raises(RequestError, match=r"seconds: '31'; expected more than 0 and at most 30"),
    ):
        client.trace(31)
    for text in ("nan", "-1", "0", "soon", "1e999"):
        reply = httpx.get(f"{url}/v1/paceline/trace", params={"seconds": text})
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == "seconds"
    with pytest.raises(ConfigError, match=r"--output: .*cannot be written"):
        trace(url, 0.01, tmp_path / "none" / "trace.json", Console(file=io.StringIO()))
