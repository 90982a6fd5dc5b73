"""Sessions of a drafter: idempotent, bounded, and unharmed by a kind that raises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from paceline.actors.drafter_host import DrafterHost
from paceline.actors.drafter_options import NgramOptions
from paceline.actors.drafter_registry import DrafterContext, build_drafter, check_options
from paceline.actors.errors import ConfigError
from paceline.actors.messages import Commit, Draft, DrafterBatch, Laws, Open, Probs, Propose, Resync
from paceline.actors.ngram import Ngram
from paceline.actors.sampling import Sampling


class Recorder:
    """A drafter kind that notes its calls, and raises where it is told to."""

    vocab_size = 10

    def __init__(self) -> None:
        self.committed: list[tuple[int, int, list[int], int | None]] = []
        self.closed: list[int] = []
        self.broken: set[str] = set()

    def open(self, opens: Sequence[Open]) -> None:
        self._break("open")

    def commit(self, commits: Sequence[Commit]) -> list[Probs]:
        self._break("commit")
        for item in commits:
            self.committed.append((item.seq, item.start, list(item.tokens), None if item.p is None else len(item.p)))
        return [np.full(len(item.tokens), 0.5, np.float32) for item in commits]

    def propose(self, proposes: Sequence[Propose]) -> list[Draft]:
        self._break("propose")
        return [Draft(item.seq, item.start, [1] * item.length) for item in proposes]

    def close(self, seqs: Sequence[int]) -> None:
        self.closed += seqs

    def _break(self, call: str) -> None:
        if call in self.broken:
            raise RuntimeError(f"broken {call}")


@pytest.fixture
def kind() -> Recorder:
    return Recorder()


@pytest.fixture
def host(kind: Recorder) -> DrafterHost:
    made = DrafterHost(kind, max_sessions=2)
    reply, _ = made.handle(DrafterBatch(opens=[Open(1, [1, 2, 3], Sampling())]))
    assert not reply
    return made


def test_a_repeated_commit_is_harmless_and_scored_once(host: DrafterHost, kind: Recorder) -> None:
    for _ in range(2):
        reply, scores = host.handle(DrafterBatch(commits=[Commit(1, 3, [4, 5])]))
        assert not reply
    assert scores == []
    assert kind.committed == [(1, 3, [4, 5], None)]


def test_an_overlapping_commit_is_trimmed_with_its_laws(host: DrafterHost, kind: Recorder) -> None:
    host.handle(DrafterBatch(commits=[Commit(1, 3, [4, 5])]))
    p = Laws(np.zeros((4, 1), np.int32), np.ones((4, 1), np.float32))
    _, scores = host.handle(DrafterBatch(commits=[Commit(1, 3, [4, 5, 6, 7], p)]))
    assert kind.committed[-1] == (1, 5, [6, 7], 2)
    assert (scores[0].start, len(scores[0].gammas)) == (5, 2)


@pytest.mark.parametrize(
    ("batch", "resync"),
    [
        (DrafterBatch(round=4, commits=[Commit(1, 5, [4])]), Resync(1, 3)),
        (DrafterBatch(round=4, commits=[Commit(8, 0, [4])]), Resync(8, 0)),
        (DrafterBatch(round=4, proposes=[Propose(1, 4, 3)]), Resync(1, 3)),
        (DrafterBatch(round=4, commits=[Commit(8, 3, [4])], proposes=[Propose(8, 4, 3)]), Resync(8, 0)),
    ],
)
def test_a_gap_or_an_unknown_session_asks_for_a_resync_once(
    host: DrafterHost, batch: DrafterBatch, resync: Resync
) -> None:
    reply, scores = host.handle(batch)
    assert (reply.round, reply.resyncs, reply.drafts, scores) == (4, [resync], [], [])


def test_a_stale_propose_gets_an_empty_draft(host: DrafterHost) -> None:
    host.handle(DrafterBatch(commits=[Commit(1, 3, [4])]))
    reply, _ = host.handle(DrafterBatch(round=2, proposes=[Propose(1, 3, 5)]))
    assert reply.drafts == [Draft(1, 3, [])]


def test_commit_and_propose_in_one_message(host: DrafterHost) -> None:
    reply, scores = host.handle(DrafterBatch(9, commits=[Commit(1, 3, [4])], proposes=[Propose(1, 4, 2)]))
    assert reply.drafts == [Draft(1, 4, [1, 1])]
    assert scores[0].start == 3
    assert reply.busy_ms > 0


def test_one_session_too_many_is_refused_and_none_is_dropped_for_it(host: DrafterHost) -> None:
    opens = [Open(seq, [1], Sampling()) for seq in (2, 3, 4)]
    reply, _ = host.handle(DrafterBatch(opens=opens))
    assert [(failure.code, failure.seqs) for failure in reply.failures] == [("CAPACITY", [3, 4])]
    assert host.sessions == 2
    host.handle(DrafterBatch(closes=[2, 77]))
    assert host.sessions == 1
    reply, _ = host.handle(DrafterBatch(opens=[opens[1]]))
    assert not reply.failures


def test_opening_again_replaces_the_session(host: DrafterHost, kind: Recorder) -> None:
    host.handle(DrafterBatch(opens=[Open(1, [1, 2, 3, 4, 5], Sampling())]))
    assert kind.closed == [1]
    assert host.sessions == 1
    _, scores = host.handle(DrafterBatch(commits=[Commit(1, 5, [6])]))
    assert scores[0].start == 5


@pytest.mark.parametrize(
    "batch",
    [
        DrafterBatch(opens=[Open(2, [1, 10], Sampling())]),
        DrafterBatch(opens=[Open(2, [], Sampling())]),
        DrafterBatch(commits=[Commit(1, 3, [-1])]),
    ],
)
def test_ids_outside_the_vocabulary_are_refused(host: DrafterHost, kind: Recorder, batch: DrafterBatch) -> None:
    reply, _ = host.handle(batch)
    assert [failure.code for failure in reply.failures] == ["INVALID"]
    assert kind.committed == []
    assert host.sessions == 1


@pytest.mark.parametrize("call", ["open", "commit", "propose"])
def test_a_kind_that_raises_loses_its_sequence_and_goes_on(host: DrafterHost, kind: Recorder, call: str) -> None:
    kind.broken = {call}
    batches = {
        "open": DrafterBatch(1, opens=[Open(1, [1], Sampling())]),
        "commit": DrafterBatch(1, commits=[Commit(1, 3, [4])]),
        "propose": DrafterBatch(1, proposes=[Propose(1, 3, 2)]),
    }
    reply, scores = host.handle(batches[call])
    assert [(failure.code, failure.seqs) for failure in reply.failures] == [("INTERNAL", [1])]
    assert f"broken {call}" in reply.failures[0].message
    assert scores == []
    assert host.sessions == 0
    kind.broken = set()
    host.handle(DrafterBatch(opens=[Open(1, [1, 2], Sampling())]))
    assert host.handle(DrafterBatch(2, proposes=[Propose(1, 2, 2)]))[0].drafts == [Draft(1, 2, [1, 1])]


@pytest.mark.parametrize(
    ("kind_name", "options", "message"),
    [
        ("warp", {}, r"kind: 'warp' is not a drafter kind; there are ngram, suffix, early_exit, lm"),
        ("ngram", {"depth": 3}, r"options.depth: drafter kind 'ngram' has no such option; it has max_ngram, min_ngram"),
        ("ngram", {"max_ngram": "4"}, r"options.max_ngram: expected int, got '4'"),
        ("ngram", {"max_ngram": True}, r"options.max_ngram: expected int, got True"),
        ("ngram", {"max_ngram": 99}, r"options.max_ngram: expected 1 to 32, got 99"),
        ("ngram", {"min_ngram": 5}, r"options.min_ngram: 5 is more than max_ngram"),
        ("suffix", {"min_probability": 2}, r"options.min_probability: expected 0.0 to 1.0, got 2"),
        ("lm", {}, r"options.model: is needed"),
    ],
)
def test_wrong_options_are_named(kind_name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_options(kind_name, options)


def test_the_registry_builds_what_it_checked(tmp_path: object) -> None:
    drafter = build_drafter("ngram", {"min_ngram": 1}, DrafterContext(tmp_path, 10))  # type: ignore[arg-type]
    assert isinstance(drafter, Ngram)
    assert drafter.vocab_size == 10
    assert NgramOptions(min_ngram=1) == check_options("ngram", {"min_ngram": 1})
