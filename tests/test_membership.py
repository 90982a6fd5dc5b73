"""Who is a member, and what that means for weights: replicas, drains, full drafters, removals and returns."""

from __future__ import annotations

import numpy as np
import pytest

from paceline.actors import selector_wire
from paceline.actors.errors import Overloaded
from paceline.actors.messages import (
    Heartbeat,
    Member,
    Score,
    SequenceOpened,
    SequenceRound,
    TargetReport,
    WeightsUpdate,
)
from paceline.cluster.config import SelectorConfig, SpeculationConfig
from paceline.cluster.membership import MAX_REPLICAS
from paceline.cluster.selector import Selector

K, C = 4, 3


class Cluster:
    """A selector with a clock of its own; drafter `name/2` is replica 2 of `name`."""

    def __init__(self, *replicas: str, **settings: object) -> None:
        self.now_s = 0.0
        config = SelectorConfig.model_validate({"loss": "eal", **settings})
        speculation = SpeculationConfig(max_draft=K, catch_up_tokens=C)
        self.selector = Selector(config, speculation, 1.0, lambda: self.now_s)
        self.target = self.selector.connect("target")
        self.committed: dict[int, int] = {}
        for replica in replicas:
            self.beat(replica)

    def beat(self, replica: str, pid: int = 1, **state: int) -> None:
        drafter, _, number = replica.partition("/")
        heartbeat = Heartbeat(drafter, "ngram", f"{replica}:{pid}", pid=pid, replica=int(number or 0), **state)
        self.selector.register(heartbeat)

    def open(self, *seqs: int, drafters: tuple[str, ...] = ()) -> None:
        opened = [SequenceOpened(seq, 10, drafters=drafters) for seq in seqs]
        self.selector.report(self.target, TargetReport("target", opened=opened))
        self.committed.update(dict.fromkeys(seqs, 10))

    def rounds(self, seq: int, count: int, **gammas: float) -> None:
        """So many rounds of three tokens, at which the drafters have these acceptances."""
        for _ in range(count):
            start = self.committed[seq]
            for name, gamma in gammas.items():
                self.selector.scores(name, [Score(seq, start, np.full(3, gamma, dtype=np.float32))])
            self.committed[seq] = start + 3
            played = SequenceRound(seq, start + 3, "", 0, 0)
            self.selector.report(self.target, TargetReport("target", rounds=[played]))

    def update(self) -> WeightsUpdate:
        update = self.selector.update(self.target)
        assert update is not None
        return update

    def weights(self) -> dict[int, dict[str, float]]:
        """Of the sequences that there is news of; 0 is the prior."""
        update = self.update()
        rows = {0: update.prior, **update.sequences}
        return {seq: dict(zip(update.drafters, row.tolist(), strict=True)) for seq, row in rows.items()}

    def members(self) -> list[tuple[str, int, bool, bool]] | None:
        """Drafter, replica, up, draining; None where there is no news of members."""
        members = self.update().members
        return None if members is None else [(m.drafter, m.replica, m.up, m.draining) for m in members]


def test_replicas_are_one_drafter_to_the_learner() -> None:
    cluster = Cluster("a", "b", "a/1")
    cluster.open(1, 2)
    cluster.rounds(1, 12, a=0.9, b=0.4)  # one replica scores this one, the other that one
    cluster.rounds(2, 12, a=0.9, b=0.4)
    update = cluster.update()
    assert update.drafters == ("a", "b")
    assert [(m.drafter, m.replica) for m in update.members or ()] == [("a", 0), ("a", 1), ("b", 0)]
    assert update.sequences[1][0] > 0.9
    (a, b) = cluster.selector.snapshot().drafters
    assert (a.scored, b.scored) == (72, 72)


def test_a_drafter_is_up_as_long_as_one_of_its_replicas_is() -> None:
    cluster = Cluster("a", "a/1", "b")
    cluster.update()
    cluster.now_s = 3.5
    cluster.beat("a/1")
    cluster.beat("b")
    assert cluster.members() == [("a", 0, False, False), ("a", 1, True, False), ("b", 0, True, False)]
    cluster.open(1)
    assert cluster.weights()[1] == {"a": 0.5, "b": 0.5}
    cluster.now_s = 7.5
    cluster.beat("b")
    cluster.open(2)
    assert cluster.weights()[2] == {"a": 0.0, "b": 1.0}


def test_replicas_are_bounded() -> None:
    cluster = Cluster()
    for number in range(MAX_REPLICAS):
        cluster.beat(f"a/{number}")
    with pytest.raises(Overloaded, match=f"{MAX_REPLICAS} replicas"):
        cluster.beat("b")
    cluster.beat("a/7", pid=2)  # those that are there go on


def test_a_draining_drafter_has_weight_for_what_it_holds_and_for_nothing_new() -> None:
    cluster = Cluster("a", "b")
    cluster.open(1)
    cluster.rounds(1, 12, a=0.9, b=0.3)
    cluster.update()
    cluster.selector.follow({"a": True, "b": False})
    cluster.open(2)
    weights = cluster.weights()
    assert weights[1]["a"] > 0.9
    assert weights[2] == {"a": 0.0, "b": 1.0}
    assert weights[0] == {"a": 0.0, "b": 1.0}, "the prior is for new sequences"
    cluster.selector.follow({"a": True, "b": False})
    assert cluster.selector.update(cluster.target) is None, "telling the same again is no news"
    cluster.selector.follow({"a": False, "b": False})
    assert cluster.weights()[2]["a"] > 0.9


def test_draining_is_told_to_targets_and_known_before_the_first_heartbeat() -> None:
    cluster = Cluster()
    cluster.selector.follow({"a": True, "b": False})  # as a selector begins that was started anew
    cluster.beat("a")
    cluster.beat("b")
    assert cluster.members() == [("a", 0, True, True), ("b", 0, True, False)]
    cluster.open(1)
    assert cluster.weights()[1] == {"a": 0.0, "b": 1.0}


def test_a_drafter_whose_replicas_are_all_full_sleeps_for_new_sequences() -> None:
    cluster = Cluster("b")
    cluster.beat("a", sessions=3, capacity=4)
    cluster.beat("a/1", sessions=3, capacity=4)
    cluster.open(1)
    cluster.rounds(1, 12, a=0.9, b=0.3)
    cluster.update()
    cluster.beat("a", sessions=4, capacity=4)
    cluster.open(2)
    assert cluster.weights()[2]["a"] > 0.9, "one replica has room"
    cluster.beat("a/1", sessions=4, capacity=4)
    cluster.open(3)
    weights = cluster.weights()
    assert weights[3] == {"a": 0.0, "b": 1.0}
    assert weights[0]["a"] == 0.0
    assert weights[1]["a"] > 0.9
    assert weights[2]["a"] > 0.9
    cluster.rounds(3, 1, a=0.9, b=0.3)  # it scores it, so it holds it after all
    assert cluster.weights()[3]["a"] > 0.9
    cluster.open(4)
    assert cluster.weights()[4]["a"] == 0.0
    cluster.beat("a/1", sessions=2, capacity=4)
    assert cluster.weights()[4]["a"] > 0.9


def test_who_is_removed_is_no_member_and_is_never_available_again() -> None:
    cluster = Cluster("a", "b")
    cluster.selector.follow({"a": False, "b": False})
    cluster.open(1)
    cluster.rounds(1, 12, a=0.9, b=0.3)
    cluster.selector.follow({"b": False})
    update = cluster.update()
    assert [member.drafter for member in update.members or ()] == ["b"]
    assert dict(zip(update.drafters, update.sequences[1].tolist(), strict=True)) == {"a": 0.0, "b": 1.0}
    cluster.beat("a", sessions=1)  # its process has not ended yet
    assert cluster.selector.update(cluster.target) is None
    cluster.rounds(1, 12, a=0.9, b=0.3)  # and late scores change nothing
    assert cluster.weights()[1] == {"a": 0.0, "b": 1.0}
    snapshot = cluster.selector.snapshot()
    assert [drafter.drafter for drafter in snapshot.drafters] == ["b"]
    assert [member.drafter for member in snapshot.members] == ["b"]


def test_the_last_drafters_removal_is_told() -> None:
    cluster = Cluster("a")
    cluster.selector.follow({"a": False})
    assert cluster.members() == [("a", 0, True, False)]
    cluster.selector.follow({})
    assert cluster.members() == []


def test_that_nobody_is_left_survives_the_wire_and_is_not_the_same_as_no_news() -> None:
    half = np.full(1, 0.5, dtype=np.float32)
    for members in (None, (), (Member("a", "ngram", "h:1"),)):
        update = WeightsUpdate(1, ("a",), half, {}, members)
        assert selector_wire.decode_update(selector_wire.encode_update(update)).members == members


def test_added_again_a_drafter_takes_its_column_and_what_was_learned() -> None:
    cluster = Cluster("a", "b")
    cluster.selector.follow({"a": False, "b": False})
    cluster.open(1)
    cluster.rounds(1, 12, a=0.9, b=0.3)
    cluster.selector.follow({"b": True})
    cluster.selector.follow({"b": False, "a": False})
    assert [member.drafter for member in cluster.selector.snapshot().members] == ["b"], "before its first heartbeat"
    cluster.beat("a", pid=2)
    cluster.open(2)
    update = cluster.update()
    assert update.drafters == ("a", "b")
    assert update.sequences[2][0] > 0.9
    assert cluster.selector.snapshot().drafters[0].scored == 36


def test_who_was_on_no_roster_stays() -> None:
    cluster = Cluster("own")
    cluster.selector.follow({"a": False})
    cluster.beat("a")
    cluster.selector.follow({})
    assert cluster.members() == [("own", 0, True, False)]


def test_scores_that_replicas_dropped_are_counted_once_across_restarts_and_removals() -> None:
    cluster = Cluster()
    cluster.selector.follow({"a": False})
    for replica, pid, dropped in (("a", 1, 5), ("a/1", 1, 2), ("a", 1, 6), ("a", 2, 1)):
        cluster.beat(replica, pid=pid, scores_dropped=dropped)
    assert cluster.selector.counts["scores_dropped_by_drafters"] == 6 + 1 + 2
    cluster.selector.follow({})
    cluster.beat("b")
    assert cluster.selector.counts["scores_dropped_by_drafters"] == 9
