"""A drafter's sessions: what makes a kind safe to put behind a socket.

Messages are idempotent by (sequence, position): a repeat is harmless, an overlap is trimmed, a gap or an unknown
session asks for a resync. Sessions are bounded; one too many is refused, never bought by dropping another. A kind that
raises loses the sequences it raised on, and nothing else. `DrafterServer` and `LocalLink` call `handle`, one at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from paceline.actors.drafter import Drafter
from paceline.actors.messages import (
    Commit,
    Draft,
    DrafterBatch,
    DrafterReply,
    Failure,
    Laws,
    Open,
    Propose,
    Resync,
    Score,
)

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


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
    """

    def __init__(self, drafter: Drafter, max_sessions: int) -> None:
        self._drafter = drafter
        self._max_sessions = max_sessions
        self._held: dict[int, int] = {}  # seq -> committed tokens

    @property
    def sessions(self) -> int:
        """How many there are."""
        return len(self._held)

    def handle(self, batch: DrafterBatch) -> tuple[DrafterReply, list[Score]]:
        """Do what a batch asks, in the order opens, commits, proposes, closes."""
        began = time.perf_counter()
        answer = _Answer([], [], [], [])
        self._open(batch.opens, answer)
        self._commit(batch.commits, answer)
        self._propose(batch.proposes, answer)
        self._close([seq for seq in batch.closes if seq in self._held])
        busy_ms = (time.perf_counter() - began) * 1e3
        return DrafterReply(batch.round, answer.drafts, answer.resyncs, answer.failures, busy_ms), answer.scores

    def _open(self, opens: Sequence[Open], answer: _Answer) -> None:
        taken: list[Open] = []
        room = self._max_sessions - len(self._held)
        full: list[int] = []
        for item in opens:
            if not item.tokens or not self._within(item.tokens):
                answer.failures.append(self._bad_ids(item.seq, "open"))
            elif item.seq in self._held:
                taken.append(item)
            elif room > 0:
                room -= 1
                taken.append(item)
            else:
                full.append(item.seq)
        if full:
            answer.failures.append(Failure("CAPACITY", f"{self._max_sessions} sessions are the most it takes", full))
        if not taken:
            return
        self._close([item.seq for item in taken if item.seq in self._held])
        seqs = [item.seq for item in taken]
        self._held.update({item.seq: len(item.tokens) for item in taken})
        self._guarded(seqs, answer, lambda: self._drafter.open(taken))

    def _commit(self, commits: Sequence[Commit], answer: _Answer) -> None:
        due: list[Commit] = []
        for item in commits:
            held = self._held.get(item.seq)
            if held is None or item.start > held:
                answer.resyncs.append(Resync(item.seq, held or 0))
            elif not self._within(item.tokens):
                answer.failures.append(self._bad_ids(item.seq, "commit"))
            elif item.start + len(item.tokens) > held:
                trimmed = _trim(item, held)
                due.append(trimmed)
                self._held[item.seq] = held + len(trimmed.tokens)
        if not due:
            return
        gammas = self._guarded([item.seq for item in due], answer, lambda: self._drafter.commit(due))
        for item, row in zip(due, gammas or [], strict=gammas is not None):
            answer.scores.append(Score(item.seq, item.start, row))

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
        if due:
            drafts = self._guarded([item.seq for item in due], answer, lambda: self._drafter.propose(due))
            answer.drafts += drafts or []

    def _close(self, seqs: list[int]) -> None:
        for seq in seqs:
            del self._held[seq]
        if seqs:
            self._drafter.close(seqs)

    def _guarded(self, seqs: list[int], answer: _Answer, call: Callable[[], Result]) -> Result | None:
        """Run a call into the kind; where it raises, its sequences fail and their sessions are dropped."""
        try:
            return call()
        except Exception as error:  # the boundary between a session and a drafter kind's own code
            logger.exception("the drafter failed on sequences %s", seqs)
            answer.failures.append(Failure("INTERNAL", f"{type(error).__name__}: {error}", seqs))
            self._close([seq for seq in seqs if seq in self._held])
            return None

    def _within(self, tokens: Sequence[int]) -> bool:
        return not tokens or (min(tokens) >= 0 and max(tokens) < self._drafter.vocab_size)

    def _bad_ids(self, seq: int, field: str) -> Failure:
        return Failure("INVALID", f"{field}.tokens: ids must lie in 0..{self._drafter.vocab_size - 1}", [seq])


def _trim(item: Commit, held: int) -> Commit:
    """The part of a commit that is news."""
    known = held - item.start
    if known == 0:
        return item
    p = None if item.p is None else Laws(item.p.ids[known:], item.p.probs[known:])
    return replace(item, start=held, tokens=item.tokens[known:], p=p)
