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


class GammaRing:
    """Gammas of the positions that are not released yet, [positions, drafters], NaN where none has come.

    Args:
        start: First position that counts: the first generated one.
        max_draft: K, the window of the expected accepted length.
        catch_up_tokens: C, tokens that a drafter may lag.
        drafters: Columns to start with.
    """

    def __init__(self, start: int, max_draft: int, catch_up_tokens: int, drafters: int) -> None:
        self._window = max_draft
        self._delay = 2 * max_draft + catch_up_tokens
        # Beyond the delay, room for scores that overtake the reports of a few rounds.
        self._length = self._delay + 4 * (max_draft + 1)
        self._gammas = np.full((self._length, drafters), np.nan, dtype=np.float32)
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

    def advance(self, committed: int) -> Floats:
        """Move token-time on, and release what is due.

        Returns:
            Expected accepted length (bonus included) from each released position, [released, drafters], oldest first:
            EAL(K) = 1 + sum over j <= K of the product of the first j gammas (HedgeSpec, arXiv 2510.20064, rewritten).
            NaN where any gamma of the window is missing. A window whose product is already 0 is not completed from
            what is known: that would favour the drafters that are scored in full.
        """
        self._token_time = max(self._token_time, committed)
        due = self._token_time - self._delay + 1 - self._next
        # Past one ring's length nothing can have been stored: such positions (lost reports) have no loss at all.
        released = min(max(due, 0), self._length - self._window)
        rows = (self._next + np.arange(released)[:, None] + np.arange(self._window)) % self._length  # [released, K]
        eal: Floats = 1.0 + np.cumprod(self._gammas[rows].astype(np.float64), axis=1).sum(axis=1)
        if due > 0:
            self._gammas[(self._next + np.arange(min(due, self._length))) % self._length] = np.nan
            self._next += due
        return eal

    def pending(self) -> tuple[Floats, Floats]:
        """What is known of positions that are committed but not released: a forecast, which nothing is booked by.

        Each position whose own gamma has come counts, with what is missing of its window filled by the mean of that
        drafter's gammas. To cut windows instead would be the trap of this module's docstring.

        Returns:
            Mean expected accepted length, NaN where no gamma has come, and the number of positions, both [drafters].
        """
        count = max(self._token_time - self._next, 0)
        rows = (self._next + np.arange(count + self._window - 1)) % self._length
        gammas = self._gammas[rows].astype(np.float64)
        known = ~np.isnan(gammas)
        mean = np.where(known, gammas, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        filled = np.where(known, gammas, mean)
        eal: Floats = np.ones((count, gammas.shape[1]))
        alive = np.ones_like(eal)
        for ahead in range(self._window):
            alive *= filled[ahead : ahead + count]
            eal += alive
        heard = known[:count]
        counts = heard.sum(axis=0).astype(np.float64)
        total = np.where(heard, eal, 0.0).sum(axis=0)
        return np.where(counts > 0, total / np.maximum(counts, 1.0), np.nan), counts

    def gammas(self, drafter: int, start: int, positions: int) -> Floats | None:
        """One drafter's gammas, [positions], from `start` on, which is not released yet; None where one is missing."""
        found = self._gammas[np.arange(start, start + positions) % self._length, drafter].astype(np.float64)
        return None if np.isnan(found).any() else found
