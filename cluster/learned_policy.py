"""The policies that learn from all losses: a full-information learner by sequence, started from what others taught.

Which learner it is, is the policy's name (`policy`). These are the only policies that hear losses; who played does not
concern them.
"""

from __future__ import annotations

import numpy as np

from paceline.cluster.learner import Bools, Floats, Learner, Pending, Rows
from paceline.cluster.policy_base import Policy
from paceline.cluster.shared_prior import SharedPrior


class LearnedPolicy(Policy):
    """A learner with a prior.

    Args:
        learner: Rows are sequences.
        discount: The learner's; public.
        prior: What others taught; read here, and taught by whoever holds it.
        prior_weight: How far a new sequence trusts it, 0 to 1.
    """

    def __init__(self, learner: Learner, discount: float, prior: SharedPrior, prior_weight: float) -> None:
        self._learner = learner
        self.discount = discount
        self._prior = prior
        self._prior_weight = prior_weight

    def join(self, drafter: str) -> None:
        """See `Policy`."""
        self._learner.join()

    def open(self, row: int, route: str) -> None:
        """See `Policy`."""
        share = self._prior_weight
        self._learner.reset(row, self._prior.start(route, share, self.discount) if share else None)

    def advise(self, row: int, advantages: Floats, share: float) -> None:
        """See `Policy`: as if the sequence's memory were full of it."""
        positions = share * self._prior.memory(self.discount)
        self._learner.advise(row, positions * advantages, positions)

    def learn(self, rows: Rows, losses: Floats, allowed: Bools) -> None:
        """See `Policy`."""
        mask = allowed if losses.ndim == 2 else allowed[..., None]
        self._learner.learn(rows, np.where(mask, losses, np.nan))

    def weights(self, rows: Rows, available: Bools, pending: Pending | None = None) -> Floats:
        """See `Policy`."""
        return self._learner.weights(rows, available, pending)

    def outlook(self, rows: Rows, available: Bools, pending: Pending | None = None) -> tuple[Floats, Rows]:
        """As `weights`, and the option that each drafter would be played with, [rows, drafters]."""
        return self._learner.outlook(rows, available, pending)

    def prior(self, available: Bools) -> Floats:
        """See `Policy`: what a sequence of no particular route would start from."""
        if self._prior_weight:
            return self._prior.weights(available)
        uniform: Floats = available / max(int(available.sum()), 1)
        return uniform
