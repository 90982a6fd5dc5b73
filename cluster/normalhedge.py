"""NormalHedge over many sequences at once: the learner without parameters that the selector runs per request.

Chaudhuri, Freund and Hsu, "A parameter-free hedging algorithm" (2009): with R_i the regret against drafter i, find the
scale c for which the mean over drafters of exp(([R_i]+)^2 / 2c) is e, and play w_i ~ ([R_i]+ / c) exp(([R_i]+)^2 / 2c).
Losses are full information: every drafter is scored on every position, whoever played.

Called by `learned_policy`; plain numpy, one row per learner.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

_NEWTON_STEPS = 8
_NOTHING = 1e-12


def normalhedge_weights(regret: Floats, available: Bools) -> Floats:
    """The weights of each row, over its available drafters only.

    Where no available drafter has positive regret (the leader is down, or may not be used), regrets are taken against
    playing those drafters uniformly, R_i - mean R: differences of regrets do not depend on who played.

    With m = max [R]+ and x = m^2 / 2c, x lies in [1, 1 + ln N]; log mean exp(x ([R_i]+/m)^2) - 1 is convex and rising
    in x, so Newton from the upper end falls onto its root from above: 8 steps reach the float's precision where
    bisection takes 50.

    Args:
        regret: [learners, drafters].
        available: [learners, drafters].

    Returns:
        [learners, drafters]; each row sums to 1, or is all zero where nothing is available.
    """
    count = available.sum(axis=1, keepdims=True)  # [learners, 1]
    some = np.maximum(count, 1)
    total = np.where(available, regret, 0.0).sum(axis=1, keepdims=True)
    best = np.where(available, regret, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    shift = np.where(best > _NOTHING, 0.0, total / some)
    positive = np.where(available, np.maximum(regret - shift, 0.0), 0.0)
    top = positive.max(axis=1, keepdims=True, initial=0.0)
    share = positive / np.where(top > _NOTHING, top, 1.0)  # in [0, 1]; the best one has 1
    square = share * share
    x = 1.0 + np.log(some)
    for _ in range(_NEWTON_STEPS):
        terms = np.where(available, np.exp(x * (square - 1.0)), 0.0)  # the largest exponent subtracted
        mass = np.maximum(terms.sum(axis=1, keepdims=True), _NOTHING)
        slope = np.maximum((terms * square).sum(axis=1, keepdims=True) / mass, _NOTHING)
        x = np.maximum(x - (x + np.log(mass / some) - 1.0) / slope, 1.0)
    weights = share * np.exp(x * (square - 1.0))
    weights = np.where(top > _NOTHING, weights, available.astype(np.float64))
    norm = weights.sum(axis=1, keepdims=True)
    result: Floats = weights / np.where(norm > 0, norm, 1.0)
    return result


class NormalHedge:
    """Regrets of many learners, [learners, drafters], each discounted at every position it learns from.

    A discount below 1 forgets: on text whose best drafter changes, NormalHedge without it sticks to the past. A drafter
    that sleeps (not scored at a position) has regret 0 there; its old regret fades like the others', so one that falls
    silent is not believed for ever. A new drafter starts from regret 0: scores come whether or not it plays, so it
    needs no head start to be found out.

    Args:
        learners: Rows.
        discount: Regret is multiplied by this at every position.
    """

    def __init__(self, learners: int, discount: float) -> None:
        self._discount = discount
        self._regret: Floats = np.zeros((learners, 0))

    def join(self) -> None:
        """Add a column for a new drafter."""
        self._regret = np.hstack([self._regret, np.zeros((len(self._regret), 1))])

    def reset(self, row: int, regret: Floats | float = 0.0) -> None:
        """Start a learner from these regrets, [drafters]."""
        self._regret[row] = regret

    def regret(self, row: int) -> Floats:
        """One learner's regrets, [drafters]."""
        result: Floats = self._regret[row].copy()
        return result

    def weights(self, rows: Rows, available: Bools) -> Floats:
        """Weights of some learners over their available drafters, [rows, drafters]."""
        return normalhedge_weights(self._regret[rows], available)

    def learn(self, rows: Rows, losses: Floats) -> None:
        """Give each of `rows` (none twice) the losses of its next position.

        Args:
            rows: [rows].
            losses: [rows, drafters] in [0, 1]; NaN where the drafter sleeps. A row that is all NaN changes nothing.
        """
        awake = ~np.isnan(losses)
        heard = awake.any(axis=1)
        rows, losses, awake = rows[heard], losses[heard], awake[heard]
        known = np.where(awake, losses, 0.0)
        played = (self.weights(rows, awake) * known).sum(axis=1, keepdims=True)
        self._regret[rows] = self._discount * self._regret[rows] + np.where(awake, played - known, 0.0)

    def learn_many(self, row: int, losses: Floats) -> None:
        """Give one learner several positions at once, under the weights it has now.

        Args:
            row: The learner.
            losses: [positions, drafters] in [0, 1]; NaN where the drafter sleeps.
        """
        awake = ~np.isnan(losses)
        heard = awake.any(axis=1)
        losses, awake = losses[heard], awake[heard]
        known = np.where(awake, losses, 0.0)
        regret = np.broadcast_to(self._regret[row], losses.shape)
        played = (normalhedge_weights(regret, awake) * known).sum(axis=1, keepdims=True)
        gained = np.where(awake, played - known, 0.0).sum(axis=0)
        self._regret[row] = self._discount ** len(losses) * self._regret[row] + gained
