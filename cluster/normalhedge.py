"""NormalHedge over many sequences at once: the learner without parameters that the selector runs per request.

Chaudhuri, Freund and Hsu, "A parameter-free hedging algorithm" (2009): with R_i the regret against drafter i, find the
scale c for which the mean over drafters of exp(([R_i]+)^2 / 2c) is e, and play w_i ~ ([R_i]+ / c) exp(([R_i]+)^2 / 2c).

Called by `learned_policy` and `shared_prior`; state and learning are `learner`'s.
"""

from __future__ import annotations

import numpy as np

from paceline.cluster.learner import Bools, Floats, Learner, Rows

_NEWTON_STEPS = 8
_NOTHING = 1e-12
_CLOSE = 1e-9  # Newton's error is about its step squared: after a step this small nothing is left to gain


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
    lower = np.where(
        available, square - 1.0, -np.inf
    )  # the largest exponent subtracted; exp makes 0 of who is not there
    x = 1.0 + np.log(some)
    for _ in range(_NEWTON_STEPS):
        terms = np.exp(x * lower)
        mass = np.maximum(terms.sum(axis=1, keepdims=True), _NOTHING)
        slope = np.maximum((terms * square).sum(axis=1, keepdims=True) / mass, _NOTHING)
        before, x = x, np.maximum(x - (x + np.log(mass / some) - 1.0) / slope, 1.0)
        if (before - x <= _CLOSE).all():
            break
    weights = share * np.exp(x * lower)
    weights = np.where(top > _NOTHING, weights, available.astype(np.float64))
    norm = weights.sum(axis=1, keepdims=True)
    result: Floats = weights / np.where(norm > 0, norm, 1.0)
    return result


class NormalHedge(Learner):
    """The learner with this module's law: no parameter but the discount, and no rate that has to fall with time."""

    def _law(self, rows: Rows, regret: Floats, mass: Floats, available: Bools) -> Floats:
        return normalhedge_weights(regret, available)
