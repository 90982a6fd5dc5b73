"""A drafter's sessions: what makes a kind safe to put behind a socket.

Messages are idempotent by (sequence, position): a repeat is harmless, an overlap is trimmed, a gap or an unknown
session asks for a resync. Sessions are bounded; one too many is refused, never bought by dropping another. Features
come where the kind asked for them, and nowhere else. A kind that raises loses the sequences it raised on, and nothing
else; it never sees a sequence twice in one call.
`DrafterServer` and `LocalLink` call `handle`, one at a time.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from paceline.actors.drafter import Drafter
from paceline.actors.messages import (
    Commit,
    Draft,
    DrafterBatch,
    DrafterReply,
    Failure,
    Features,
    Laws,
    Open,
    Propose,
    Resync,
    Score,
)
from paceline.actors.tracer import span

logger = logging.getLogger(__name__)

WORK = ("open", "catch_up", "propose")  # what a drafter's time goes to

Result = TypeVar("Result")


class _OfSequence(Protocol):
    @property
    def seq(self) -> int: ...


Item = TypeVar("Item", bound=_OfSequence)


@dataclass(slots=True)
class _Answer:
    """What a batch's reply collects."""

    drafts: list[Draft]
    resyncs: list[Resync]
    failures: list[Failure]
    scores: list[Score]


class DrafterHost:
    """Holds the sessions of one drafter kind.

    Args:
        drafter: The kind.
        max_sessions: Most sessions at once.

    Attributes:
        busy_s: Seconds spent on each part of `WORK`.
        scored: Positions that were scored.
    """

    def __init__(self, drafter: Drafter, max_sessions: int) -> None:
        self._drafter = drafter
        self._max_sessions = max_sessions
        self._held: dict[int, int] = {}  # seq -> committed tokens
        self.busy_s = dict.fromkeys(WORK, 0.0)
        self.scored = 0  # positions

    @property
    def sessions(self) -> int:
        """How many there are."""
        return len(self._held)

    def handle(self, batch: DrafterBatch) -> tuple[DrafterReply, list[Score]]:
        """Do what a batch asks, in the order opens, commits, proposes, closes."""
        began = time.perf_counter()
        answer = _Answer([], [], [], [])
        with span("open", sequences=len(batch.opens)) if batch.opens else nullcontext():
            self._open(batch.opens, answer)
        opened = time.perf_counter()
        with span("catch up", sequences=len(batch.commits)) if batch.commits else nullcontext():
            self._commit(batch.commits, answer)
        caught_up = time.perf_counter()
        with span("propose", sequences=len(batch.proposes), ask=batch.round) if batch.proposes else nullcontext():
            self._propose(batch.proposes, answer)
        proposed = time.perf_counter()
        self._close(batch.closes, answer)
        self.busy_s["open"] += opened - began
        self.busy_s["catch_up"] += caught_up - opened
        self.busy_s["propose"] += proposed - caught_up
        self.scored += sum(len(score.gammas) for score in answer.scores)
        busy_ms = (time.perf_counter() - began) * 1e3
        return DrafterReply(batch.round, answer.drafts, answer.resyncs, answer.failures, busy_ms), answer.scores

    def _open(self, opens: Sequence[Open], answer: _Answer) -> None:
        taken: dict[int, Open] = {}  # of several opens of one sequence the last counts
        room = self._max_sessions - len(self._held)
        full: list[int] = []
        for item in opens:
            if not item.tokens or not self._within(item.tokens):
                answer.failures.append(self._bad_ids(item.seq, "open"))
            elif fault := self._feature_fault(item.features, len(item.tokens) - 1):
                answer.failures.append(Failure("INVALID", f"open.features: {fault}", [item.seq]))
            elif item.seq in self._held or item.seq in taken:
                taken[item.seq] = item
            elif room > 0:
                room -= 1
                taken[item.seq] = item
            else:
                full.append(item.seq)
        if full:
            answer.failures.append(Failure("CAPACITY", f"{self._max_sessions} sessions are the most it takes", full))
        if not taken:
            return
        self._close(list(taken), answer)
        self._held.update({seq: len(item.tokens) for seq, item in taken.items()})
        self._guarded(list(taken), answer, lambda: self._drafter.open(list(taken.values())))

    def _commit(self, commits: Sequence[Commit], answer: _Answer) -> None:
        due: list[Commit] = []
        for item in commits:
            held = self._held.get(item.seq)
            if held is None or item.start > held:
                answer.resyncs.append(Resync(item.seq, held or 0))
            elif not self._within(item.tokens):
                answer.failures.append(self._bad_ids(item.seq, "commit"))
            elif item.p is not None and not self._sound(item.p, len(item.tokens)):
                text = f"commit.p: a row of ids in -1..{self._drafter.vocab_size - 1} is needed for each token"
                answer.failures.append(Failure("INVALID", text, [item.seq]))
            elif fault := self._feature_fault(item.features, len(item.tokens) - (item.start == 0)):
                answer.failures.append(Failure("INVALID", f"commit.features: {fault}", [item.seq]))
            elif item.start + len(item.tokens) > held:
                trimmed = item.after(held)
                due.append(trimmed)
                self._held[item.seq] = held + len(trimmed.tokens)
        for wave in self._waves(due):
            answer.scores += self._guarded([item.seq for item in wave], answer, partial(self._scores, wave)) or []

    def _scores(self, commits: Sequence[Commit]) -> list[Score]:
        gammas = self._drafter.commit(commits)
        return [Score(item.seq, item.start, row) for item, row in zip(commits, gammas, strict=True)]

    def _propose(self, proposes: Sequence[Propose], answer: _Answer) -> None:
        due: list[Propose] = []
        for item in proposes:
            held = self._held.get(item.seq)
            if held is None or item.start > held:
                if item.seq not in {resync.seq for resync in answer.resyncs}:
                    answer.resyncs.append(Resync(item.seq, held or 0))
            elif item.start < held or item.length < 1:
                answer.drafts.append(Draft(item.seq, item.start, []))  # the target has moved on: nothing to propose
            else:
                due.append(item)
        for wave in self._waves(due):
            drafts = self._guarded([item.seq for item in wave], answer, partial(self._drafter.propose, wave))
            answer.drafts += drafts or []

    def _close(self, seqs: Sequence[int], answer: _Answer) -> None:
        """Drop those sessions that there are."""
        held = [seq for seq in dict.fromkeys(seqs) if self._held.pop(seq, None) is not None]
        if held:
            self._guarded(held, answer, lambda: self._drafter.close(held))

    def _waves(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        """Parts in which each sequence comes once, in its order; what an earlier part lost is left out of the next."""
        waves: list[list[Item]] = []
        seen: Counter[int] = Counter()
        for item in items:
            if seen[item.seq] == len(waves):
                waves.append([])
            waves[seen[item.seq]].append(item)
            seen[item.seq] += 1
        for wave in waves:
            if alive := [item for item in wave if item.seq in self._held]:
                yield alive

    def _guarded(self, seqs: list[int], answer: _Answer, call: Callable[[], Result]) -> Result | None:
        """Run a call into the kind; where it raises, its sequences fail and their sessions are dropped."""
        try:
            return call()
        except Exception as error:  # the boundary between a session and a drafter kind's own code
            logger.exception("the drafter failed on sequences %s", seqs)
            answer.failures.append(Failure("INTERNAL", f"{type(error).__name__}: {error}", seqs))
            self._close(seqs, answer)
            return None

    def _within(self, tokens: Sequence[int]) -> bool:
        return not tokens or (min(tokens) >= 0 and max(tokens) < self._drafter.vocab_size)

    def _sound(self, p: Laws, count: int) -> bool:
        return len(p) == count and (not p.ids.size or (p.ids.min() >= -1 and p.ids.max() < self._drafter.vocab_size))

    def _feature_fault(self, features: Features | None, tokens: int) -> str:
        """What is wrong with the features of a message of which `tokens` tokens have any; empty where nothing is."""
        request = self._drafter.features
        if request is None:
            return "" if features is None else "given; expected none, which this drafter reads"
        rows = min(request.window, tokens)
        if features is None:
            return f"absent; expected {rows} rows of {request.row_width} values" if rows > 0 else ""
        wanted = (rows, request.row_width)
        return "" if features.shape == wanted else f"shape {list(features.shape)}; expected {list(wanted)}"

    def _bad_ids(self, seq: int, field: str) -> Failure:
        return Failure("INVALID", f"{field}.tokens: ids must lie in 0..{self._drafter.vocab_size - 1}", [seq])
