"""Several replicas of one drafter: who holds which sequence, and where they go when one dies, fills up or drains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from fake_drafter import DEADLINE_S, VOCAB_SIZE, Clock, FakeDrafter, FakeSequence, draft_of, grow, until

from paceline.actors.drafter_link import GrpcLink, Link
from paceline.actors.drafter_server import DrafterServer
from paceline.actors.local_link import LocalLink
from paceline.actors.messages import Member
from paceline.actors.session_pool import SessionPool


class Road:
    """A pool over the replicas of drafter `a`, in this process."""

    def __init__(self, replicas: int, capacity: int = 0) -> None:
        self.hosts = [FakeDrafter() for _ in range(replicas)]
        self.members = [Member("a", "fake", f"a{n}", replica=n, capacity=capacity) for n in range(replicas)]
        self.links: dict[int, LocalLink] = {}
        self.clock = Clock()
        self.pool = SessionPool(
            lambda: self.members,
            self.connect,
            vocab_size=VOCAB_SIZE,
            catch_up_tokens=2,
            deadline_s=DEADLINE_S,
            clock=self.clock,
        )

    def connect(self, member: Member) -> Link:
        link = self.links[member.replica] = LocalLink(self.hosts[member.replica], lambda scores: None, self.clock)
        return link

    def open(self, *seqs: int) -> list[FakeSequence]:
        sequences = [FakeSequence(seq, [10 + seq]) for seq in seqs]
        for sequence in sequences:
            self.pool.open(sequence)
        return sequences

    def say(self, **changes: object) -> None:
        """Members with these fields of the first one changed."""
        first, *others = self.members
        self.members = [replace(first, **changes), *others]  # type: ignore[arg-type]

    @property
    def held(self) -> list[set[int]]:
        return [set(host.sessions) for host in self.hosts]


def test_new_sequences_are_spread_and_stay_where_they_are() -> None:
    road = Road(3)
    sequences = road.open(*range(9))
    assert [len(held) for held in road.held] == [3, 3, 3]
    before = road.held
    for _ in range(3):
        drafts = road.pool.propose({"a": [(grow(sequence, 5), 3) for sequence in sequences]})
        assert set(drafts.by_seq) == set(range(9))
        (timing,) = drafts.timings  # to a round they are one drafter
        assert (timing.drafter, timing.sequences, timing.length) == ("a", 9, 3)
        road.pool.commit(sequences)
    assert road.held == before
    assert [sum(len(batch.opens) for batch in host.batches) for host in road.hosts] == [3, 3, 3]
    assert road.pool.usable() == ["a"]


def test_the_less_loaded_replica_gets_the_next_sequence() -> None:
    road = Road(2)
    road.open(0, 1, 2, 3)
    for seq in list(road.held[0]):
        road.pool.close(seq)
    road.open(4)
    assert road.held[0] == {4}


def test_load_is_a_share_of_what_a_replica_takes() -> None:
    road = Road(2, capacity=2)
    road.say(capacity=8)
    road.open(*range(5))
    assert [len(held) for held in road.held] == [4, 1]


def test_the_sequences_of_a_dead_replica_move_with_all_their_tokens() -> None:
    road = Road(2)
    sequences = road.open(0, 1, 2, 3)
    moved = sorted(road.held[0])
    road.links[0].close()
    assert road.pool.usable() == ["a"]
    drafts = road.pool.propose({"a": [(grow(sequence, 50), 2) for sequence in sequences]}).by_seq
    assert {seq: draft.tokens for seq, draft in drafts.items()} == {seq: [51, 52] for seq in range(4)}
    opened = {item.seq: item.tokens for batch in road.hosts[1].batches for item in batch.opens}
    assert all(opened[seq] == [10 + seq, 50] for seq in moved)
    assert road.held[1] == {0, 1, 2, 3}


def test_a_replica_that_left_gives_its_sequences_away_and_one_that_comes_gets_new_ones() -> None:
    road = Road(2)
    sequence, *_ = road.open(0, 1)
    gone = 0 if 0 in road.held[0] else 1
    road.members = [member for member in road.members if member.replica != gone]
    assert draft_of(road.pool, "a", grow(sequence, 20)) == [21, 22, 23]
    road.members = [*road.members, replace(road.members[0], replica=gone, address="elsewhere")]
    road.hosts[gone] = FakeDrafter()
    road.open(2)
    assert road.held[gone] == {2}
    assert draft_of(road.pool, "a", grow(sequence, 30)) == [31, 32, 33], "who moved stays"
    assert road.held[gone] == {2}


def test_what_one_replica_refuses_another_takes() -> None:
    road = Road(2)
    road.hosts[0].capacity = 0
    sequences = road.open(0, 1, 2, 3)
    for _ in range(2):  # a refusal shows with the next look
        road.pool.commit([grow(sequence, 5, 6) for sequence in sequences])
    assert road.held == [set(), {0, 1, 2, 3}]
    assert all(road.pool.serves("a", sequence.seq) for sequence in sequences)


def test_a_full_drafter_sleeps_for_new_sequences_and_not_for_its_own() -> None:
    road = Road(1, capacity=4)
    (own,) = road.open(0)
    road.say(sessions=4)
    (new,) = road.open(1)
    assert (road.pool.serves("a", 0), road.pool.serves("a", 1)) == (True, False)
    road.pool.commit([grow(own, 5, 6), grow(new, 5, 6)])
    assert road.held == [{0}]
    assert draft_of(road.pool, "a", own) == [7, 8, 9]
    assert draft_of(road.pool, "a", new) is None
    road.say(sessions=3)
    assert draft_of(road.pool, "a", new) == [7, 8, 9]


def test_a_draining_drafter_keeps_what_it_has_even_where_a_replica_dies() -> None:
    road = Road(2)
    one, two = road.open(0, 1)
    road.members = [replace(member, draining=True) for member in road.members]
    (new,) = road.open(2)
    assert not road.pool.serves("a", 2)
    assert draft_of(road.pool, "a", grow(new, 20)) is None
    assert draft_of(road.pool, "a", grow(one, 20)) == [21, 22, 23]
    assert road.held[0] | road.held[1] == {0, 1}
    road.links[0].close()
    for sequence in (one, two):
        assert draft_of(road.pool, "a", grow(sequence, 30)) == [31, 32, 33]
    assert road.held[1] == {0, 1}


def test_ends_free_the_session_and_the_place() -> None:
    road = Road(2)
    road.open(0, 1)
    for seq in (0, 1):
        road.pool.close(seq)
    assert road.held == [set(), set()]
    assert not road.pool._groups["a"]._home


def test_counts_of_all_replicas_are_the_drafters() -> None:
    road = Road(2)
    for sequence in road.open(0, 1):
        draft_of(road.pool, "a", sequence)
    road.members = road.members[:1]
    road.pool.usable()
    counts = road.pool.counters()["a"]
    assert counts["asked"] == 2
    assert counts["connects"] == 2, "those of a replica that left are kept"


# ---------------------------------------------------------------- over real gRPC


@pytest.fixture
def servers() -> Iterator[list[DrafterServer]]:
    servers: list[DrafterServer] = []
    yield servers
    for server in servers:
        server.stop()


def test_a_killed_replica_costs_a_draft_and_no_more(servers: list[DrafterServer]) -> None:
    hosts = [FakeDrafter(), FakeDrafter()]
    members = []
    for number, host in enumerate(hosts):
        server = DrafterServer(host, lambda scores: None, host="127.0.0.1", token=None, max_message_bytes=1 << 20)
        members.append(Member("a", "fake", server.start(), replica=number))
        servers.append(server)
    pool = SessionPool(
        lambda: members,
        lambda member: GrpcLink(member.drafter, member.address, token=None, max_message_bytes=1 << 20),
        vocab_size=VOCAB_SIZE,
        catch_up_tokens=2,
        deadline_s=DEADLINE_S,
    )
    until(lambda: pool.usable() and all(peer.usable for peer in pool.replicas("a").values()))
    one, two = FakeSequence(1, [10]), FakeSequence(2, [20])
    for sequence in (one, two):
        pool.open(sequence)
    until(lambda: all(host.sessions for host in hosts))
    home = 0 if 1 in hosts[0].sessions else 1
    servers[home].stop()
    until(lambda: not pool.replicas("a")[home].connected)
    drafts = pool.propose({"a": [(grow(one, 50), 2), (grow(two, 60), 2)]}).by_seq
    assert {seq: draft.tokens for seq, draft in drafts.items()} == {1: [51, 52], 2: [61, 62]}
    assert hosts[1 - home].sessions.keys() == {1, 2}
    pool.shutdown()
