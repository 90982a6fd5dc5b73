"""Targets and drafters against a real selector server on loopback: it learns, dies, and is found where it returns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import grpc
import numpy as np
import pytest

from paceline.actors import selector_wire, snapshot_wire
from paceline.actors.channel import open_channel
from paceline.actors.errors import LinkDown, ProtocolError
from paceline.actors.messages import (
    DrafterStatistics,
    DraftTiming,
    Heartbeat,
    Member,
    RoundContext,
    Score,
    SelectorSnapshot,
    SequenceOpened,
    SequenceRound,
    TargetReport,
    WeightsUpdate,
)
from paceline.actors.score_link import ScoreLink
from paceline.actors.weights_link import WeightsLink
from paceline.cluster.config import SelectorConfig, SpeculationConfig
from paceline.cluster.selector import Selector
from paceline.cluster.selector_server import UNSETTLED, SelectorServer
from paceline.protos import paceline_pb2 as pb
from paceline.protos import paceline_pb2_grpc as pb_grpc

TOKEN = "secret"
LIMIT = 1 << 20
HEARTBEAT_S = 0.1
K, C = 4, 3


def until(condition: Callable[[], bool], what: str, deadline_s: float = 20.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.005)


class Place:
    """Where the selector is, if it is anywhere: what Ray would say."""

    def __init__(self) -> None:
        self.server: SelectorServer | None = None
        self.address = ""
        self.asked = 0

    def start(self, **settings: object) -> None:
        speculation = SpeculationConfig(max_draft=K, catch_up_tokens=C, draft_length="measured")
        core = Selector(
            SelectorConfig.model_validate({"loss": "eal", **settings}), speculation, HEARTBEAT_S, time.monotonic
        )
        self.server = SelectorServer(
            core, host="127.0.0.1", token=TOKEN, max_message_bytes=LIMIT, heartbeat_s=HEARTBEAT_S
        )
        self.address = self.server.start()

    def kill(self) -> None:
        assert self.server is not None
        self.server.stop()
        self.server = None

    def resolve(self) -> str:
        self.asked += 1
        if self.server is None:
            raise LinkDown("the selector is nowhere")
        return self.address


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    made.start()
    yield made
    if made.server is not None:
        made.kill()


@pytest.fixture
def scores(place: Place) -> Iterator[dict[str, ScoreLink]]:
    links = {}
    for number, name in enumerate(("weak", "strong")):
        state = Heartbeat(name, "ngram", f"127.0.0.1:{number + 1}", pid=number)
        links[name] = ScoreLink(
            place.resolve, lambda state=state: state, token=TOKEN, max_message_bytes=LIMIT, interval_s=HEARTBEAT_S
        )
        links[name].start()
    yield links
    for link in links.values():
        link.close()


@pytest.fixture
def board(place: Place) -> Iterator[WeightsLink]:
    link = WeightsLink(
        place.resolve, "target", default_drafter="weak", token=TOKEN, max_message_bytes=LIMIT, grace_s=2.0
    )
    yield link
    link.close()


class Ride:
    """A sequence that is being decoded: rounds are reported, and both drafters score them."""

    def __init__(self, seq: int, board: WeightsLink, scores: dict[str, ScoreLink]) -> None:
        self.seq, self.board, self.scores = seq, board, scores
        self.committed = 10
        board.opened(SequenceOpened(seq, self.committed))

    def round(self) -> None:
        for name, gamma in (("weak", 0.3), ("strong", 0.8)):
            self.scores[name].put([Score(self.seq, self.committed, np.full(3, gamma, dtype=np.float32))])
        self.committed += 3
        self.board.played(
            [SequenceRound(self.seq, self.committed, "weak", K, 2)], [DraftTiming("weak", 1, K, 2.0)], 20.0, K + 1
        )
        time.sleep(0.005)  # a round's time, so that scores travel between rounds

    def ride_until(self, condition: Callable[[], bool], what: str) -> None:
        def played() -> bool:
            self.round()
            assert len(self.board.members()) == 2, "the list of drafters was cut"
            return condition()

        until(played, what)


def test_weights_move_to_the_better_drafter_and_survive_the_selectors_death(
    place: Place, scores: dict[str, ScoreLink], board: WeightsLink
) -> None:
    assert board.weights(1) == {"weak": 1.0} or board.connected  # the default, while nothing was heard
    until(lambda: {m.drafter for m in board.members()} == {"weak", "strong"}, "both drafters are members")
    ride = Ride(1, board, scores)
    ride.ride_until(lambda: board.weights(1).get("strong", 0.0) > 0.9, "weights move to the better drafter")
    ride.ride_until(lambda: board.weights(2).get("strong", 0.0) > 0.9, "so does the prior, for sequences to come")

    place.kill()
    until(lambda: not board.connected, "the target notices")
    held = dict(board.weights(1))
    for _ in range(20):
        ride.round()
        assert board.weights(1) == held  # the last word stands
        assert {m.drafter for m in board.members()} == {"weak", "strong"}
    place.start()

    ride.ride_until(lambda: board.connected, "the target finds the new selector")
    assert place.server is not None
    server = place.server
    ride.ride_until(lambda: server.snapshot().sequences == 1, "the running sequence is announced anew")
    ride.ride_until(
        lambda: all(d.scored > 0 for d in server.snapshot().drafters) and len(server.snapshot().drafters) == 2,
        "both drafters score at the new selector",
    )
    ride.ride_until(lambda: board.weights(1).get("strong", 0.0) > 0.9, "the new selector learns the same")
    board.closed(1)
    until(lambda: server.snapshot().sequences == 0, "the sequence's end is heard")
    counts = server.counts()
    assert counts["scores_dropped_by_drafters"] == 0
    assert not counts.get("scores_invalid")


def test_a_restarted_selector_that_knows_one_drafter_takes_no_other_away(place: Place) -> None:
    state = {"early": Heartbeat("early", "ngram", "h:1"), "tardy": Heartbeat("tardy", "ngram", "h:2")}
    links = {
        name: ScoreLink(
            place.resolve, lambda name=name: state[name], token=TOKEN, max_message_bytes=LIMIT, interval_s=HEARTBEAT_S
        )
        for name in state
    }
    for link in links.values():
        link.start()
    board = WeightsLink(
        place.resolve, "target", default_drafter=None, token=TOKEN, max_message_bytes=LIMIT, grace_s=60.0
    )
    until(lambda: len(board.members()) == 2, "both drafters are members")
    until(lambda: len(board.weights(1)) == 2, "both have weights")
    links["tardy"].close()
    place.kill()
    state["early"] = replace(state["early"], address="h:9")
    place.start()
    until(lambda: "h:9" in [m.address for m in board.members()], "the new selector's list has come")
    # Which of the two registered first, and so the order of the list, is up to their threads.
    assert {m.drafter: m.address for m in board.members()} == {"early": "h:9", "tardy": "h:2"}
    assert set(board.weights(1)) == {"early", "tardy"}
    links["early"].close()
    board.close()


def test_a_drafter_that_falls_silent_is_down_for_targets(
    place: Place, scores: dict[str, ScoreLink], board: WeightsLink
) -> None:
    until(lambda: len(board.members()) == 2, "both drafters are members")
    scores["weak"].close()
    until(lambda: [m.up for m in board.members() if m.drafter == "weak"] == [False], "it is reported down")
    until(lambda: board.weights(5) == {"weak": 0.0, "strong": 1.0}, "the prior leaves it out")


def test_a_full_queue_drops_the_oldest_scores_and_says_so() -> None:
    place = Place()
    state = Heartbeat("a", "ngram", "127.0.0.1:1")
    link = ScoreLink(
        place.resolve, lambda: state, token=TOKEN, max_message_bytes=LIMIT, interval_s=HEARTBEAT_S, max_queued=5
    )
    link.start()
    one = np.ones(1, dtype=np.float32)
    for position in range(12):
        link.put([Score(1, position, one)])
    assert link.dropped == 7
    place.start()
    assert place.server is not None
    server = place.server
    until(lambda: server.counts().get("scores_dropped_by_drafters") == 7, "the heartbeat tells how many")
    until(lambda: server.counts().get("scores_of_unknown_sequence") == 5, "the rest is sent")
    link.close()
    place.kill()


def test_scores_that_came_before_a_report_are_looked_at_before_it_however_long_the_core_is_busy(
    place: Place, board: WeightsLink, scores: dict[str, ScoreLink]
) -> None:
    """The report releases their positions: had it overtaken them, they would be too late."""
    server = place.server
    assert server is not None
    board.opened(SequenceOpened(1, 10))
    until(lambda: server.snapshot().sequences == 1, "the sequence is known")
    with server._changed:  # the core is busy
        for name, link in scores.items():
            link.put([Score(1, 10, np.full(2 * K, 0.5, dtype=np.float32))])
            until(lambda name=name: name in dict(server._selector._inbox._messages), f"{name}'s scores are here")
        board.played([SequenceRound(1, 10 + 4 * (K + 1 + C), "weak", K, 2)], [], 20.0, K + 1)
    until(lambda: all(drafter.eal for drafter in server.snapshot().drafters), "the report was learned from")
    assert "gammas_late" not in server.counts() or server.counts()["gammas_late"] == 0
    assert [drafter.scored for drafter in server.snapshot().drafters] == [2 * K] * 2


def test_scores_that_nobody_asks_for_do_not_pile_up(place: Place) -> None:
    """No target reports, so nothing makes the core look at them but their number."""
    server = place.server
    assert server is not None
    with open_channel(place.address, token=TOKEN, max_message_bytes=LIMIT) as channel:
        stub = pb_grpc.SelectorStub(channel)
        stub.Register(selector_wire.encode_heartbeat(Heartbeat("a", "ngram", "h:1")), timeout=5)
        message = selector_wire.encode_scores("a", [Score(1, 10, np.ones(1, dtype=np.float32))])
        summary = stub.Scores(iter([message] * 3 * UNSETTLED), timeout=20)
    assert summary.received == 3 * UNSETTLED
    assert server._selector.unsettled < UNSETTLED
    assert server.counts()["scores_of_unknown_sequence"] == 3 * UNSETTLED


def test_a_wrong_token_and_a_wrong_version_are_refused(place: Place) -> None:
    with open_channel(place.address, token="wrong", max_message_bytes=LIMIT) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            pb_grpc.SelectorStub(channel).Snapshot(pb.SnapshotRequest(version=1), timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with open_channel(place.address, token=TOKEN, max_message_bytes=LIMIT) as channel:
        stub = pb_grpc.SelectorStub(channel)
        calls: list[Callable[[], object]] = [
            lambda: stub.Snapshot(pb.SnapshotRequest(version=9), timeout=5),
            lambda: stub.Register(pb.Heartbeat(version=9, drafter="a", kind="k", address="h:1"), timeout=5),
            lambda: stub.Register(pb.Heartbeat(version=1, drafter="a", kind="k"), timeout=5),
            lambda: stub.Scores(iter([pb.ScoreBatch(version=9, drafter="a")]), timeout=5),
            lambda: list(
                stub.Weights(iter([pb.TargetReports(reports=[pb.TargetReport(version=9, target="t")])]), timeout=5)
            ),
            lambda: list(stub.Weights(iter([pb.TargetReports(reports=[pb.TargetReport(version=1)])]), timeout=5)),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        reply = stub.Snapshot(pb.SnapshotRequest(version=1), timeout=5)  # and it goes on
        assert snapshot_wire.decode_snapshot(reply).policy == "normalhedge"


def test_a_new_stream_hears_of_members_and_prior_at_once(place: Place) -> None:
    with open_channel(place.address, token=TOKEN, max_message_bytes=LIMIT) as channel:
        stub = pb_grpc.SelectorStub(channel)
        heartbeat = Heartbeat("a", "ngram", "h:1", feature_layers=(2, 5), feature_window=9)
        stub.Register(selector_wire.encode_heartbeat(heartbeat), timeout=5)
        began = time.monotonic()
        heard = threading.Event()

        def reports() -> Iterator[pb.TargetReports]:
            """One, and then the stream stays open, as a target's does: a server owes nothing to one that ended."""
            yield selector_wire.encode_reports([TargetReport("t")])
            heard.wait(5)

        updates = stub.Weights(reports(), timeout=5)
        update = selector_wire.decode_update(next(updates))
        heard.set()
        assert time.monotonic() - began < 2.0
        assert [(m.drafter, m.feature_layers, m.feature_window) for m in update.members or ()] == [("a", (2, 5), 9)]
        assert update.prior.tolist() == [1.0]


def test_every_message_survives_the_wire() -> None:
    heartbeat = Heartbeat("a", "lm", "h:1", "node", "cuda:0", 7, 3, 64, 2, (1, 5), 512, 6)
    assert selector_wire.decode_heartbeat(selector_wire.encode_heartbeat(heartbeat)) == heartbeat
    report = TargetReport(
        "t",
        opened=[SequenceOpened(2**63 + 1, 5, "route", ("a", "b"), "chatcmpl-1-0", "ucbspec", bytes(64), True)],
        rounds=[SequenceRound(3, 9, "a", 4, 2, 5, True, (7, 8, 9))],
        closed=[4],
        drafts=[DraftTiming("a", 2, 4, 1.5)],
        verify_ms=20.5,
        verify_tokens=10,
        context=RoundContext(2.5, 30.25, 2**40),
    )
    reports = [report, TargetReport("t", closed=[3])]
    assert selector_wire.decode_reports(selector_wire.encode_reports(reports)) == reports
    member = Member("a", "lm", "h:1", "n", "cpu", 1, False, 2, 3, (1, 5), 512, 6, True)
    snapshot = SelectorSnapshot(
        "uniform", 4, 2, (member,), (DrafterStatistics("a", 1, 0.5, 2.0, 1.0, 3, 4, 5, 6.0),), 7, 8.0
    )
    assert snapshot_wire.decode_snapshot(snapshot_wire.encode_snapshot(snapshot)) == snapshot
    told = [Score(1, 5, np.array([0.25, 1.0], dtype=np.float32)), Score(2**63, 7, np.array([0.5], dtype=np.float32))]
    name, scores = selector_wire.decode_scores(selector_wire.encode_scores("a", told))
    assert (name, scores.seqs, scores.starts, scores.counts) == ("a", [1, 2**63], [5, 7], [2, 1])
    assert scores.gammas.tolist() == [0.25, 1.0, 0.5]
    update = WeightsUpdate(3, ("a", "b"), half(), {1: half(), 2: half()[:0]}, (member,))
    back = selector_wire.decode_update(selector_wire.encode_update(update))
    assert (back.number, back.drafters, back.members) == (3, ("a", "b"), (member,))
    assert {seq: weights.tolist() for seq, weights in back.sequences.items()} == {1: [0.5, 0.5], 2: []}
    bad = selector_wire.encode_update(replace(update, prior=np.array([np.nan, 1.0], dtype=np.float32)))
    with pytest.raises(ProtocolError, match="prior"):
        selector_wire.decode_update(bad)


@pytest.mark.parametrize(
    ("layers", "window", "message"),
    [
        ([2, 1], 8, r"feature_layers: expected ascending numbers from 1 on, got \[2, 1\]"),
        ([1, 1], 8, r"feature_layers: expected ascending numbers from 1 on, got \[1, 1\]"),
        ([0, 1], 8, r"feature_layers: expected ascending numbers from 1 on, got \[0, 1\]"),
        (range(1, 66), 8, "feature_layers: expected at most 64, got 65"),
        ([1], 0, r"feature_window: expected .* got 0 beside \[1\]"),
        ([], 8, r"feature_window: expected .* got 8 beside \[\]"),
    ],
)
def test_features_that_cannot_be_are_refused_by_field(layers: list[int], window: int, message: str) -> None:
    heartbeat = pb.Heartbeat(version=1, drafter="a", kind="k", address="h:1")
    member = pb.Member(drafter="a")
    for item in (heartbeat, member):
        item.feature_layers.extend(layers)
        item.feature_window = window
    with pytest.raises(ProtocolError, match=f"^{message}"):
        selector_wire.decode_heartbeat(heartbeat)
    with pytest.raises(ProtocolError, match=rf"^members\[0\]\.{message}"):
        selector_wire.decode_update(pb.WeightsUpdate(version=1, members=[member]))


def half() -> np.ndarray:
    return np.array([0.5, 0.5], dtype=np.float32)
