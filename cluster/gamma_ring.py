"""Acceptances of one sequence by position and drafter, and the moment at which each position's loss is released.

The expected accepted length from position s needs the gammas of s .. s+K-1, which are committed over the next rounds
and scored later still. Two traps are avoided here. A window is never cut at a round's end: the drafter that played is
never cut by its own rejection, a better challenger always is. And a loss is released at a token-time that no drafter's
luck can move: exactly s + 2K + C, where K tokens complete the window, K more cover the longest step of one round, and C
is the most that a drafter which was not chosen may lag (its scores come coalesced). The last positions of a request are
never released.

`Selector` holds one ring per sequence; scores may come before the report of the round they belong to, or after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of scores: gammas that are new, and how many came after their release or too far ahead of it."""

    gammas: npt.NDArray[np.float32]  # [new]
    late: int
    early: int


@dataclass(frozen=True, slots=True)
class Released:
    """What is released: positions, oldest first.

    Attributes:
        eal: Expected accepted length (bonus included) from each, [positions, drafters, lengths]; NaN where any gamma of
            the window of K is missing.
        shares: What each is of a round, [positions]: 1 over the tokens of the round that committed it.
    """

    eal: Floats
    shares: Floats

    def __len__(self) -> int:
        return len(self.shares)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is known of positions that are not released.

    Attributes:
        eal: Mean expected accepted length [drafters, lengths], NaN where no gamma has come.
        counts: How many positions, or rounds, that stands for, [drafters].
        fade: What is left of what was known before them.
    """

    eal: Floats
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
        max_draft: K, the window of the expected accepted length.
        catch_up_tokens: C, tokens that a drafter may lag.
        drafters: Columns to start with.
        lengths: Draft lengths k, ascending, whose expected accepted lengths are told; default K alone.
    """

    def __init__(
        self, start: int, max_draft: int, catch_up_tokens: int, drafters: int, lengths: Sequence[int] = ()
    ) -> None:
        self._window = max_draft
        self._lengths = np.array(lengths or (max_draft,), dtype=np.intp)
        self._rounds: deque[PlayedDraft] = deque()
        self._delay = 2 * max_draft + catch_up_tokens
        # Beyond the delay, room for scores that overtake the reports of a few rounds.
        self._length = self._delay + 4 * (max_draft + 1)
        self._gammas = np.full((self._length, drafters), np.nan, dtype=np.float32)
        self._shares: Floats = np.zeros(self._length)  # of a round, by position: 1 over the tokens of its round
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
        column = np.full((self._length, 1), np.nan, dtype=np.float32)
        self._gammas = np.hstack([self._gammas, column])

    def put(self, drafter: int, start: int, gammas: npt.NDArray[np.float32]) -> Placed:
        """Note a drafter's gammas at positions `start`, `start + 1`, ...; a repeat overwrites and is not new."""
        first = min(max(self._next - start, 0), len(gammas))
        last = max(min(self._next + self._length - start, len(gammas)), first)
        kept = gammas[first:last]
        at = (start + first) % self._length
        rows: slice | npt.NDArray[np.intp] = slice(at, at + len(kept))  # which is quicker, where it does not wrap
        if at + len(kept) > self._length:
            rows = np.arange(at, at + len(kept)) % self._length
        new = kept[np.isnan(self._gammas[rows, drafter])]
        self._gammas[rows, drafter] = kept
        return Placed(new, late=first, early=len(gammas) - last)

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

    def advance(self, committed: int, truth: Floats | None = None) -> Released:
        """Move token-time on, and release what is due.

        Args:
            committed: Tokens that are committed now.
            truth: What a gamma at each depth of a draft is worth, [K, drafters]; None takes gammas as they are.

        EAL(k) = 1 + sum over j <= k of the product of the first j gammas (HedgeSpec, arXiv 2510.20064, rewritten), so
        that one row of products tells all lengths. A window whose product is already 0 is not completed from what is
        known: that would favour the drafters that are scored in full.
        """
        step = committed - self._token_time
        if step > 0:
            self._shares[np.arange(max(self._token_time, committed - self._length), committed) % self._length] = (
                1 / step
            )
            self._token_time = committed
        due = self._token_time - self._delay + 1 - self._next
        # Past one ring's length nothing can have been stored: such positions (lost reports) have no loss at all.
        released = min(max(due, 0), self._length - self._window)
        rows = (self._next + np.arange(released)[:, None] + np.arange(self._window)) % self._length  # [released, K]
        gammas = self._gammas[rows].astype(np.float64)  # [released, K, drafters]
        missing = np.isnan(gammas).any(axis=1)
        if truth is not None:
            gammas = np.minimum(gammas * truth, 1.0)
        eal = 1.0 + np.cumsum(np.cumprod(gammas, axis=1), axis=1)[:, self._lengths - 1]  # [released, lengths, drafters]
        eal = np.where(missing[:, None], np.nan, eal)
        shares = self._shares[rows[:, 0]]
        if due > 0:
            self._gammas[(self._next + np.arange(min(due, self._length))) % self._length] = np.nan
            self._next += due
        return Released(eal.transpose(0, 2, 1), shares)

    def pending(self, truth: Floats | None = None, discount: float | None = None) -> Forecast:
        """What is known of positions that are committed but not released: a forecast, which nothing is booked by.

        Each position whose own gamma has come counts, with what is missing of its window filled by the mean of that
        drafter's gammas. To cut windows instead would be the trap of this module's docstring.

        Args:
            truth: As for `advance`.
            discount: Positions count by their share of a round, and fade by this with each round after them; None lets
                all count alike.
        """
        count = max(self._token_time - self._next, 0)
        rows = (self._next + np.arange(count + self._window - 1)) % self._length
        gammas = self._gammas[rows].astype(np.float64)
        known = ~np.isnan(gammas)
        mean = np.where(known, gammas, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        filled = np.where(known, gammas, mean)
        heard = known[:count]
        weights, fade = np.ones((count, 1)), 1.0
        if discount is not None:
            shares = self._shares[rows[:count]]
            later = shares.sum() - shares.cumsum()
            weights, fade = (shares * discount**later)[:, None], float(discount ** shares.sum())
        counts = (heard * weights).sum(axis=0)
        drafters = gammas.shape[1]
        eal: Floats = np.ones((count, drafters))
        alive = np.ones_like(eal)
        totals: Floats = np.empty((drafters, len(self._lengths)))
        told = 0
        for ahead in range(self._window):
            step = filled[ahead : ahead + count]
            alive *= step if truth is None else np.minimum(step * truth[ahead], 1.0)
            eal += alive
            if ahead + 1 == self._lengths[told]:
                totals[:, told] = np.where(heard, weights * eal, 0.0).sum(axis=0)
                told += 1
        some = counts[:, None]
        return Forecast(np.where(some > 0, totals / np.where(some > 0, some, 1.0), np.nan), counts, fade)

    def gammas(self, drafter: int, start: int, positions: int) -> Floats | None:
        """One drafter's gammas, [positions], from `start` on, which is not released yet; None where one is missing."""
        found = self._gammas[np.arange(start, start + positions) % self._length, drafter].astype(np.float64)
        return None if np.isnan(found).any() else found


def joined(parts: Iterable[Released]) -> Released:
    """One after the other."""
    eals, shares = zip(*((part.eal, part.shares) for part in parts), strict=True)
    return Released(np.concatenate(eals), np.concatenate(shares))
