"""Acceptances of one sequence by position and drafter, and the moment at which each position's loss is released.

What a position tells of a drafter is whether a round of its own would begin there (`round_chain`), which follows from
the gammas before it, in order. They are committed over rounds and scored later still, and a loss is released at a
token-time that no drafter's luck can move: exactly s + K + 1 + C, where K + 1 tokens are the longest step of one round,
and C is the most that a drafter which was not chosen may lag (its scores come coalesced). The last positions of a
request are never released.

`Selector` holds one ring per sequence; scores may come before the report of the round they belong to, or after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.cluster.round_chain import RoundChain

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of scores: gammas that are new, and how many came after their release or too far ahead of it."""

    gammas: npt.NDArray[np.float32]  # [new]
    late: int
    early: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is known of positions that are not released.

    Attributes:
        starts: Mean chance that a round begins, [drafters, lengths], NaN where no gamma has come.
        counts: How many positions that stands for, [drafters].
        fade: What is left of what was known before them.
    """

    starts: Floats
    counts: Floats
    fade: float


@dataclass(frozen=True, slots=True)
class PlayedDraft:
    """A round that a drafter was asked in: whose, from which position on, how many depths of its draft were judged, and
    how many of them were right (all but the last, or all)."""

    column: int
    start: int
    judged: int
    accepted: int


class GammaRing:
    """Gammas of the positions that are not released yet, [positions, drafters], NaN where none has come.

    Args:
        start: First position that counts: the first generated one.
        max_draft: K, the longest draft.
        catch_up_tokens: C, tokens that a drafter may lag.
        drafters: Columns to start with.
        lengths: Draft lengths k, ascending, whose rounds are told; default K alone.
    """

    def __init__(
        self, start: int, max_draft: int, catch_up_tokens: int, drafters: int, lengths: Sequence[int] = ()
    ) -> None:
        told = np.array(lengths or (max_draft,), dtype=np.intp)
        self._rounds: deque[PlayedDraft] = deque()
        self._delay = max_draft + 1 + catch_up_tokens
        # Beyond the delay, room for scores that overtake the reports of a few rounds.
        self._length = self._delay + 4 * (max_draft + 1)
        self._gammas = np.full((self._length, drafters), np.nan, dtype=np.float32)
        self._starts: Floats = np.full((self._length, drafters, len(told)), np.nan)
        self._chain = RoundChain(drafters, told)
        self._reached = np.full(drafters, start, dtype=np.intp)  # the first position that a drafter's chain is not past
        self._depths: Floats = np.ones((drafters, max_draft))  # what a gamma at each depth of a draft is worth
        self._scored = self._reached.copy()  # the first position past all its gammas
        self._next = start
        self._token_time = start

    @property
    def token_time(self) -> int:
        """Tokens known to be committed."""
        return self._token_time

    @property
    def released(self) -> int:
        """The first position that is not released yet."""
        return self._next

    def join(self) -> None:
        """Add a column for a new drafter."""
        self._gammas = np.hstack([self._gammas, np.full_like(self._gammas, np.nan, shape=(self._length, 1))])
        wide = np.full_like(self._starts, np.nan, shape=(self._length, 1, self._starts.shape[2]))
        self._starts = np.concatenate([self._starts, wide], axis=1)
        self._reached, self._scored = np.append(self._reached, self._next), np.append(self._scored, self._next)
        self._depths = np.vstack([self._depths, np.ones((1, self._depths.shape[1]))])
        self._chain.join()

    def put(self, drafter: int, start: int, gammas: npt.NDArray[np.float32]) -> Placed:
        """Note a drafter's gammas at positions `start`, `start + 1`, ...; a repeat changes nothing and is not new."""
        first = min(max(self._next - start, 0), len(gammas))
        last = max(min(self._next + self._length - start, len(gammas)), first)
        kept = gammas[first:last]
        if not len(kept):
            return Placed(kept, late=first, early=len(gammas) - last)
        at = (start + first) % self._length
        rows: slice | npt.NDArray[np.intp] = slice(at, at + len(kept))  # which is quicker, where it does not wrap
        if at + len(kept) > self._length:
            rows = np.arange(at, at + len(kept)) % self._length
        before = self._gammas[rows, drafter]
        new = np.isnan(before)
        fresh = kept
        if not new.all():
            kept, fresh = np.where(new, kept, before), kept[new]
        self._gammas[rows, drafter] = kept
        self._scored[drafter] = max(self._scored[drafter], start + last)
        return Placed(fresh, late=first, early=len(gammas) - last)

    def played(self, draft: PlayedDraft) -> None:
        """Remember a round until the positions that it drafted are released (`judged`)."""
        self._rounds.append(draft)

    def judged(self, committed: int) -> list[tuple[PlayedDraft, Floats]]:
        """The rounds that `advance` to here would release, the oldest first, with what the drafter's gammas said of
        each judged depth, [judged]. Rounds whose gammas never came are left out."""
        ready = []
        while self._rounds and self._rounds[0].start + self._delay <= committed:
            draft = self._rounds.popleft()
            if draft.start >= self._next and draft.judged:
                gammas = self.gammas(draft.column, draft.start, draft.judged)
                if gammas is not None:
                    ready.append((draft, gammas))
        return ready

    def advance(self, committed: int, truth: Floats | None = None) -> Floats:
        """Move token-time on, and release what is due.

        Args:
            committed: Tokens that are committed now.
            truth: What a gamma at each depth of a draft is worth, [K, drafters], from now on, and as it changes; None
                takes gammas as they are.

        Returns:
            Of each position, oldest first, the chance that a round begins there, [positions, drafters, lengths]; NaN
            where the drafter's gamma is missing.
        """
        self._token_time = max(self._token_time, committed)
        if truth is not None:
            self._depths = truth.T
        self._follow()
        due = self._token_time - self._delay + 1 - self._next
        # Past one ring's length nothing can have been stored: such positions (lost reports) have no loss at all.
        rows = (self._next + np.arange(min(max(due, 0), self._length))) % self._length
        starts = self._starts[rows]
        if due > 0:
            self._gammas[rows], self._starts[rows] = np.nan, np.nan
            self._next += due
        return starts

    def pending(self, discount: float = 1.0) -> Forecast:
        """What is known of positions that are not released: a forecast, which nothing is booked by. Positions fade by
        `discount` with each position after them.

        A drafter's newest gamma tells of the position after it, which counts, too.
        """
        self._follow()
        count = max(self._token_time - self._next, 0)
        rows = (self._next + np.arange(count)) % self._length
        starts = self._starts[rows]
        weights = discount ** np.arange(count - 1, -1, -1.0)
        heard = weights[:, None] * ~np.isnan(starts[:, :, 0])
        after = discount ** np.maximum(self._token_time - 1 - self._reached, 0.0) * (self._reached > self._next)
        counts = heard.sum(axis=0) + after
        total = np.where(heard[..., None] > 0, weights[:, None, None] * starts, 0.0).sum(axis=0)
        total += after[:, None] * self._chain.begins
        some = counts[:, None]
        mean = np.where(some > 0, total / np.where(some > 0, some, 1.0), np.nan)
        return Forecast(mean, counts, float(discount**count))

    def gammas(self, drafter: int, start: int, positions: int) -> Floats | None:
        """One drafter's gammas, [positions], from `start` on, which is not released yet; None where one is missing."""
        found = self._gammas[np.arange(start, start + positions) % self._length, drafter].astype(np.float64)
        return None if np.isnan(found).any() else found

    def _follow(self) -> None:
        """Take the chains as far as gammas have come. A drafter scores in order: what it left out will not come, and
        its chain goes on from where it was."""
        self._reached = np.maximum(self._reached, self._next)
        while len(ahead := np.flatnonzero(self._reached < self._scored)):
            at = self._reached[ahead] % self._length
            gammas = self._gammas[at, ahead]
            known = ~np.isnan(gammas)
            ready, at = ahead[known], at[known]
            worth = np.minimum(gammas[known, None] * self._depths[ready], 1.0)
            self._starts[at, ready] = self._chain.advance(ready, worth)
            self._reached[ahead] += 1
