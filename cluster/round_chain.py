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
`gamma_ring` keeps one for each sequence.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


class RoundChain:
    """The chains of all drafters along one text, for each of some draft lengths.

    Args:
        drafters: How many.
        lengths: Draft lengths k, ascending.
    """

    def __init__(self, drafters: int, lengths: Rows) -> None:
        ages = np.arange(int(lengths[-1]) + 1)
        self._drafts: Floats = (ages < lengths[:, None]).astype(np.float64)  # [lengths, ages]; else the bonus token
        self._alive: Floats = np.zeros((0, *self._drafts.shape))  # by positions since the round began
        for _ in range(drafters):
            self.join()

    def join(self) -> None:
        """A drafter more; a round of its begins here."""
        fresh = np.zeros((1, *self._drafts.shape))
        fresh[:, :, 0] = 1.0
        self._alive = np.concatenate([self._alive, fresh])

    @property
    def begins(self) -> Floats:
        """u at the position that each drafter's chain has reached, [drafters, lengths]."""
        return self._alive[:, :, 0]

    def advance(self, drafters: Rows, gammas: Floats) -> Floats:
        """One position on, for some drafters.

        Args:
            drafters: Which.
            gammas: [drafters, ages]: the gamma at the position, as good as it is where so many tokens of the round
                have been drafted before.

        Returns:
            u at the position, [drafters, lengths].
        """
        alive = self._alive if len(drafters) == len(self._alive) else self._alive[drafters]
        begins = alive[:, :, 0].copy()
        going = alive[:, :, :-1] * (gammas[:, None] * self._drafts[:, :-1])
        after = np.empty_like(alive)
        after[:, :, 1:] = going
        after[:, :, 0] = np.maximum(1.0 - going.sum(axis=2), 0.0)  # rounding
        self._alive[drafters] = after
        return begins
