"""The pool: who is told what, by whom a round may be delayed and for how long.

Book-keeping runs over in-process links with a clock of its own; lateness, restarts and moves over real gRPC.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fake_drafter import (
    DEADLINE_S,
    SAMPLED,
    VOCAB_SIZE,
    FakeDrafter,
    FakeSequence,
    Road,
    draft_of,
    grow,
    make_laws,
    until,
)

from paceline.actors import drafter_peer, quarantine, session_ledger
from paceline.actors.drafter_link import GrpcLink
from paceline.actors.drafter_server import DrafterServer
from paceline.actors.messages import Member, Propose
from paceline.actors.session_pool import SessionPool

# ---------------------------------------------------------------- the ledger


def test_a_sequence_is_opened_once_and_then_only_news_travel() -> None:
    road = Road("a")
    sequence = FakeSequence(1, [10, 11], SAMPLED)
    road.pool.open(sequence)
    assert draft_of(road.pool, "a", sequence) == [12, 13, 14]
    assert draft_of(road.pool, "a", grow(sequence, 20)) == [21, 22, 23]
    first, second, third = road.hosts["a"].batches
    assert [(o.seq, o.tokens, o.sampling) for o in first.opens] == [(1, [10, 11], SAMPLED)]
    assert (second.opens, second.commits, second.proposes) == ([], [], [Propose(1, 2, 3)])
    assert [(c.start, c.tokens) for c in third.commits] == [(2, [20])]
    law = third.commits[0].p
    assert law is not None
    assert law.ids.tolist() == make_laws([20]).ids.tolist()


def test_greedy_commits_carry_no_laws() -> None:
    road = Road("a")
    sequence = FakeSequence(1, [10])
    road.pool.open(sequence)
    assert draft_of(road.pool, "a", grow(sequence, 20)) == [21, 22, 23]
    assert road.hosts["a"].laws[1] == [None]


def test_a_drafter_that_is_not_asked_catches_up_in_one_message() -> None:
    road = Road("a", "b", catch_up_tokens=4)
    one, two = FakeSequence(1, [10]), FakeSequence(2, [20])
    for sequence in (one, two):
        road.pool.open(sequence)
    messages = len(road.hosts["b"].batches)
    road.pool.commit([grow(one, 11, 12, 13), grow(two, 21)])
    assert len(road.hosts["b"].batches) == messages  # 3 behind is not yet 4
    road.pool.commit([grow(one, 14), two])
    assert len(road.hosts["b"].batches) == messages + 1
    assert [(c.seq, c.tokens) for c in road.hosts["b"].batches[-1].commits] == [(1, [11, 12, 13, 14]), (2, [21])]
    road.pool.commit([one, two])
    assert len(road.hosts["b"].batches) == messages + 1  # nothing new


def test_a_session_the_drafter_lost_is_opened_again() -> None:
    road = Road("a")
    sequence = FakeSequence(1, [10])
    road.pool.open(sequence)
    road.hosts["a"].sessions.clear()
    assert draft_of(road.pool, "a", grow(sequence, 11)) is None
    assert draft_of(road.pool, "a", grow(sequence, 12)) == [13, 14, 15]
    assert road.hosts["a"].batches[-1].opens[0].tokens == [10, 11, 12]
    assert road.counted("a", "resync") == 2  # one for the commit, one for the propose
    assert "a" in road.pool.usable()


def test_a_drafter_far_behind_is_opened_afresh() -> None:
    road = Road("a", catch_up_tokens=session_ledger.LONGEST_COMMIT * 2)
    sequence = FakeSequence(1, [10])
    road.pool.open(sequence)
    grow(sequence, *([7] * session_ledger.LONGEST_COMMIT), 8)
    assert draft_of(road.pool, "a", sequence) == [9, 10, 11]
    assert not road.hosts["a"].batches[-1].commits


def test_close_frees_the_session_and_the_ledger() -> None:
    road = Road("a", "b")
    sequence = FakeSequence(1, [10], drafters=("a",))
    road.pool.open(sequence)
    road.pool.close(1)
    road.pool.close(1)
    assert road.hosts["a"].sessions == {}
    assert [batch.closes for batch in road.hosts["a"].batches] == [[], [1]]
    assert road.hosts["b"].batches == []  # it never heard of the sequence
    assert not road.pool.replicas("a")[0]._ledger.sequences()


def test_a_sequence_is_kept_from_drafters_it_may_not_use() -> None:
    road = Road("a", "b", catch_up_tokens=1)
    sequence = FakeSequence(1, [10], drafters=("b",))
    road.pool.open(sequence)
    road.pool.commit([grow(sequence, 11)])
    assert draft_of(road.pool, "a", sequence) is None
    assert road.hosts["a"].batches == []
    assert draft_of(road.pool, "b", sequence) == [12, 13, 14]


def test_a_full_drafter_is_left_alone_for_that_sequence_for_a_while() -> None:
    road = Road("a", catch_up_tokens=1)
    road.hosts["a"].capacity = 1
    one, two = FakeSequence(1, [10]), FakeSequence(2, [20])
    road.pool.open(one)
    road.pool.open(two)
    assert road.pool.usable() == ["a"]
    assert (road.pool.serves("a", 1), road.pool.serves("a", 2), road.pool.serves("nobody", 1)) == (True, False, False)
    messages = len(road.hosts["a"].batches)
    road.pool.commit([grow(two, 21)])
    drafts = road.pool.propose({"a": [(one, 2), (two, 2)]}).by_seq
    assert set(drafts) == {1}
    assert len(road.hosts["a"].batches) == messages + 1
    road.pool.close(1)
    road.clock.now_s += drafter_peer.CAPACITY_SLEEP_S
    assert road.pool.serves("a", 2)
    assert draft_of(road.pool, "a", two) == [22, 23, 24]
    assert road.counted("a", "quarantined") == 0


def test_a_member_that_is_down_is_not_connected_to_until_it_is_up() -> None:
    road = Road("a")
    road.members = [replace(road.members[0], up=False)]
    assert road.pool.usable() == []
    assert not road.links
    road.members = [replace(road.members[0], up=True)]
    assert road.pool.usable() == ["a"]
    road.members = [replace(road.members[0], up=False)]  # its link still stands, and knows better
    assert road.pool.usable() == ["a"]


# ---------------------------------------------------------------- over real gRPC


class Cluster:
    """Drafters behind servers, a pool in front of them; ends with the test."""

    def __init__(self) -> None:
        self.servers: dict[str, DrafterServer] = {}
        self.links: dict[str, GrpcLink] = {}
        self.members: tuple[Member, ...] = ()
        self.pool = SessionPool(
            lambda: self.members,
            self.connect,
            vocab_size=VOCAB_SIZE,
            catch_up_tokens=4,
            deadline_s=DEADLINE_S,
        )

    def connect(self, member: Member) -> GrpcLink:
        link = GrpcLink(member.drafter, member.address, token=None, max_message_bytes=1 << 20)
        self.links[member.drafter] = link
        return link

    def start(self, name: str, host: FakeDrafter, port: int = 0) -> str:
        server = DrafterServer(
            host, lambda scores: None, host="127.0.0.1", token=None, max_message_bytes=1 << 20, ports=(port, port)
        )
        address = server.start()
        self.servers[name] = server
        others = (member for member in self.members if member.drafter != name)
        self.members = (*others, Member(name, "fake", address))
        return address

    def wait_for(self, *names: str) -> None:
        until(lambda: set(self.pool.usable()) == set(names))

    def end(self) -> None:
        self.pool.shutdown()
        for server in self.servers.values():
            server.stop()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.end()


def timed_draft(cluster: Cluster, name: str, sequence: FakeSequence) -> tuple[list[int] | None, float]:
    began_s = time.monotonic()
    tokens = draft_of(cluster.pool, name, sequence)
    return tokens, time.monotonic() - began_s


def test_a_drafter_that_sleeps_costs_the_deadline_at_most(cluster: Cluster) -> None:
    slow, quick = FakeDrafter(), FakeDrafter()
    cluster.start("slow", slow)
    cluster.start("quick", quick)
    cluster.wait_for("slow", "quick")
    one, two = FakeSequence(1, [10]), FakeSequence(2, [20])
    slow.delay_s = 1.0
    began_s = time.monotonic()
    drafts = cluster.pool.propose({"slow": [(one, 3)], "quick": [(two, 3)]})
    took_s = time.monotonic() - began_s
    assert DEADLINE_S <= took_s < DEADLINE_S + 0.2
    assert set(drafts.by_seq) == {2}
    assert [timing.drafter for timing in drafts.timings] == ["quick"]
    assert drafts.timings[0].draft_ms < DEADLINE_S * 1e3  # when it came, not when it was looked at
    assert cluster.pool.usable() == ["quick"]  # the answer is overdue
    assert timed_draft(cluster, "slow", one)[1] < 0.1  # and asking again costs nothing
    slow.delay_s = 0.0
    cluster.wait_for("slow", "quick")
    counts = cluster.pool.counters()["slow"]
    assert (counts["late"], counts["stale"], counts["not_asked"]) == (1, 1, 1)
    assert draft_of(cluster.pool, "slow", grow(one, 30)) == [31, 32, 33]  # not the stale draft


def test_a_known_drafter_that_stalls_costs_far_less_than_the_deadline(cluster: Cluster) -> None:
    host = FakeDrafter()
    cluster.start("a", host)
    cluster.wait_for("a")
    sequence = FakeSequence(1, [10])
    for token in range(11, 21):
        assert draft_of(cluster.pool, "a", sequence) is not None
        grow(sequence, token)
    host.gate.clear()
    tokens, took_s = timed_draft(cluster, "a", sequence)
    assert tokens is None
    assert took_s < DEADLINE_S / 2
    host.gate.set()
    cluster.wait_for("a")


def test_a_prompt_to_prefill_neither_counts_as_lateness_nor_as_latency(cluster: Cluster) -> None:
    host = FakeDrafter()
    cluster.start("a", host)
    cluster.wait_for("a")
    host.delay_s = 0.1
    assert draft_of(cluster.pool, "a", FakeSequence(1, [10])) is not None
    assert draft_of(cluster.pool, "a", FakeSequence(2, [10])) is not None
    peer = cluster.pool.replicas("a")[0]
    assert peer._latency.patience_s(3) == DEADLINE_S
    assert peer._latency._measured == 0


def test_a_drafter_that_is_always_late_is_quarantined(cluster: Cluster) -> None:
    host = FakeDrafter()
    cluster.start("a", host)
    cluster.wait_for("a")
    sequence = FakeSequence(1, [10])
    assert draft_of(cluster.pool, "a", sequence) is not None
    host.delay_s = DEADLINE_S + 0.05
    for _ in range(quarantine.STRIKES):
        cluster.wait_for("a")
        assert draft_of(cluster.pool, "a", sequence) is None
    counts = cluster.pool.counters()["a"]
    assert (counts["late"], counts["quarantined"]) == (quarantine.STRIKES, 1)


def test_a_restart_on_the_same_port_is_a_fresh_start(cluster: Cluster) -> None:
    address = cluster.start("a", FakeDrafter())
    cluster.wait_for("a")
    sequence = FakeSequence(1, [10])
    assert draft_of(cluster.pool, "a", sequence) == [11, 12, 13]
    cluster.servers["a"].stop()
    cluster.wait_for()
    tokens, took_s = timed_draft(cluster, "a", sequence)
    assert tokens is None
    assert took_s < 0.1
    fresh = FakeDrafter()
    cluster.start("a", fresh, int(address.rpartition(":")[2]))
    cluster.wait_for("a")
    assert draft_of(cluster.pool, "a", grow(sequence, 20)) == [21, 22, 23]
    assert fresh.batches[0].opens[0].tokens == [10, 20]
    assert cluster.pool.counters()["a"].get("resync", 0) == 0


def test_a_drafter_killed_in_mid_round_costs_that_draft_only(cluster: Cluster) -> None:
    host = FakeDrafter()
    cluster.start("a", host)
    cluster.wait_for("a")
    sequence = FakeSequence(1, [10])
    cluster.pool.open(sequence)
    until(lambda: host.sessions)
    host.gate.clear()

    def kill() -> None:
        until(lambda: host.batches[-1].proposes)
        cluster.servers["a"].stop()

    killer = threading.Thread(target=kill)
    killer.start()
    tokens, took_s = timed_draft(cluster, "a", sequence)
    assert tokens is None
    assert took_s < DEADLINE_S
    counts = cluster.pool.counters()["a"]
    assert (counts["lost"], counts.get("late", 0), counts.get("quarantined", 0)) == (1, 0, 0)
    host.gate.set()
    killer.join(10)


def test_a_drafter_that_comes_back_elsewhere_is_followed(cluster: Cluster) -> None:
    cluster.start("a", FakeDrafter())
    cluster.wait_for("a")
    sequence = FakeSequence(1, [10])
    assert draft_of(cluster.pool, "a", sequence) == [11, 12, 13]
    sent = cluster.pool.counters()["a"]["bytes_sent"]
    old_link, old_server = cluster.links["a"], cluster.servers["a"]
    cluster.start("a", FakeDrafter())
    assert cluster.pool.usable() == []  # the new line is not up yet
    cluster.wait_for("a")
    until(lambda: not old_link.up)
    old_server.stop()
    assert draft_of(cluster.pool, "a", grow(sequence, 20)) == [21, 22, 23]
    assert cluster.pool.counters()["a"]["bytes_sent"] > sent > 0  # counters never go back


def test_a_drafter_that_left_is_forgotten(cluster: Cluster) -> None:
    cluster.start("a", FakeDrafter())
    cluster.wait_for("a")
    cluster.members = ()
    assert cluster.pool.usable() == []
    assert draft_of(cluster.pool, "a", FakeSequence(1, [10])) is None
    until(lambda: not cluster.links["a"].up)


def test_a_senseless_address_costs_nothing_but_that_drafter(cluster: Cluster) -> None:
    cluster.start("good", FakeDrafter())
    cluster.members = (*cluster.members, Member("bad", "fake", "not an address"))
    cluster.wait_for("good")
    assert draft_of(cluster.pool, "good", FakeSequence(1, [10])) == [11, 12, 13]


def test_sampled_drafts_and_laws_travel_whole(cluster: Cluster) -> None:
    host = FakeDrafter()
    cluster.start("a", host)
    cluster.wait_for("a")
    sequence = FakeSequence(1, [10], SAMPLED)
    cluster.pool.open(sequence)
    draft = cluster.pool.propose({"a": [(grow(sequence, 20), 3)]}).by_seq[1]
    assert draft.q is not None
    assert draft.q.ids.tolist() == make_laws([21, 22, 23]).ids.tolist()
    law = host.laws[1][0]
    assert law is not None
    assert law.probs.tolist() == make_laws([20]).probs.tolist()
