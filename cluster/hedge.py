"""Hedge with a learning rate that falls with time, and follow-the-leader, which is Hedge without a limit to it.

Called by `learned_policy`; state and learning are `learner`'s.
"""

from __future__ import annotations

import numpy as np

from paceline.cluster.learner import Bools, Floats, Learner, Rows, Start, normalised

_TIE = 1e-12


class Hedge(Learner):
    """w_i ~ exp(-eta L_i) with eta_t = sqrt(8 ln N / t), N drafters after t positions.

    Freund and Schapire (1997); the rate that needs no horizon is Cesa-Bianchi and Lugosi, "Prediction, Learning, and
    Games" (2006), section 2.3. Regrets R_i = sum <w, f> - f_i differ as losses do, so exp(eta R_i) is the same law, and
    sleepers need no care of their own. With a discount t is the discounted number of positions, and eta stays above
    sqrt(8 (1 - discount) ln N).
    """

    def reset(self, row: int, start: Start | None = None) -> None:
        """See `Learner`. What others taught also counts as time: later losses move the weights the less."""
        super().reset(row, start)
        self._mass[row] = 0.0 if start is None else start.positions

    def _massed(self, gained: Floats, heard: Floats) -> Floats:
        return heard

    def _law(self, rows: Rows, regret: Floats, mass: Floats, available: Bools) -> Floats:
        count = np.maximum(available.sum(axis=1, keepdims=True), 1)
        time = np.maximum(np.where(available, mass, 0.0).max(axis=1, keepdims=True, initial=0.0), 1.0)
        exponent = np.sqrt(8.0 * np.log(count) / time) * regret
        top = np.where(available, exponent, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
        exponent = np.where(available, exponent - np.where(np.isfinite(top), top, 0.0), 0.0)
        return normalised(np.exp(exponent), available)


class FollowTheLeader(Learner):
    """All weight on the least (discounted) loss so far; those that share it share the weight.

    The textbook baseline: as good as any learner on stationary streams, and led by the nose where losses alternate.
    """

    def _law(self, rows: Rows, regret: Floats, mass: Floats, available: Bools) -> Floats:
        top = np.where(available, regret, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
        return normalised((regret >= top - _TIE).astype(np.float64), available)
