"""EXP3Spec: the bandit that assumes nothing of how rewards come.

Built by `policy`; what it sees is `bandit`'s.
"""

from __future__ import annotations

import numpy as np

from paceline.cluster.bandit import Bandit
from paceline.cluster.learner import Bools, Floats, Pending, Rows, normalised
from paceline.cluster.policy_base import Played


class Exp3Spec(Bandit):
    """p ~ exp(-eta_t sum Z) with Z_i = 1{i played} (L+1-Y) / (L p_i) and eta_t = sqrt(ln N / (t N)).

    EXP3Spec of BanditSpec (Hou et al. 2025, arXiv 2505.15141): Y tokens in the round, of at most L+1, after t rounds
    with N drafters. p_i is the weight that the sequence was last told; a round may have been played by older weights,
    and one that then had weight 0 counts as drawn uniformly.

    Args:
        max_sequences: Rows.
        max_draft: L.
    """

    def __init__(self, max_sequences: int, max_draft: int) -> None:
        super().__init__(max_sequences)
        self._most = max_draft
        self._told: Floats = np.zeros((max_sequences + 1, 0))

    def join(self, drafter: str) -> None:
        """See `Policy`."""
        super().join(drafter)
        self._told = np.hstack([self._told, np.zeros((len(self._told), 1))])

    def open(self, row: int, route: str) -> None:
        """See `Policy`."""
        super().open(row, route)
        self._told[row] = 0.0

    def played(self, rows: Rows, played: Played) -> None:
        """See `Policy`. `_reward` sums Z."""
        asked = played.columns >= 0
        where = (rows[asked], played.columns[asked])
        chance = self._told[where]
        chance = np.where(chance > 0, chance, 1.0 / max(self._told.shape[1], 1))
        np.add.at(self._rounds, where, 1.0)
        np.add.at(self._reward, where, (self._most - played.accepted[asked]) / (self._most * chance))

    def weights(self, rows: Rows, available: Bools, pending: Pending | None = None) -> Floats:
        """See `Policy`."""
        arms = np.maximum(available.sum(axis=1, keepdims=True), 1)
        t = np.maximum(self._rounds[rows].sum(axis=1, keepdims=True), 1.0)
        missed = self._reward[rows]
        least = np.where(available, missed, np.inf).min(axis=1, keepdims=True, initial=np.inf)
        above = np.where(available, missed - np.where(np.isfinite(least), least, 0.0), 0.0)
        weights = normalised(np.exp(-np.sqrt(np.log(arms) / (t * arms)) * above), available)
        self._told[rows] = weights
        return weights
