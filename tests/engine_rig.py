"""An engine on its own thread over in-process drafters that are unfair on purpose: good, random, lying, silent."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from random import Random
from typing import Any

import numpy as np
from table_model import TableModel

from paceline.actors.causal_model import CausalModel
from paceline.actors.drafter_server import Host
from paceline.actors.engine import Engine, EngineLimits
from paceline.actors.errors import PacelineError
from paceline.actors.generation import Chunk, Generation
from paceline.actors.local_link import LocalLink
from paceline.actors.messages import (
    Draft,
    DrafterBatch,
    DrafterReply,
    DraftTiming,
    Laws,
    Member,
    RoundContext,
    Score,
    SequenceOpened,
    SequenceRound,
)
from paceline.actors.sampling import Sampling
from paceline.actors.session_pool import SessionPool


class GuessHost:
    """Drafts from its own table, which agrees with the target's as much as `noise` lets it."""

    def __init__(self, model: TableModel, noise: float = 0.7, behaviour: str = "honest") -> None:
        self.model = model
        self.behaviour = behaviour
        self.chance = np.random.default_rng(7)
        self.tokens: dict[int, list[int]] = {}
        self.sampling: dict[int, Sampling] = {}
        table = model.table.numpy()
        self.table = table + noise * self.chance.standard_normal(table.shape).astype(np.float32)
        self.drafted = 0

    def handle(self, batch: DrafterBatch) -> tuple[DrafterReply, list[Score]]:
        for item in batch.opens:
            self.tokens[item.seq] = list(item.tokens)
            self.sampling[item.seq] = item.sampling
        for commit in batch.commits:
            held = self.tokens[commit.seq]
            assert commit.start <= len(held)
            self.tokens[commit.seq] = held[: commit.start] + list(commit.tokens)
        drafts = [self.draft(item.seq, item.start, item.length) for item in batch.proposes]
        for seq in batch.closes:
            self.tokens.pop(seq, None)
        return DrafterReply(batch.round, drafts=drafts), []

    def draft(self, seq: int, start: int, length: int) -> Draft:
        tokens = list(self.tokens[seq])
        assert len(tokens) == start
        if self.behaviour == "silent":
            return Draft(seq, start, [])
        if self.behaviour == "liar":
            return Draft(seq, start, [10_000] * length)
        sampling = self.sampling[seq]
        rows = []
        drafted: list[int] = []
        for _ in range(int(self.chance.integers(1, length + 1))):
            before = tokens[-2] if len(tokens) > 1 else self.model.vocab_size
            logits = self.table[before, tokens[-1]]
            if sampling.point_mass:
                token = int(logits.argmax())
            else:
                q = np.exp(logits - logits.max())
                q[np.argsort(q)[:2]] = 0.0  # a sparse law: the target may need what it cannot propose
                q = (q / q.sum()).astype(np.float32)
                token = int(self.chance.choice(len(q), p=q / q.sum(dtype=np.float64)))
                rows.append(q)
            drafted.append(token)
            tokens.append(token)
        self.drafted += len(drafted)
        if not rows:
            return Draft(seq, start, drafted)
        ids = np.array([np.where(q > 0, np.arange(len(q)), -1) for q in rows], dtype=np.int32)
        return Draft(seq, start, drafted, Laws(ids, np.array(rows)))


class EvenBoard:
    """Gives every drafter the same weight and remembers what it was told."""

    weights_number = 7

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.rounds: list[SequenceRound] = []
        self.contexts: list[RoundContext] = []
        self.open_sequences: set[int] = set()
        self.policies: list[str] = []
        self.list = tuple(Member(name, "guess", f"local:{i}") for i, name in enumerate(names))

    def weights(self, seq: int) -> Mapping[str, float]:
        return dict.fromkeys(self.names, 1.0)

    def lengths(self, seq: int) -> Mapping[str, int]:
        return {}

    def members(self) -> Sequence[Member]:
        return self.list

    def opened(self, sequence: SequenceOpened) -> None:
        self.open_sequences.add(sequence.seq)
        self.policies.append(sequence.policy)

    def played(
        self,
        rounds: Sequence[SequenceRound],
        drafts: Sequence[DraftTiming],
        verify_ms: float,
        verify_tokens: int,
        context: RoundContext = RoundContext(),
    ) -> None:
        self.rounds += rounds
        self.contexts.append(context)

    def closed(self, seq: int) -> None:
        self.open_sequences.remove(seq)


class Rig:
    """An engine over a model (mostly a table) and in-process drafters, running on its own thread."""

    def __init__(
        self, model: CausalModel, hosts: Mapping[str, Host], limits: EngineLimits, catch_up_tokens: int = 4
    ) -> None:
        self.model = model
        self.hosts = hosts
        self.board = EvenBoard(list(hosts))
        self.pool = SessionPool(
            self.board.members,
            lambda member: LocalLink(hosts[member.drafter], lambda scores: None),
            vocab_size=model.vocab_size,
            catch_up_tokens=catch_up_tokens,
            deadline_s=1.0,
            feature_layers=model.feature_layers,
        )
        self.engine = Engine(model, self.pool, self.board, limits, Random(3))
        self.numbers = itertools.count()

    def submit(self, prompt: Sequence[int], max_tokens: int, **fields: object) -> Outcome:
        outcome = Outcome(f"r{next(self.numbers)}")
        fields.setdefault("stop_ids", frozenset())
        generation = Generation(outcome.request_id, tuple(prompt), max_tokens, **fields)  # type: ignore[arg-type]
        self.engine.submit(generation, outcome.put)
        return outcome


class Outcome:
    """What one request's listener heard."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.chunks: list[Chunk] = []
        self.error: PacelineError | None = None
        self.ends = 0
        self.heard: Callable[[], object] = lambda: None
        self._done = threading.Event()

    def put(self, item: Chunk | PacelineError) -> None:
        if isinstance(item, PacelineError):
            self.error = item
        else:
            self.chunks.append(item)
        self.heard()
        if isinstance(item, PacelineError) or item.finish_reason is not None:
            self.ends += 1
            self._done.set()

    def wait(self) -> list[int]:
        assert self._done.wait(60), "no terminal event"
        if self.error is not None:
            raise self.error
        return [token for chunk in self.chunks for token in chunk.token_ids]


# A table's forward costs nothing, so by its measured times no draft would ever pay.
LIMITS: dict[str, Any] = {
    "max_sequences": 8,
    "max_tokens_in_flight": 16384,
    "max_queue": 64,
    "max_context": 256,
    "max_draft": 5,
    "draft_length": "longest",
    "max_prefill": 256,
    "evaluation_share": 0.0625,
    "report_tokens": False,
}


def rig(model: CausalModel, hosts: Mapping[str, Host], **limits: Any) -> AbstractContextManager[Rig]:
    return running(Rig(model, hosts, EngineLimits(**(LIMITS | limits))))


@contextmanager
def running(made: Rig) -> Iterator[Rig]:
    thread = threading.Thread(target=made.engine.run)
    thread.start()
    try:
        yield made
    finally:
        made.engine.stop()
        thread.join(timeout=10)
        assert not thread.is_alive()


def crowd(model: TableModel) -> dict[str, GuessHost]:
    return {
        "good": GuessHost(model, 0.3),
        "poor": GuessHost(model, 3.0),
        "liar": GuessHost(model, behaviour="liar"),
        "silent": GuessHost(model, behaviour="silent"),
    }
