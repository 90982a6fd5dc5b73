"""Rounds that a target reported and that were not learned from yet: those of one message, of all sequences together.

What several rounds release is learned at once, which is where the time goes. `Selector` fills one, and goes on to the
next before a sequence comes or goes, so that no row changes hands meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.actors.messages import SequenceRound
from paceline.cluster.drafter_tally import DrafterTally
from paceline.cluster.gamma_ring import Released
from paceline.cluster.learner import Rows
from paceline.cluster.learning import Learning
from paceline.cluster.policy_base import Played
from paceline.cluster.sequence_access import SequenceAccess

LEARN_TOGETHER = 16  # positions of a sequence that meet the same weights: a fraction of what a learner remembers


class RoundBatch:
    """Rounds, in order."""

    def __init__(self) -> None:
        self._rounds: list[tuple[int, int, int, int]] = []  # row, column, drafted, accepted
        self.token_times: dict[int, int] = {}  # what rows have come to

    def add(self, row: int, column: int | None, played: SequenceRound, token_time: int) -> None:
        """Note a round of a row's, after which it has come to `token_time`; without a column it was played plainly."""
        self._rounds.append((row, -1 if column is None else column, played.drafted, played.accepted))
        self.token_times[row] = token_time

    def __bool__(self) -> bool:
        return bool(self._rounds)

    def played(self) -> tuple[Rows, Played]:
        """The rounds, and whose each is, [rounds]."""
        rows, columns, drafted, accepted = np.array(self._rounds, dtype=np.intp).T
        return rows, Played(columns, drafted, accepted)

    def learn(self, learning: Learning, access: SequenceAccess, tallies: Sequence[DrafterTally]) -> None:
        """Teach what the rounds release."""
        rows, token_times = np.array(list(self.token_times.items()), dtype=np.intp).T
        released = learning.advance(rows, token_times)
        if len(released.rows):
            _count(released, tallies)
            _learn(released, learning, access)


def _count(released: Released, tallies: Sequence[DrafterTally]) -> None:
    """Note how many rounds of each drafter's own would have begun."""
    starts = released.starts[:, :, -1]
    awake = ~np.isnan(starts)
    sums, counts = np.where(awake, starts, 0.0).sum(axis=0), awake.sum(axis=0)
    for tally, total, count in zip(tallies, sums.tolist(), counts.tolist(), strict=True):
        tally.released(total, count)


def _learn(released: Released, learning: Learning, access: SequenceAccess) -> None:
    """Learn some positions of each sequence at a time, since an update costs the same for one as for many."""
    firsts = np.flatnonzero(np.diff(released.rows, prepend=-1))
    counts = np.diff(firsts, append=len(released.rows))
    number = np.arange(len(released.rows)) - np.repeat(firsts, counts)  # of the position among its sequence's
    for start in range(0, int(counts.max()), LEARN_TOGETHER):
        mine = (number >= start) & (number < start + LEARN_TOGETHER)
        rows = released.rows[mine]
        learning.learn(rows, released.starts[mine], access.allowed(rows))
