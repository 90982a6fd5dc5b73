"""Acceptances of all sequences by position and drafter, and the moment at which each position's loss is released.

What a position tells of a drafter is whether a round of its own would begin there (`round_chain`), which follows from
the gammas before it, in order. They are committed over rounds and scored later still, and a loss is released at a
token-time that no drafter's luck can move: exactly s + K + 1 + C, where K + 1 tokens are the longest step of one round,
and C is the most that a drafter which was not chosen may lag (its scores come coalesced). The last positions of a
request are never released.

Each sequence has a ring of positions, a row here, and all that is done is done to many rows at once: numpy costs about
the same for one as for sixty. `Learning` holds them; scores may come before the report of their round, or after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from paceline.cluster.round_chain import RoundChains
from paceline.cluster.score_table import Entries

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]
T = TypeVar("T", bound=np.generic)

FOLLOW_TOGETHER = 8  # positions
BLOCK = 1 << 20  # numbers that are worked on at once


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of gammas: which are new, and how many came after their release or too far ahead of it."""

    new: Bools  # [gammas]
    late: int
    early: int


@dataclass(frozen=True, slots=True)
class Released:
    """Positions that are due, the oldest first, sequence by sequence.

    Attributes:
        rows: Whose each is, [positions].
        starts: The chance that a round begins there, [positions, drafters, lengths]; NaN where the gamma is missing.
    """

    rows: Rows
    starts: Floats


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is known of sequences' positions that are not released.

    Attributes:
        starts: Mean chance that a round begins, [rows, drafters, lengths], NaN where no gamma has come.
        counts: How many positions that stands for, [rows, drafters].
        fade: What is left of what was known before them, [rows].
    """

    starts: Floats
    counts: Floats
    fade: Floats


@dataclass(frozen=True, slots=True)
class PlayedDraft:
    """A round that a drafter was asked in: whose, from which position on, how many depths of its draft were judged, and
    how many of them were right (all but the last, or all)."""

    column: int
    start: int
    judged: int
    accepted: int


class GammaRings:
    """Gammas of the positions that are not released yet, NaN where none has come. Room is made as rows are used.

    Args:
        max_draft: K, the longest draft.
        catch_up_tokens: C, tokens that a drafter may lag.
        lengths: Draft lengths k, ascending, whose rounds are told, K the last; default K alone.
    """

    def __init__(self, max_draft: int, catch_up_tokens: int, lengths: Sequence[int] = ()) -> None:
        told = np.array(lengths or (max_draft,), dtype=np.intp)
        self._delay = max_draft + 1 + catch_up_tokens
        # Beyond the delay, room for scores that overtake the reports of a few rounds.
        self._length = self._delay + 4 * (max_draft + 1)
        self._gammas = np.empty((0, self._length, 0), dtype=np.float32)  # [rows, positions, drafters]
        self._starts: Floats = np.empty((0, self._length, 0, len(told)))
        self._chains = RoundChains(told)
        self._depths: Floats = np.ones((max_draft, 0))  # what a gamma at each depth of a draft is worth
        self._next: Rows = np.zeros(0, dtype=np.intp)  # the first position that is not released
        self._token_time: Rows = np.zeros(0, dtype=np.intp)
        self._reached: Rows = np.zeros((0, 0), dtype=np.intp)  # the first position that a drafter's chain is not past
        self._scored: Rows = np.zeros((0, 0), dtype=np.intp)  # the first position past all its gammas
        self._rounds: dict[int, deque[PlayedDraft]] = {}

    def join(self) -> None:
        """Add a column for a new drafter."""
        self._resize(len(self._next), self._depths.shape[1] + 1)

    def open(self, row: int, start: int) -> None:
        """A sequence takes the row; `start` is its first position that counts, the first generated one."""
        if row >= len(self._next):
            self._resize(1 << row.bit_length(), self._depths.shape[1])
        self._gammas[row], self._starts[row] = np.nan, np.nan
        self._reached[row] = self._scored[row] = self._next[row] = self._token_time[row] = start
        self._chains.restart(row)
        self._rounds[row] = deque()

    def token_time(self, row: int) -> int:
        """Tokens known to be committed."""
        return int(self._token_time[row])

    def released(self, row: int) -> int:
        """The first position that is not released yet."""
        return int(self._next[row])

    def due(self, token_time: int) -> int:
        """The first position that is not released at this token-time."""
        return token_time - self._delay + 1

    def put(self, rows: Rows, columns: Rows, entries: Entries, gammas: npt.NDArray[np.float32]) -> Placed:
        """Note gammas; a repeat changes nothing and is not new.

        Args:
            rows: Of each score, [scores].
            columns: The drafters, [scores].
            entries: Which score and position each gamma is of.
            gammas: [gammas].
        """
        ring = self._gammas.reshape(-1)
        row = rows[entries.score]
        ahead = entries.position - self._next[row]
        fits = (ahead >= 0) & (ahead < self._length)
        drafters = self._gammas.shape[2]
        cells = (row * self._length + entries.position % self._length) * drafters + columns[entries.score]
        new = fits.copy()
        new[fits] = np.isnan(ring[cells[fits]])
        places = np.flatnonzero(new)
        cells = cells[places]
        # Two scores may bring the same position: the first one counts, which is the last one to write its number.
        numbers = np.arange(len(places), dtype=np.int32)
        as_numbers = ring.view(np.int32)
        as_numbers[cells[::-1]] = numbers[::-1]
        again = as_numbers[cells] != numbers
        new[places[again]] = False
        kept = ~again
        ring[cells[kept]] = gammas[places[kept]]
        pairs = (row * drafters + columns[entries.score])[fits]
        np.maximum.at(self._scored.reshape(-1), pairs, entries.position[fits] + 1)
        return Placed(new, late=int((ahead < 0).sum()), early=int((ahead >= self._length).sum()))

    def played(self, row: int, draft: PlayedDraft) -> None:
        """Remember a round until the positions that it drafted are released (`judged`)."""
        self._rounds[row].append(draft)

    def judged(self, rows: Rows, committed: Rows) -> list[tuple[PlayedDraft, Floats]]:
        """The rounds that `advance` to here would release, each sequence's oldest first, with what the drafter's gammas
        said of each judged depth, [judged]. Rounds whose gammas never came are left out."""
        ready = []
        for row, end, released in zip(rows.tolist(), committed.tolist(), self._next[rows].tolist(), strict=True):
            waiting = self._rounds[row]
            while waiting and waiting[0].start + self._delay <= end:
                draft = waiting.popleft()
                if draft.start >= released and draft.judged:
                    gammas = self.gammas(row, draft.column, draft.start, draft.judged)
                    if gammas is not None:
                        ready.append((draft, gammas))
        return ready

    def advance(self, rows: Rows, committed: Rows, truth: Floats | None = None) -> Released:
        """Move token-time on, and release what is due.

        Args:
            rows: Which sequences; each once.
            committed: Tokens that are committed now, [rows].
            truth: What a gamma at each depth of a draft is worth, [K, drafters], from now on; None leaves it as it is,
                at first 1.
        """
        self._token_time[rows] = np.maximum(self._token_time[rows], committed)
        if truth is not None:
            self._depths = truth
        self._follow(rows)
        first = self._next[rows]
        due = np.maximum(self._token_time[rows] - self._delay + 1 - first, 0)
        # Past one ring's length nothing can have been stored: such positions (lost reports) have no loss at all.
        entries = Entries.of(first, np.minimum(due, self._length))
        whose = rows[entries.score]
        at = whose * self._length + entries.position % self._length
        cells = len(self._starts) * self._length
        starts = self._starts.reshape(cells, *self._starts.shape[2:])
        result = Released(whose, starts.take(at, axis=0))
        starts[at] = np.nan
        self._gammas.reshape(cells, self._gammas.shape[2])[at] = np.nan
        self._next[rows] = first + due
        return result

    def pending(self, rows: Rows, discount: float = 1.0) -> Forecast:
        """What is known of positions that are not released: a forecast, which nothing is booked by. Positions fade by
        `discount` with each position after them.

        A drafter's newest gamma tells of the position after it, which counts, too.
        """
        self._follow(rows)
        size = self._starts.shape[2] * self._starts.shape[3]
        parts = [self._pending(part, discount) for part in _blocks(rows, self._delay * size)]
        return Forecast(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("starts", "counts", "fade")))

    def gammas(self, row: int, drafter: int, start: int, positions: int) -> Floats | None:
        """One drafter's gammas, [positions], from `start` on, which is not released yet; None where one is missing, or
        so far ahead that it cannot have been stored."""
        if start + positions > self._next[row] + self._length:
            return None
        found = self._gammas[row, np.arange(start, start + positions) % self._length, drafter].astype(np.float64)
        return None if np.isnan(found).any() else found

    def _pending(self, rows: Rows, discount: float) -> Forecast:
        now, first, reached = self._token_time[rows], self._next[rows], self._reached[rows]
        count = np.maximum(now - first, 0)
        back = np.arange(int(count.max(initial=0)))
        starts = self._starts[rows[:, None], (now[:, None] - 1 - back) % self._length]  # the newest first
        weights = np.where(back < count[:, None], discount**back, 0.0)
        known = ~np.isnan(starts[..., 0])
        heard = weights[..., None] * known
        after = discount ** np.maximum(now[:, None] - 1 - reached, 0.0) * (reached > first[:, None])
        counts = heard.sum(axis=1) + after
        total = np.einsum("rp,rpdl->rdl", weights, np.where(known[..., None], starts, 0.0))
        total += after[..., None] * self._chains.begins(rows)
        some = counts[..., None]
        mean = np.where(some > 0, total / np.where(some > 0, some, 1.0), np.nan)
        return Forecast(mean, counts, discount**count)

    def _follow(self, rows: Rows) -> None:
        """Take the chains as far as gammas have come. A drafter scores in order: what it left out will not come, and
        its chain goes on from where it was."""
        self._reached[rows] = np.maximum(self._reached[rows], self._next[rows, None])
        for part in _blocks(rows, FOLLOW_TOGETHER * self._chains.size):
            behind = part
            while len(behind := behind[(self._reached[behind] < self._scored[behind]).any(axis=1)]):
                self._follow_some(behind)

    def _follow_some(self, rows: Rows) -> None:
        """Some positions on; each row has a drafter with gammas ahead of it."""
        reached, scored = self._reached[rows], self._scored[rows]
        steps = min(int((scored - reached).max()), FOLLOW_TOGETHER)
        at = reached + np.arange(steps)[:, None, None]  # [positions, rows, drafters]
        drafters = at.shape[2]
        cells = (rows[:, None] * self._length + at % self._length) * drafters + np.arange(drafters)
        gammas = np.where(at < scored, self._gammas.reshape(-1)[cells], np.nan).astype(np.float64)
        worth = np.minimum(gammas[:, None] * self._depths[:, None], 1.0)
        begins = self._chains.advance(rows, worth).transpose(0, 2, 3, 1)
        known = ~np.isnan(gammas)
        self._starts.reshape(-1, self._starts.shape[3])[cells[known]] = begins[known]
        self._reached[rows] = reached + np.clip(scored - reached, 0, steps)

    def _resize(self, rows: int, drafters: int) -> None:
        before, known = self._depths.shape[1], len(self._next)
        self._gammas = wider(self._gammas, (rows, self._length, drafters), np.nan)
        self._starts = wider(self._starts, (rows, self._length, drafters, self._starts.shape[3]), np.nan)
        self._chains.resize(rows, drafters)
        self._depths = wider(self._depths, (len(self._depths), drafters), 1.0)
        self._next, self._token_time = (wider(each, (rows,), 0) for each in (self._next, self._token_time))
        self._reached, self._scored = (wider(each, (rows, drafters), 0) for each in (self._reached, self._scored))
        self._reached[:known, before:] = self._scored[:known, before:] = self._next[:known, None]


def wider(values: npt.NDArray[T], shape: tuple[int, ...], fill: float) -> npt.NDArray[T]:
    """A copy with more room, filled with `fill`."""
    result: npt.NDArray[T] = np.full(shape, fill, dtype=values.dtype)
    result[tuple(slice(size) for size in values.shape)] = values
    return result


def _blocks(rows: Rows, size: int) -> Iterator[Rows]:
    """The rows, so many at once that what they take, `size` each, is bounded; none are one block, too."""
    step = max(BLOCK // max(size, 1), 1)
    for start in range(0, max(len(rows), 1), step):
        yield rows[start : start + step]
