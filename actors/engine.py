"""Continuous batching: requests join and leave between rounds, within bounds; beyond them they wait, beyond that they
are refused. Where the memory of keys and values runs out meanwhile, the newest gives its own back and goes on later:
before all that are newer, but for a few that fit where it does not fit yet.

One thread runs `run`; `submit` and `abort` may be called from any. Every accepted generation ends in exactly one
terminal event: a chunk with a finish reason, or an error.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from bisect import insort
from collections import deque
from dataclasses import dataclass, replace
from random import Random

from paceline.actors.causal_model import CausalModel
from paceline.actors.departures import Departures
from paceline.actors.draft_length import DraftLength, LengthSetter
from paceline.actors.engine_counts import EngineCounts
from paceline.actors.errors import EngineError, NotReady, Overloaded, PacelineError, RequestError
from paceline.actors.followers import Followers
from paceline.actors.generation import Chunk, Generation
from paceline.actors.kv_budget import KVBudget
from paceline.actors.learned_length import LearnedLength
from paceline.actors.messages import SequenceOpened
from paceline.actors.pace import Pace
from paceline.actors.ports import DrafterPool, WeightsBoard
from paceline.actors.round import speculative_round
from paceline.actors.round_setup import Setup
from paceline.actors.sequence import Listener, Sequence
from paceline.actors.tracer import span
from paceline.kernels.decoder_ops import BLOCK

logger = logging.getLogger(__name__)

_IDLE_S = 0.25  # between looks at the drafters while nothing runs, so that links are up before they are needed


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Bounds of one engine, without defaults: those are the settings'. `max_context` and `max_tokens_in_flight` count
    prompt and answer tokens together: those that one request may come to, and those that all running sequences hold at
    a time.

    `draft_length` says who sets how many tokens are drafted: `longest` is always `max_draft`; `measured` drafts fewer,
    or none, where measured times say that more do not pay; `learned` does so until the selector has set lengths.
    `max_prefill` is how many prompt tokens a round runs at most, since all running sequences wait for them.
    `evaluation_share` is the share of sequences on which one of the slow drafters that do not follow all is scored.
    `report_tokens` tells the selector also which tokens were committed, for its explanations.
    """

    max_sequences: int
    max_tokens_in_flight: int
    max_queue: int
    max_context: int
    max_draft: int
    draft_length: LengthSetter
    max_prefill: int
    evaluation_share: float
    report_tokens: bool

    @property
    def kv_tokens(self) -> int:
        """Positions of the target's caches that running sequences may need, half-filled blocks included."""
        return self.max_tokens_in_flight + self.max_sequences * BLOCK


@dataclass(frozen=True, slots=True)
class _Waiting:
    generation: Generation
    listener: Listener
    since_s: float


class Engine:
    """The target's decoding loop over one model, one pool of drafters and one board of weights."""

    def __init__(
        self,
        model: CausalModel,
        pool: DrafterPool,
        board: WeightsBoard,
        limits: EngineLimits,
        chance: Random | None = None,
    ) -> None:
        self._model = model
        self._pool = pool
        self._board = board
        self._limits = limits
        self._chance = chance or Random()
        lengths = None if limits.draft_length == "longest" else DraftLength()
        self.pace = Pace()
        self.counts = EngineCounts()
        self._setup = Setup(
            model,
            pool,
            board,
            lengths,
            LearnedLength(),
            limits.max_draft,
            limits.max_prefill,
            self._chance,
            self.pace,
            self.counts,
            limits.report_tokens,
        )
        self._ids = itertools.count(secrets.randbits(31) << 32)  # unique across targets and their restarts
        self._changed = threading.Condition()
        self._budget = KVBudget(model, limits.kv_tokens, limits.max_draft)
        self._waiting: deque[_Waiting] = deque()
        self._kv_usage = 0.0  # told by the engine's thread: no other may hold caches, whose end gives blocks back
        self._preempted: list[Sequence] = []  # they go before those that wait, the oldest first
        self._running: list[Sequence] = []
        self._aborted: set[str] = set()
        self._followers = Followers(board, pool, limits.evaluation_share, self._chance)
        self._departures = Departures()
        self._stopping = False

    @property
    def running(self) -> int:
        """Sequences being decoded."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Generations queued, and sequences that were preempted."""
        return len(self._preempted) + len(self._waiting)

    @property
    def kv_usage(self) -> float:
        """The share of `max_tokens_in_flight`, half-filled blocks included, that running sequences hold."""
        return self._kv_usage

    def submit(self, generation: Generation, listener: Listener) -> None:
        """Queue a generation; its chunks go to `listener`, on the engine's thread.

        Raises:
            RequestError: it can never run here: empty, outside the vocabulary, or too long.
            Overloaded: the queue is full.
            NotReady: the engine is stopping.
        """
        self._check(generation)
        with self._changed:
            if self._stopping:
                raise NotReady("the target is shutting down")
            # Together: between two rounds also those wait for which there is room.
            running, waiting = len(self._running), self.waiting
            if running + waiting >= self._limits.max_sequences + self._limits.max_queue:
                raise Overloaded(
                    f"{running} requests run and {waiting} wait, the most that this target takes",
                    self._departures.retry_after_s(waiting),
                )
            self._waiting.append(_Waiting(generation, listener, time.monotonic()))
            self._changed.notify()

    def abort(self, request_id: str) -> None:
        """End a generation at the next round's edge; unknown ids are ignored, since it may just have finished."""
        with self._changed:
            for waiting in self._waiting:
                if waiting.generation.request_id == request_id:
                    self._waiting.remove(waiting)
                    waiting.listener(Chunk([], "abort"))
                    return
            if any(sequence.generation.request_id == request_id for sequence in (*self._running, *self._preempted)):
                self._aborted.add(request_id)

    def stop(self) -> None:
        """End the loop after the round in progress; what has not finished ends with NotReady."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def run(self) -> None:
        """Decode until `stop`."""
        while self._admit():
            try:
                self._round()
            except Exception as error:  # the loop's edge: its requests end with the error, the loop lives on
                logger.exception("a round failed")
                self._fail(EngineError(f"a decoding round failed: {error}"))
        self._fail(NotReady("the target is shutting down"))

    def _check(self, generation: Generation) -> None:
        limits = self._limits
        if not generation.prompt:
            raise RequestError("prompt: is empty; at least one token is needed", "prompt")
        if generation.max_tokens < 1:
            raise RequestError(f"max_tokens: {generation.max_tokens}; at least 1 is needed", "max_tokens")
        vocab = self._model.vocab_size
        if min(generation.prompt) < 0 or max(generation.prompt) >= vocab:
            raise RequestError(f"prompt: holds a token id outside the vocabulary of {vocab}", "prompt")
        biases = generation.processing.logit_bias if generation.processing is not None else ()
        if any(not 0 <= token < vocab for token, _ in biases):
            raise RequestError(f"logit_bias: holds a token id outside the vocabulary of {vocab}", "logit_bias")
        total = len(generation.prompt) + generation.max_tokens
        room = min(limits.max_context, limits.max_tokens_in_flight)
        if total > room:
            raise RequestError(
                f"max_tokens: prompt ({len(generation.prompt)}) and max_tokens ({generation.max_tokens}) "
                f"make {total} tokens; the most is {room}",
                "max_tokens",
            )

    def _admit(self) -> bool:
        """Take what fits from the queue; wait while there is nothing to do. False when stopping."""
        admitted = []
        with self._changed:
            while not (self._stopping or self._running or self._preempted or self._waiting):
                self._kv_usage = self._budget.usage([])
                self._changed.wait(_IDLE_S)
                self._pool.usable()
            if self._stopping:
                return False
            self._resume()
            while self._waiting and self._may_join():
                generation = self._waiting[0].generation
                if not self._budget.admits(self._running, len(generation.prompt), generation.max_tokens):
                    break
                waiting = self._waiting.popleft()
                seq = next(self._ids)
                followers = self._followers.choose(seq, generation, len(self._running) + 1)
                cache = self._model.new_cache(generation.prompt)
                sequence = Sequence(seq, generation, cache, waiting.listener, followers)
                self._join(sequence)
                admitted.append(sequence)
                waited_s = time.monotonic() - waiting.since_s
                self.counts.admitted(sequence.prompt_tokens, sequence.cached_tokens, waited_s)
        for sequence in admitted:
            if sequence.generation.speculate:
                wanted = sequence.generation
                opened = SequenceOpened(
                    sequence.seq,
                    sequence.prompt_tokens,
                    wanted.route,
                    sequence.drafters,
                    request=wanted.request_id,
                    policy=wanted.policy,
                    sketch=wanted.sketch,
                    named=bool(wanted.drafters),
                )
                self._board.opened(opened)
                self._pool.open(sequence)
        return True

    def _resume(self) -> None:
        """Let preempted sequences go on where there is room again, the oldest first."""
        for sequence in list(self._preempted):
            first = sequence is self._preempted[0]
            if len(self._running) == self._limits.max_sequences or not (first or self._may_join()):
                return
            if self._budget.admits(self._running, len(sequence.tokens), sequence.remaining):
                self._preempted.remove(sequence)
                sequence.cache = self._model.new_cache(sequence.tokens)
                sequence.passed = 0
                if first:
                    self._running.append(sequence)
                else:
                    self._join(sequence)

    def _may_join(self) -> bool:
        """Whether one may join before the oldest that waits for its memory, if any does.

        As many may as run at once; then nobody does until it goes on. So what has room is used, and the oldest waits
        for no more than the answers of one more batch.
        """
        most = self._limits.max_sequences
        return len(self._running) < most and (not self._preempted or self._preempted[0].passed < most)

    def _join(self, sequence: Sequence) -> None:
        self._running.append(sequence)
        if self._preempted:
            self._preempted[0].passed += 1

    def _make_room(self) -> None:
        """Preempt the newest sequences, so that the others' next round has the memory it may need.

        A preempted one keeps its tokens, its randomness and its drafters' sessions; only its cache is filled anew.
        """
        while len(self._running) > 1 and not self._budget.fits(self._running):
            with self._changed:
                sequence = max(self._running, key=_number)  # not who joined last: the oldest is never preempted
                self._running.remove(sequence)
                insort(self._preempted, sequence, key=_number)
            sequence.cache = self._model.new_cache()
            self.counts.preemptions += 1

    def _round(self) -> None:
        self._make_room()
        batch = list(self._running)
        with span("round", sequences=len(batch)):
            chunks = speculative_round(batch, self._setup)
        self._kv_usage = self._budget.usage(batch)
        with self._changed:
            aborted, self._aborted = self._aborted, set()
        for sequence, chunk in zip(batch, chunks, strict=True):
            if chunk is not None:
                self.counts.played(chunk)
                self._followers.played(sequence.seq, chunk.drafter, chunk.accepted)
            if sequence.finished is None and sequence.generation.request_id in aborted:
                sequence.finished = "abort"
            if sequence.finished is not None:
                self._release(sequence)
            if chunk is not None or sequence.finished is not None:
                sequence.listener(replace(chunk or Chunk([]), finish_reason=sequence.finished))
        for sequence in [s for s in self._preempted if s.generation.request_id in aborted]:
            self._release(sequence)
            sequence.listener(Chunk([], "abort"))

    def _release(self, sequence: Sequence) -> None:
        with self._changed:
            (self._running if sequence in self._running else self._preempted).remove(sequence)
            self._departures.note()
        self._kv_usage = self._budget.usage(self._running)
        if sequence.generation.speculate:
            self._pool.close(sequence.seq)
            self._board.closed(sequence.seq)
            self._followers.closed(sequence.seq, len(sequence.tokens) - sequence.prompt_tokens)
            if self._setup.lengths is not None:
                self._setup.lengths.closed(sequence.seq)

    def _fail(self, error: PacelineError) -> None:
        with self._changed:
            waiting = list(self._waiting) if self._stopping else []
            if self._stopping:
                self._waiting.clear()
        for sequence in [*self._running, *(self._preempted if self._stopping else ())]:
            self._release(sequence)
            sequence.listener(error)
        for item in waiting:
            item.listener(error)


def _number(sequence: Sequence) -> int:
    return sequence.seq  # they are counted as they come
