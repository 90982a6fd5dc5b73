"""A new drafter is tried soon: the real engine, pool and selector core in one process, with drafters that differ."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from random import Random

import numpy as np
import pytest
from engine_rig import LIMITS, GuessHost, Outcome
from table_model import TableModel

from paceline.actors.engine import Engine, EngineLimits
from paceline.actors.generation import Generation
from paceline.actors.held_weights import HeldWeights
from paceline.actors.local_link import LocalLink
from paceline.actors.messages import (
    DrafterBatch,
    DrafterReply,
    DraftTiming,
    Heartbeat,
    Member,
    RoundContext,
    Score,
    SequenceOpened,
    SequenceRound,
    TargetReport,
)
from paceline.actors.session_pool import SessionPool
from paceline.cluster.config import SelectorConfig, SpeculationConfig
from paceline.cluster.selector import Selector

TOKENS, OLD_REQUESTS, WITHIN = 60, 60, 50


class ScoringHost(GuessHost):
    """Scores itself on greedy text, as a real drafter does."""

    def handle(self, batch: DrafterBatch) -> tuple[DrafterReply, list[Score]]:
        reply, _ = super().handle(batch)
        scores = []
        for commit in batch.commits:
            held = self.tokens.get(commit.seq, [*[0] * commit.start, *commit.tokens])
            likeliest = [self.table[held[at - 2], held[at - 1]].argmax() for at in range(commit.start, len(held))]
            hits = np.array([guess == token for guess, token in zip(likeliest, commit.tokens, strict=True)])
            scores.append(Score(commit.seq, commit.start, hits.astype(np.float32)))
        return reply, scores


class CoreBoard:
    """A board that asks the selector's core itself, with no wire between."""

    weights_number = 0

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self.held = HeldWeights(None, 1.0, lambda: 0.0)
        self.live: set[int] = set()
        self.connection = selector.connect("target")
        self.told: tuple[Member, ...] = ()
        self.rounds: list[SequenceRound] = []

    def weights(self, seq: int) -> Mapping[str, float]:
        return self.held.weights(seq)

    def lengths(self, seq: int) -> Mapping[str, int]:
        return self.held.lengths(seq)

    def members(self) -> Sequence[Member]:
        return self.told

    def opened(self, sequence: SequenceOpened) -> None:
        self.live.add(sequence.seq)
        self.held.opened(sequence.seq, sequence.drafters, named=sequence.named)
        self._report(TargetReport("target", opened=[sequence]))

    def played(
        self,
        rounds: Sequence[SequenceRound],
        drafts: Sequence[DraftTiming],
        verify_ms: float,
        verify_tokens: int,
        context: RoundContext = RoundContext(),
    ) -> None:
        self.rounds += rounds
        self._report(TargetReport("target", rounds=list(rounds), drafts=list(drafts), verify_ms=1.0))

    def closed(self, seq: int) -> None:
        self.live.discard(seq)
        self.held.closed(seq)
        self._report(TargetReport("target", closed=[seq]))

    def hear(self) -> None:
        if (update := self.selector.update(self.connection)) is not None:
            self.held.apply(update, lambda seq: seq in self.live)
            self.told = tuple(self.held.members())

    def _report(self, report: TargetReport) -> None:
        self.selector.report(self.connection, report)
        self.hear()


@pytest.mark.parametrize("seed", range(4))
def test_a_new_drafter_is_scored_and_if_it_is_better_played_within_50_requests(seed: int) -> None:
    model = TableModel(vocab_size=24, seed=seed)
    hosts = {"old": ScoringHost(model, 1.5), "older": ScoringHost(model, 3.0)}
    speculation = SpeculationConfig(max_draft=5, catch_up_tokens=4)
    selector = Selector(SelectorConfig(loss="eal"), speculation, 1.0, lambda: 0.0)
    board = CoreBoard(selector)
    limits = EngineLimits(**(LIMITS | {"evaluation_share": 1 / 16}))
    pool = SessionPool(
        board.members,
        lambda member: LocalLink(hosts[member.drafter], lambda scores: selector.scores(member.drafter, scores)),
        vocab_size=model.vocab_size,
        catch_up_tokens=4,
        deadline_s=1.0,
    )
    pool.draft_ms = lambda drafter: 50.0  # type: ignore[method-assign] # all are slow: nobody follows as of right
    engine = Engine(model, pool, board, limits, Random(seed))
    prompts = np.random.default_rng(seed).integers(0, 24, (OLD_REQUESTS + WITHIN, 8)).tolist()
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:

        def request(number: int) -> None:
            outcome = Outcome(f"r{number}")
            engine.submit(Generation(outcome.request_id, tuple(prompts[number]), TOKENS, frozenset()), outcome.put)
            outcome.wait()

        for name in hosts:
            selector.register(Heartbeat(name, "guess", name))
        board.hear()
        for number in range(OLD_REQUESTS):
            request(number)
        hosts["new"] = ScoringHost(model, 0.0)
        selector.register(Heartbeat("new", "guess", "new"))
        board.hear()
        scored = played = None
        for number in range(WITHIN):
            request(OLD_REQUESTS + number)
            statistics = selector.snapshot().drafters[2]
            scored = number + 1 if scored is None and statistics.scored else scored
            played = number + 1 if played is None and statistics.rounds else played
    finally:
        engine.stop()
        thread.join(10)
    assert scored is not None, "it was scored within 50 requests"
    assert played is not None, "the best drafter pulls within 50 requests"
    assert selector.snapshot().drafters[2].weight > 0.5
