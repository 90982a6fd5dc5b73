"""AdaNormalHedge: a learner without parameters that takes a prior over drafters and lets each sleep.

Called by `learned_policy`; learning is `learner`'s.
"""

from __future__ import annotations

import numpy as np

from paceline.cluster.learner import Bools, Floats, Learner, Prices, Rows, Start, normalised


class AdaNormalHedge(Learner):
    """w_i ~ prior_i W(R_i, C_i), with W(R, C) = (Phi(R+1, C+1) - Phi(R-1, C+1)) / 2, Phi(R, C) = exp([R]+^2 / 3C) and
    C_i = the sum of |r_i|.

    Luo and Schapire, "Achieving All with No Parameters: AdaNormalHedge" (2015). Its regret against any mixture of
    drafters grows with how far that mixture is from the prior, and a drafter pays only for positions at which it was
    awake. A sequence starts from what others taught by taking their weights as its prior, instead of their regrets.
    """

    def __init__(self, learners: int, discount: float, options: int = 1, prices: Prices | None = None) -> None:
        super().__init__(learners, discount, options, prices)
        self._prior: Floats = np.ones((learners, 0))  # relative: 1 is a drafter of which nothing is thought

    def join(self) -> None:
        """See `Learner`."""
        super().join()
        self._prior = np.hstack([self._prior, np.ones((len(self._prior), 1))])

    def reset(self, row: int, start: Start | None = None) -> None:
        """See `Learner`. Of what others taught, their law is the prior; a tenth of it is kept for everybody, so that no
        mistake of theirs costs more than ln 10N."""
        super().reset(row)
        self._prior[row] = 1.0 if start is None else 0.1 + 0.9 * len(start.law) * start.law

    def _massed(self, gained: Floats, heard: Floats) -> Floats:
        return np.abs(gained)

    def _law(self, rows: Rows, regret: Floats, mass: Floats, available: Bools) -> Floats:
        scale = 3.0 * (mass + 1.0)
        above = np.maximum(regret + 1.0, 0.0) ** 2 / scale
        below = np.maximum(regret - 1.0, 0.0) ** 2 / scale
        top = np.where(available, above, 0.0).max(axis=1, keepdims=True, initial=0.0)  # keeps exponents from overflow
        drop = np.where(available, above - top, 0.0)
        potential = np.exp(drop) - np.exp(np.where(available, below - top, 0.0))
        return normalised(self._prior[rows] * potential, available)
