"""How often each drafter would have begun a round, had it drafted the whole text alone: what learners lose by.

A drafter's tokens per round are not its expected accepted length averaged over positions: a run of eight right tokens
would count 8 + 7 + .. + 1 times, though played it is one round, so that drafters whose hits come in runs (n-grams in a
text that repeats itself) look best where they are not. Counted here is what is wanted: u(t), the chance that a round of
the drafter's own chain begins at position t. Over a text u sums to the rounds that it needs alone, and times what such
a round takes to its time: a learner's regret is in rounds, or in time.

With g(t) the gamma at t, a round that began j positions ago goes on with g(t) while j < k, the length of the draft, and
ends with the bonus token at j = k:

    u(t) = a_0,    a_0' = sum over j < k of a_j (1 - g) + a_k,    a_(j+1)' = a_j g,    from a = (1, 0, ..).

A position's u is known as soon as the gammas before it are: there are no windows to wait for, or to cut.
`gamma_ring` keeps them for all sequences, and takes many of them some positions on at once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


class RoundChains:
    """The chains of all drafters along many texts, for each of some draft lengths.

    Args:
        lengths: Draft lengths k, ascending.
    """

    def __init__(self, lengths: Rows) -> None:
        self._most = most = int(lengths[-1])
        shorter = np.flatnonzero(lengths < most)
        self._ended = lengths[shorter], shorter  # (age, length) at which a draft that is not the longest is over
        # By positions since the round began. Rows and drafters come last: arithmetic runs along them.
        self._alive: Floats = np.zeros((most + 1, len(lengths), 0, 0))

    @property
    def size(self) -> int:
        """Numbers that one text takes."""
        ages, lengths, _, drafters = self._alive.shape
        return int(ages * lengths * drafters)

    def resize(self, rows: int, drafters: int) -> None:
        """Make room for so many texts and drafters; where there was none a round begins."""
        before = self._alive
        self._alive = np.zeros((*before.shape[:2], rows, drafters))
        self._alive[0] = 1.0
        self._alive[:, :, : before.shape[2], : before.shape[3]] = before

    def restart(self, row: int) -> None:
        """Another text takes the row: a round of every drafter begins."""
        self._alive[:, :, row] = 0.0
        self._alive[0, :, row] = 1.0

    def begins(self, rows: Rows) -> Floats:
        """u at the position that each drafter's chain has reached, [rows, drafters, lengths]."""
        result: Floats = self._alive[0][:, rows].transpose(1, 2, 0)
        return result

    def advance(self, rows: Rows, gammas: Floats) -> Floats:
        """Some positions on, for some texts.

        Args:
            rows: Which; each once.
            gammas: [positions, ages, rows, drafters]: the gamma at the position, as good as it is where so many tokens
                of the round have been drafted before. NaN leaves the drafter's chain where it is.

        Returns:
            u at the positions, [positions, lengths, rows, drafters]; NaN where the gamma is.
        """
        alive = self._alive.take(rows, axis=2)
        after = np.empty_like(alive)
        starts = np.empty((len(gammas), *alive.shape[1:]))
        asleep: npt.NDArray[np.bool_] = np.isnan(gammas[:, 0])
        for number, gamma in enumerate(gammas):
            starts[number] = alive[0]
            going = np.multiply(alive[:-1], gamma[:, None], out=after[1:])
            going[self._ended] = 0.0  # the bonus token ends it
            np.subtract(1.0, going.sum(axis=0), out=after[0])
            np.maximum(after[0], 0.0, out=after[0])  # rounding
            still = asleep[number]
            if still.any():
                np.copyto(after, alive, where=still)
                starts[number][:, still] = np.nan
            alive, after = after, alive
        self._alive[:, :, rows] = alive
        return starts
