"""A drafter's host with knobs, and sequences to draft for: what the tests of links, servers and pools share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from paceline.actors.drafter_link import Link
from paceline.actors.local_link import LocalLink
from paceline.actors.messages import (
    Commit,
    Draft,
    DrafterBatch,
    DrafterReply,
    Failure,
    Laws,
    Member,
    Propose,
    Resync,
    Score,
)
from paceline.actors.sampling import Sampling
from paceline.actors.session_pool import SessionPool

VOCAB_SIZE = 100
SAMPLED = Sampling(temperature=1.0)
DEADLINE_S = 0.25


def make_laws(tokens: list[int], width: int = 3) -> Laws:
    """A proper law per token: the token gets half, its successors share the rest."""
    ids = np.array([[(token + i) % VOCAB_SIZE for i in range(width)] for token in tokens], np.int32)
    rest = [0.5 / (width - 1)] * (width - 1)
    return Laws(ids.reshape(-1, width), np.array([[0.5, *rest]] * len(tokens), np.float32).reshape(-1, width))


class FakeCache:
    """A target's cache whose features tell where they are from: 10 * position + layer, two values of each layer."""

    def __init__(self, length: int, layers: Sequence[int]) -> None:
        self.length = length
        self.layers = layers
        self.reads: list[tuple[int, int]] = []

    def truncate(self, length: int) -> None:
        raise NotImplementedError

    def features(self, start: int, stop: int) -> torch.Tensor:
        assert 0 <= start <= stop <= self.length
        self.reads.append((start, stop))
        rows = [[10.0 * at + layer for layer in self.layers for _ in range(2)] for at in range(start, stop)]
        return torch.tensor(rows).view(stop - start, 2 * len(self.layers))


@dataclass
class FakeSequence:
    """What the pool needs of a sequence (`ports.Tracked`)."""

    seq: int
    tokens: list[int]
    sampling: Sampling = Sampling()
    drafters: tuple[str, ...] = ()
    cache: FakeCache = field(default_factory=lambda: FakeCache(0, ()))
    prompt_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens)

    def laws(self, start: int) -> Laws | None:
        assert start >= self.prompt_tokens
        return None if self.sampling.greedy else make_laws(self.tokens[start:])


class FakeDrafter:
    """Holds sessions as a real host must, and drafts `last + 1, last + 2, ...`, so that a test can tell what it holds.

    Knobs: `delay_s` per batch with proposes; `gate`, which batches with proposes wait for; `spoil`, which turns a good
    draft into what a lying drafter would send; `fail`, raised on proposes; `capacity` sessions at most; `deaf_to` Opens
    (they vanish, as in a restart).
    """

    def __init__(self, capacity: int = 64) -> None:
        self.capacity = capacity
        self.delay_s = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.spoil: Callable[[Draft], Draft] = lambda draft: draft
        self.fail: Exception | None = None
        self.sessions: dict[int, list[int]] = {}
        self.samplings: dict[int, Sampling] = {}
        self.batches: list[DrafterBatch] = []
        self.laws: dict[int, list[Laws | None]] = {}

    def handle(self, batch: DrafterBatch) -> tuple[DrafterReply, list[Score]]:
        """See `drafter_server.Host`."""
        self.batches.append(batch)
        reply = DrafterReply(batch.round)
        scores: list[Score] = []
        for opened in batch.opens:
            if len(self.sessions) >= self.capacity and opened.seq not in self.sessions:
                reply.failures.append(Failure("CAPACITY", "full", [opened.seq]))
                continue
            self.sessions[opened.seq] = list(opened.tokens)
            self.samplings[opened.seq] = opened.sampling
        for commit in batch.commits:
            self._commit(commit, reply, scores)
        if batch.proposes:
            self.gate.wait(10)
            time.sleep(self.delay_s)
            if self.fail is not None:
                raise self.fail
        for propose in batch.proposes:
            self._propose(propose, reply)
        for seq in batch.closes:
            self.sessions.pop(seq, None)
        return reply, scores

    def _commit(self, commit: Commit, reply: DrafterReply, scores: list[Score]) -> None:
        held = self.sessions.get(commit.seq)
        if held is None or commit.start > len(held):
            reply.resyncs.append(Resync(commit.seq, len(held or ())))
            return
        fresh = commit.tokens[len(held) - commit.start :]
        held.extend(fresh)
        self.laws.setdefault(commit.seq, []).append(commit.p)
        if fresh:
            scores.append(Score(commit.seq, len(held) - len(fresh), np.ones(len(fresh), np.float32)))

    def _propose(self, propose: Propose, reply: DrafterReply) -> None:
        held = self.sessions.get(propose.seq)
        if held is None or propose.start > len(held):
            if all(propose.seq not in failure.seqs for failure in reply.failures):
                reply.resyncs.append(Resync(propose.seq, len(held or ())))
            return
        tokens = [(held[-1] + i) % VOCAB_SIZE for i in range(1, propose.length + 1)]
        q = None if self.samplings[propose.seq].point_mass else make_laws(tokens)
        reply.drafts.append(self.spoil(Draft(propose.seq, propose.start, tokens, q)))


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Road:
    """A pool over in-process drafters, by name."""

    def __init__(self, *names: str, catch_up_tokens: int = 4, feature_layers: Sequence[int] = ()) -> None:
        self.hosts = {name: FakeDrafter() for name in names}
        self.members = [Member(name, "fake", name) for name in names]
        self.clock = Clock()
        self.links: dict[str, Link] = {}
        self.pool = SessionPool(
            lambda: self.members,
            self.connect,
            vocab_size=VOCAB_SIZE,
            catch_up_tokens=catch_up_tokens,
            deadline_s=DEADLINE_S,
            feature_layers=feature_layers,
            clock=self.clock,
        )

    def connect(self, member: Member) -> Link:
        link = LocalLink(self.hosts[member.drafter], lambda scores: None, self.clock)
        self.links[member.drafter] = link
        return link

    def counted(self, name: str, what: str) -> int:
        return self.pool.counters()[name].get(what, 0)


def draft_of(pool: SessionPool, name: str, sequence: FakeSequence, length: int = 3) -> list[int] | None:
    drafts = pool.propose({name: [(sequence, length)]}).by_seq
    return drafts[sequence.seq].tokens if sequence.seq in drafts else None


def grow(sequence: FakeSequence, *tokens: int) -> FakeSequence:
    sequence.tokens.extend(tokens)
    return sequence


def until(condition: Callable[[], object], within_s: float = 5.0) -> None:
    """Poll until a condition holds; fail where it does not in time."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true in time"
        time.sleep(0.002)
