"""Scores of many drafters and sequences in flat arrays, as the selector places them: all that came, at once.

Scores are many and short, so that what is done to each one alone costs more than what it tells. `ScoreInbox` makes
tables of what drafters sent; `gamma_ring` and `gamma_pages` place them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, compress

import numpy as np
import numpy.typing as npt

from paceline.actors.messages import ScoreArrays

Rows = npt.NDArray[np.intp]
Gammas = npt.NDArray[np.float32]

ROUNDING = 1e-3  # a gamma this far outside [0, 1] is rounding in the drafter's sums, not a lie


@dataclass(frozen=True, slots=True)
class Entries:
    """Runs of positions, one by one: which run each is of, and which position it is, both [positions]."""

    score: Rows
    position: Rows

    @classmethod
    def of(cls, starts: Rows, counts: Rows) -> Entries:
        """Of runs of `counts` positions, which begin at `starts`, both [runs]."""
        ends = counts.cumsum()
        score = np.repeat(np.arange(len(counts)), counts)
        return cls(score, np.arange(len(score)) + (starts - ends + counts)[score])


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Scores that are probabilities. Drafters are columns, whose `names` these are."""

    names: tuple[str, ...]
    columns: Rows  # [scores], the drafters
    seqs: list[int]  # [scores]
    entries: Entries  # of each gamma
    gammas: Gammas

    def of(self, chosen: npt.NDArray[np.bool_], rows: Rows) -> tuple[Rows, Rows, Entries, Gammas]:
        """Rows, columns, entries and gammas of some of the scores, [scores] as `chosen` and all `rows` are."""
        if chosen.all():
            return rows, self.columns, self.entries, self.gammas
        mine = chosen[self.entries.score]
        number = chosen.cumsum() - 1
        entries = Entries(number[self.entries.score[mine]], self.entries.position[mine])
        return rows[chosen], self.columns[chosen], entries, self.gammas[mine]


class ScoreInbox:
    """Messages that have come and were not looked at yet. `put` may be called while another thread takes."""

    def __init__(self) -> None:
        self._messages: deque[tuple[str, ScoreArrays]] = deque()

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, drafter: str, scores: ScoreArrays) -> None:
        """Note a message."""
        self._messages.append((drafter, scores))

    def take(self, names: tuple[str, ...], count: Callable[[str, int], None]) -> ScoreTable | None:
        """All that has come, in order; None where nothing has that can be used.

        Args:
            names: Drafters, by column.
            count: Told what cannot be used, by reason: scores of unknown drafters, and those that are no probabilities.
        """
        if not self._messages:
            return None
        column = {name: place for place, name in enumerate(names)}
        columns, messages = [], []
        for _ in range(len(self._messages)):
            drafter, scores = self._messages.popleft()
            place = column.get(drafter)
            if place is None:
                count("scores_of_unknown_drafter", len(scores))
            elif len(scores):
                columns.append(place)
                messages.append(scores)
        if not messages:
            return None
        seqs = list(chain.from_iterable(scores.seqs for scores in messages))
        starts = np.array(list(chain.from_iterable(scores.starts for scores in messages)), dtype=np.intp)
        counts = np.array(list(chain.from_iterable(scores.counts for scores in messages)), dtype=np.intp)
        gammas = np.concatenate([scores.gammas for scores in messages])
        whose = np.repeat(np.array(columns, dtype=np.intp), [len(scores) for scores in messages])
        valid = (gammas >= -ROUNDING) & (gammas <= 1.0 + ROUNDING)  # NaN is neither
        gammas = np.clip(gammas, 0.0, 1.0)
        entries = Entries.of(starts, counts)
        table = ScoreTable(names, whose, seqs, entries, gammas)
        if valid.all():
            return table
        good = np.ones(len(seqs), dtype=np.bool_)
        good[entries.score[~valid]] = False
        count("scores_invalid", int((~good).sum()))
        _, whose, entries, gammas = table.of(good, whose)
        return ScoreTable(names, whose, list(compress(seqs, good.tolist())), entries, gammas)
