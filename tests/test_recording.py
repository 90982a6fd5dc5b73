"""Recordings: what is written is what is read, nothing of the text, and a whole file however the recording ends."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_backend import FakeBackend, make_api, make_tokenizer, served, wait_until
from rich.console import Console
from score_tables import table

from paceline.actors.errors import ConfigError, NotReady
from paceline.actors.messages import (
    DraftTiming,
    RoundContext,
    Score,
    SequenceOpened,
    SequenceRound,
    TargetReport,
    WeightsUpdate,
)
from paceline.cluster.cli import main
from paceline.cluster.record_command import record
from paceline.cluster.replay.recording import SCHEMA, RecordedSequence, RecordingWriter, read_recording
from paceline.cluster.request_log import RequestLog


class Traffic:
    """Requests that come and end as a test says."""

    def __init__(self, kept: int = 16) -> None:
        self.log = RequestLog(kept, 64, lambda: 1.0)
        self.seqs = itertools.count(1)

    def request(self, name: str, *, ends: bool = True, route: str = "") -> int:
        """One of a plain round and two drafted ones, the last of which is at hand."""
        seq = next(self.seqs)
        log = self.log
        log.opened("t", SequenceOpened(seq, 10, route=route, request=f"{name}-0"))
        log.sent(WeightsUpdate(1, ("a", "b"), np.array([0.25, 0.75], dtype=np.float32)))
        context = RoundContext(2.0, 15.0, 1)
        rounds = [
            SequenceRound(seq, 11, "", 0, 0),
            SequenceRound(seq, 14, "a", 4, 2, length=5, tokens=(7, 8, 9)),
            SequenceRound(seq, 16, "a", 2, 1, length=2, carried=True),
        ]
        for played in rounds:
            timing = [DraftTiming("a", 1, 5, 1.5)] if played.drafted and not played.carried else []
            verify = 0.0 if not played.drafter else 11.0
            log.reported(TargetReport("t", rounds=[played], drafts=timing, verify_ms=verify, context=context))
        log.scores(table("a", Score(seq, 11, np.array([1.0, 1.0, 0.0, 1.0, 0.5], dtype=np.float32))))
        log.scores(table("b", Score(seq, 12, np.array([0.25, 0.5], dtype=np.float32))))
        if ends:
            log.reported(TargetReport("t", closed=[seq]))
        return seq

    def write(self, path: Path, *names: str) -> None:
        with RecordingWriter(path, {"model": "tiny"}) as writer:
            for name in names:
                found = self.log.explain(name)
                assert found is not None
                writer.write(found)


def the_one(path: Path) -> RecordedSequence:
    ((sequence,), _) = read_recording(path)
    return sequence


def test_what_is_written_is_read(tmp_path: Path) -> None:
    traffic = Traffic()
    traffic.request("r")
    traffic.write(tmp_path / "f.parquet", "r")
    sequence = the_one(tmp_path / "f.parquet")
    assert (sequence.request, sequence.index, sequence.prompt_tokens, sequence.left_out) == ("r", 0, 10, 0)
    plain, drafted, at_hand = sequence.rounds
    assert (plain.drafter, plain.tokens, plain.verify_ms, plain.gammas) == ("", 1, None, {})
    assert (drafted.drafter, drafted.length, drafted.drafted, drafted.accepted, drafted.tokens) == ("a", 5, 4, 2, 3)
    assert drafted.gammas == {"a": [1.0, 1.0, 0.0], "b": [None, 0.25, 0.5]}
    assert drafted.weights == {"a": 0.25, "b": 0.75}
    assert (drafted.draft_ms, drafted.wait_ms, drafted.verify_ms, drafted.round_ms) == (1.5, 2.0, 11.0, 15.0)
    assert (at_hand.carried, at_hand.draft_ms, at_hand.gammas) == (True, None, {"a": [1.0, 0.5]})


def test_nothing_of_the_text_or_of_the_user_s_name_is_in_it(tmp_path: Path) -> None:
    traffic = Traffic()
    for name, route in (("r", "alice@example.org"), ("s", "alice@example.org"), ("u", "bob"), ("v", "")):
        traffic.request(name, route=route)
    path = tmp_path / "f.parquet"
    traffic.write(path, "r", "s", "u", "v")
    sequences, _ = read_recording(path)
    routes = [sequence.route for sequence in sequences]
    assert routes[0] == routes[1] != routes[2] != routes[3] == ""
    assert not {"token_ids", "text", "tokens"} & set(SCHEMA.names)
    values = str(pq.read_table(path).to_pydict())
    assert "alice" not in values
    traffic.write(tmp_path / "again.parquet", "r")
    assert the_one(tmp_path / "again.parquet").route != routes[0], "a hash compares within one recording only"


def test_rounds_after_a_hole_are_left_out(tmp_path: Path) -> None:
    traffic = Traffic()
    seq = traffic.request("r", ends=False)
    traffic.log.reported(TargetReport("t", rounds=[SequenceRound(seq, 30, "a", 4, 3, length=4)]))
    traffic.write(tmp_path / "f.parquet", "r")
    sequence = the_one(tmp_path / "f.parquet")
    assert (len(sequence.rounds), sequence.left_out) == (3, 1)


@pytest.mark.parametrize("wrong", ["absent", "not parquet", "no recording", "version 3", "other columns"])
def test_what_is_no_recording_is_refused_by_name(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "f.parquet"
    metadata = {b"paceline_recording_version": b"3" if wrong == "version 3" else b"1", b"paceline_recording": b"{}"}
    if wrong == "not parquet":
        path.write_text("no")
    elif wrong == "no recording":
        pq.write_table(pa.table({"x": [1]}), path)
    elif wrong == "other columns":
        pq.write_table(pa.table({"x": [1]}).replace_schema_metadata(metadata), path)
    elif wrong == "version 3":
        pq.write_table(SCHEMA.with_metadata(metadata).empty_table(), path)
    said = {
        "no recording": "no recording",
        "version 3": "version 3; expected version 1 or 2",
        "other columns": "columns",
    }
    with pytest.raises(ConfigError, match=said.get(wrong, "cannot be read")) as caught:
        read_recording(path)
    assert str(path) in str(caught.value)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeBackend, str]]:
    backend = FakeBackend(lambda _: [])
    with served(make_api(backend, make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer"))))) as url:
        yield backend, url


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No score is on its way here."""
    monkeypatch.setattr("paceline.cluster.record_command.SETTLE_S", 0.0)
    monkeypatch.setattr("paceline.cluster.record_command.POLL_S", 0.02)


@pytest.mark.usefixtures("at_once")
def test_only_what_ends_after_the_beginning_is_recorded_and_what_goes_unread_is_counted(
    shared: tuple[FakeBackend, str], tmp_path: Path
) -> None:
    backend, url = shared
    traffic = Traffic(kept=3)
    backend.log = traffic.log
    traffic.request("before")
    path = tmp_path / "f.parquet"
    console = Console(file=StringIO(), record=True)
    done = threading.Event()

    def run() -> None:
        assert record(url, path, seconds=None, requests=4, console=console) == 0
        done.set()

    recorder = threading.Thread(target=run)
    recorder.start()
    wait_until(lambda: path.with_name("f.parquet.part").exists(), 20, "the recording began")
    traffic.request("one")
    wait_until(lambda: b"one" in path.with_name("f.parquet.part").read_bytes(), 20, "the first is read")
    real, backend.log = backend.log, None  # the selector is away while five come, of which three are kept
    for name in ("x1", "x2", "x3", "x4", "x5"):
        traffic.request(name)
    backend.log = real
    recorder.join(timeout=20)
    assert done.is_set()
    sequences, about = read_recording(path)
    assert [sequence.request for sequence in sequences] == ["one", "x3", "x4", "x5"]
    assert about == {"model": "tiny", "policy": "normalhedge", "requests_lost": 2}
    assert "4 requests, 12 rounds" in console.export_text()


@pytest.mark.usefixtures("at_once")
def test_a_restarted_selector_s_requests_are_recorded_from_its_first(
    shared: tuple[FakeBackend, str], tmp_path: Path
) -> None:
    backend, url = shared
    backend.log = Traffic().log
    path = tmp_path / "f.parquet"
    recorder = threading.Thread(target=record, args=(url, path), kwargs={"seconds": None, "requests": 1})
    recorder.start()
    wait_until(lambda: path.with_name("f.parquet.part").exists(), 20, "the recording began")
    restarted = Traffic()
    restarted.request("new")
    backend.log = restarted.log
    recorder.join(timeout=20)
    assert the_one(path).request == "new"


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_whole_file(
    shared: tuple[FakeBackend, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    backend, url = shared
    traffic = Traffic()
    backend.log = traffic.log
    path = tmp_path / "f.parquet"

    def interrupt() -> None:
        wait_until(lambda: path.with_name("f.parquet.part").exists(), 20, "the recording began")
        traffic.request("ended")
        traffic.request("runs", ends=False)
        wait_until(lambda: b"ended" in path.with_name("f.parquet.part").read_bytes(), 20, "it is read")
        os.kill(os.getpid(), number)

    # Where the tests run in a shell's background, the signal is ignored from the start.
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        threading.Thread(target=interrupt).start()
        assert main(["record", url, "-o", str(path)]) == 0
    finally:
        signal.signal(number, before)
    assert the_one(path).request == "ended"
    assert "1 still ran" in capsys.readouterr().out


@pytest.mark.usefixtures("at_once")
def test_a_recording_of_nothing_says_so(shared: tuple[FakeBackend, str], tmp_path: Path) -> None:
    backend, url = shared
    backend.log = Traffic().log
    path = tmp_path / "f.parquet"
    assert main(["record", url, "-o", str(path), "--seconds", "0.1"]) == 1
    assert read_recording(path)[0] == []


def test_a_recording_is_never_replaced(shared: tuple[FakeBackend, str], tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    path.write_bytes(b"a recording of yesterday")
    with pytest.raises(ConfigError, match="is there already"):
        record(shared[1], path, seconds=1.0, requests=None)
    assert path.read_bytes() == b"a recording of yesterday"


def test_what_cannot_be_recorded_is_said_before_a_file_is_made(shared: tuple[FakeBackend, str], tmp_path: Path) -> None:
    backend, url = shared
    backend.log = None
    path = tmp_path / "f.parquet"
    with pytest.raises(NotReady, match="selector"):
        record(url, path, seconds=1.0, requests=None)
    backend.log = Traffic(kept=0).log
    with pytest.raises(ConfigError, match=r"expected `selector\.explain_requests` above 0"):
        record(url, path, seconds=1.0, requests=None)
    backend.log = Traffic().log
    with pytest.raises(ConfigError, match="cannot be written"):
        record(url, tmp_path / "absent" / "f.parquet", seconds=1.0, requests=None)
    assert not list(tmp_path.iterdir())
