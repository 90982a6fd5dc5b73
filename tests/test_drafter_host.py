"""Sessions of a drafter: idempotent, bounded, and unharmed by a kind that raises."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from paceline.actors.drafter import FeatureRequest
from paceline.actors.drafter_host import DrafterHost
from paceline.actors.drafter_options import NgramOptions
from paceline.actors.drafter_registry import DrafterContext, build_drafter, check_options
from paceline.actors.errors import ConfigError
from paceline.actors.messages import Commit, Draft, DrafterBatch, Features, Laws, Open, Probs, Propose, Resync
from paceline.actors.ngram import Ngram
from paceline.actors.sampling import Sampling


class Recorder:
    """A drafter kind that notes its calls, and raises where it is told to."""

    vocab_size = 10
    features: FeatureRequest | None = None

    def __init__(self) -> None:
        self.committed: list[tuple[int, int, list[int], int | None]] = []
        self.closed: list[int] = []
        self.opened: list[list[int]] = []
        self.broken: set[str] = set()
        self.rows_lost = 0
        self.features_seen: list[Features | None] = []

    def open(self, opens: Sequence[Open]) -> None:
        self._break("open")
        self._once(opens)
        self.opened += [list(item.tokens) for item in opens]

    def commit(self, commits: Sequence[Commit]) -> list[Probs]:
        self._break("commit")
        self._once(commits)
        for item in commits:
            self.committed.append((item.seq, item.start, list(item.tokens), None if item.p is None else len(item.p)))
            self.features_seen.append(item.features)
        return [np.full(len(item.tokens), 0.5, np.float32) for item in commits[self.rows_lost :]]

    def propose(self, proposes: Sequence[Propose]) -> list[Draft]:
        self._break("propose")
        self._once(proposes)
        return [Draft(item.seq, item.start, [1] * item.length) for item in proposes]

    def close(self, seqs: Sequence[int]) -> None:
        self.closed += seqs
        self._break("close")

    def _once(self, items: Sequence[Open] | Sequence[Commit] | Sequence[Propose]) -> None:
        seqs = [item.seq for item in items]
        assert len(set(seqs)) == len(seqs), "a kind never sees a sequence twice in one call"

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


def test_a_sequence_twice_in_a_batch_is_handled_in_order(host: DrafterHost, kind: Recorder) -> None:
    host.handle(DrafterBatch(opens=[Open(2, [1], Sampling())]))
    commits = [Commit(1, 3, [4]), Commit(2, 1, [2]), Commit(1, 3, [4, 5, 6]), Commit(1, 3, [4])]
    reply, scores = host.handle(DrafterBatch(7, commits=commits, proposes=[Propose(1, 6, 2), Propose(1, 6, 3)]))
    assert not reply.failures
    assert kind.committed == [(1, 3, [4], None), (2, 1, [2], None), (1, 4, [5, 6], None)]
    assert [(score.seq, score.start, len(score.gammas)) for score in scores] == [(1, 3, 1), (2, 1, 1), (1, 4, 2)]
    assert [draft.tokens for draft in reply.drafts] == [[1, 1], [1, 1, 1]]


def test_what_a_failure_lost_is_not_handed_on(host: DrafterHost, kind: Recorder) -> None:
    kind.broken = {"commit"}
    reply, scores = host.handle(DrafterBatch(7, commits=[Commit(1, 3, [4]), Commit(1, 4, [5])]))
    assert [(failure.code, failure.seqs) for failure in reply.failures] == [("INTERNAL", [1])]
    assert (scores, kind.closed) == ([], [1])


def test_of_two_opens_in_a_batch_the_last_counts_and_takes_one_place(kind: Recorder) -> None:
    host = DrafterHost(kind, max_sessions=1)
    reply, _ = host.handle(DrafterBatch(opens=[Open(1, [1, 2], Sampling()), Open(1, [1, 2, 3], Sampling())]))
    assert (reply.failures, host.sessions, kind.opened) == ([], 1, [[1, 2, 3]])
    assert host.handle(DrafterBatch(4, proposes=[Propose(1, 3, 1)]))[0].drafts == [Draft(1, 3, [1])]


def test_a_close_that_raises_spoils_nothing_else_in_its_batch(host: DrafterHost, kind: Recorder) -> None:
    host.handle(DrafterBatch(opens=[Open(2, [1], Sampling())]))
    kind.broken = {"close"}
    batch = DrafterBatch(5, commits=[Commit(1, 3, [4])], proposes=[Propose(1, 4, 1)], closes=[2])
    reply, scores = host.handle(batch)
    assert [(failure.code, failure.seqs) for failure in reply.failures] == [("INTERNAL", [2])]
    assert (reply.drafts, len(scores), host.sessions) == ([Draft(1, 4, [1])], 1, 1)


def test_a_kind_that_leaves_out_a_score_fails(host: DrafterHost, kind: Recorder) -> None:
    kind.rows_lost = 1
    reply, scores = host.handle(DrafterBatch(5, commits=[Commit(1, 3, [4])]))
    assert [(failure.code, failure.seqs) for failure in reply.failures] == [("INTERNAL", [1])]
    assert (scores, host.sessions) == ([], 0)


@pytest.mark.parametrize(
    ("ids", "why"), [([[10]], "beyond the vocabulary"), ([[-2]], "below -1"), ([[1], [1]], "two rows for one token")]
)
def test_a_wrong_law_is_refused_for_its_own_sequence_only(
    host: DrafterHost, kind: Recorder, ids: list[list[int]], why: str
) -> None:
    host.handle(DrafterBatch(opens=[Open(2, [1], Sampling(temperature=1.0))]))
    p = Laws(np.array(ids, np.int32), np.ones((len(ids), 1), np.float32))
    reply, _ = host.handle(DrafterBatch(5, commits=[Commit(2, 1, [4], p), Commit(1, 3, [4])]))
    assert [(failure.code, failure.seqs) for failure in reply.failures] == [("INVALID", [2])], why
    assert [seq for seq, *_ in kind.committed] == [1]
    assert host.sessions == 2


WINDOW, WIDTH = 3, 4
READS = FeatureRequest(layers=(1, 5), window=WINDOW, width=WIDTH // 2)


def rows(*values: int, width: int = WIDTH) -> np.ndarray:
    """Features whose rows can be told apart."""
    return np.array(values, np.uint16).reshape(-1, 1).repeat(width, axis=1)


@pytest.fixture
def reader(kind: Recorder) -> DrafterHost:
    kind.features = READS
    host = DrafterHost(kind, max_sessions=3)
    reply, _ = host.handle(DrafterBatch(opens=[Open(1, [1, 2, 3], Sampling(), rows(1, 2))]))
    assert not reply
    return host


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (DrafterBatch(opens=[Open(2, [1, 2], Sampling())]), "open.features: absent; expected 1 rows of 4 values"),
        (DrafterBatch(commits=[Commit(1, 3, [4] * 9)]), "commit.features: absent; expected 3 rows of 4 values"),
        (
            DrafterBatch(commits=[Commit(1, 3, [4, 5], None, rows(3, 4, width=5))]),
            "commit.features: shape [2, 5]; expected [2, 4]",
        ),
        (
            DrafterBatch(commits=[Commit(1, 3, [4, 5], None, rows(3, 4, 5))]),
            "commit.features: shape [3, 4]; expected [2, 4]",
        ),
        (
            DrafterBatch(commits=[Commit(1, 3, [4, 5], None, rows(4))]),
            "commit.features: shape [1, 4]; expected [2, 4]",
        ),
        (
            DrafterBatch(commits=[Commit(1, 3, [4] * 5, None, rows(1, 2, 3, 4))]),
            "commit.features: shape [4, 4]; expected [3, 4]",
        ),
        (
            DrafterBatch(opens=[Open(2, [1, 2], Sampling(), rows(0, 1))]),
            "open.features: shape [2, 4]; expected [1, 4]",
        ),
    ],
)
def test_features_that_the_kind_did_not_ask_for_are_refused_by_field(
    reader: DrafterHost, kind: Recorder, batch: DrafterBatch, message: str
) -> None:
    reply, scores = reader.handle(batch)
    seq = (batch.opens or batch.commits)[0].seq
    assert [(failure.code, failure.message, failure.seqs) for failure in reply.failures] == [
        ("INVALID", message, [seq])
    ]
    assert (scores, kind.committed, len(kind.opened), reader.sessions) == ([], [], 1, 1)


@pytest.mark.parametrize(
    ("batch", "field"),
    [
        (DrafterBatch(opens=[Open(2, [1, 2], Sampling(), rows(1))]), "open.features"),
        (DrafterBatch(commits=[Commit(1, 3, [4], None, rows(3))]), "commit.features"),
    ],
)
def test_a_kind_that_reads_no_features_is_sent_none(host: DrafterHost, batch: DrafterBatch, field: str) -> None:
    reply, _ = host.handle(batch)
    assert [(failure.code, failure.message) for failure in reply.failures] == [
        ("INVALID", f"{field}: given; expected none, which this drafter reads")
    ]


def test_a_first_token_alone_needs_no_features(reader: DrafterHost, kind: Recorder) -> None:
    opens = [Open(2, [1], Sampling()), Open(3, [1], Sampling(), rows())]
    assert not reader.handle(DrafterBatch(opens=opens))[0]
    assert reader.sessions == 3


@pytest.mark.parametrize(
    ("held", "given", "tokens", "kept"),
    [
        (4, [3, 4], [5], [4]),
        (3, [3, 4], [4, 5], [3, 4]),
        (5, [6, 7, 8], [6, 7, 8, 9], [6, 7, 8]),  # of six tokens the last three have rows; four are news
        (7, [6, 7, 8], [8, 9], [7, 8]),
    ],
)
def test_features_are_trimmed_with_their_tokens(
    reader: DrafterHost, kind: Recorder, held: int, given: list[int], tokens: list[int], kept: list[int]
) -> None:
    """Token j is j + 1 here, and its row j."""
    for at in range(3, held):
        reader.handle(DrafterBatch(commits=[Commit(1, at, [at + 1], None, rows(at))]))
    reader.handle(DrafterBatch(commits=[Commit(1, 3, list(range(4, given[-1] + 2)), None, rows(*given))]))
    assert kind.committed[-1][2] == tokens
    features = kind.features_seen[-1]
    assert features is not None
    assert features[:, 0].tolist() == kept


@pytest.mark.parametrize(
    ("layers", "window", "width", "message"),
    [
        ((), 4, 8, "layers: []"),
        ((2, 1), 4, 8, "layers: [2, 1]"),
        ((0,), 4, 8, "layers: [0]"),
        ((1,), 0, 8, "window: 0; expected at least 1"),
        ((1,), 4, 0, "width: 0; expected at least 1"),
    ],
)
def test_a_senseless_request_for_features_is_refused(
    layers: tuple[int, ...], window: int, width: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        FeatureRequest(layers, window, width)


def test_light_kinds_do_not_import_torch() -> None:
    """A process that only looks text up should take a tenth of a second to start and little memory."""
    program = """
import sys
from pathlib import Path
from paceline.actors.drafter_host import DrafterHost
from paceline.actors.drafter_registry import DrafterContext, build_drafter, check_options
for kind in ("ngram", "suffix"):
    DrafterHost(build_drafter(kind, {}, DrafterContext(Path("nowhere"), 10)), 4)
check_options("lm", {"model": "somewhere"})
check_options("early_exit", {"layers": 4})
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


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
