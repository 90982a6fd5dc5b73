"""Upper confidence bounds, as published for choosing a drafter: UCBSpec and MetaSD-UCB.

Built by `policy`; what they see is `bandit`'s.
"""

from __future__ import annotations

import numpy as np

from paceline.cluster.bandit import Bandit, best
from paceline.cluster.learner import Bools, Floats, Pending, Rows
from paceline.cluster.policy_base import Played


class UcbSpec(Bandit):
    """Each drafter once; then the highest mean + c (L/2) sqrt((1+n)/n^2 (1 + 2 ln(N t^2 sqrt(1+n) / delta))).

    UCBSpec of BanditSpec (Hou et al. 2025, arXiv 2505.15141), with c = 1: n rounds of this drafter among t of all N,
    the reward being a round's tokens, in [1, L+1]. At c = 1 the term is wider than all rewards for hundreds of rounds
    with L near 8, so a tuned c is a baseline of its own (`ucbspec_tuned`).

    Args:
        max_sequences: Rows.
        max_draft: L.
        delta: Chance with which the bounds may fail.
        coefficient: c.
    """

    def __init__(self, max_sequences: int, max_draft: int, delta: float, coefficient: float = 1.0) -> None:
        super().__init__(max_sequences)
        self._scale = coefficient * max_draft / 2.0
        self._delta = delta

    def weights(self, rows: Rows, available: Bools, pending: Pending | None = None) -> Floats:
        """See `Policy`."""
        n = np.maximum(self._rounds[rows], 1.0)
        t = np.maximum(self._rounds[rows].sum(axis=1, keepdims=True), 1.0)
        arms = np.maximum(available.sum(axis=1, keepdims=True), 1)
        width = (1.0 + n) / n**2 * (1.0 + 2.0 * np.log(arms * t**2 * np.sqrt(1.0 + n) / self._delta))
        bound = self._reward[rows] / n + self._scale * np.sqrt(width)
        return best(np.where(self._rounds[rows] > 0, bound, np.inf), available)


class MetaSdUcb(Bandit):
    """Each drafter once; then the highest mean + beta sqrt(2 ln t / n), the reward being the mean of 1 - TV over the
    positions that the drafter drafted.

    MetaSD-UCB (Kim et al. 2026, arXiv 2604.05417). 1 - TV is gamma, so the reward is the mean of the played drafter's
    own gammas; beyond the first rejection there is no committed prefix, and those positions are left out here. Gammas
    come after the round: until then it has been played, but its reward is not known.

    Args:
        max_sequences: Rows.
        beta: Of the confidence term.
    """

    hears_gammas = True

    def __init__(self, max_sequences: int, beta: float) -> None:
        super().__init__(max_sequences)
        self._beta = beta
        self._heard: Floats = np.zeros((max_sequences + 1, 0))

    def join(self, drafter: str) -> None:
        """See `Policy`."""
        super().join(drafter)
        self._heard = np.hstack([self._heard, np.zeros((len(self._heard), 1))])

    def open(self, row: int, route: str) -> None:
        """See `Policy`."""
        super().open(row, route)
        self._heard[row] = 0.0

    def played(self, rows: Rows, played: Played) -> None:
        """See `Policy`. A round with nothing drafted has a reward at once, of 0."""
        asked = played.columns >= 0
        np.add.at(self._rounds, (rows[asked], played.columns[asked]), 1.0)
        empty = asked & (played.drafted == 0)
        np.add.at(self._heard, (rows[empty], played.columns[empty]), 1.0)

    def judged(self, row: int, column: int, gammas: Floats) -> None:
        """See `Policy`."""
        self._heard[row, column] += 1.0
        self._reward[row, column] += gammas.mean()

    def weights(self, rows: Rows, available: Bools, pending: Pending | None = None) -> Floats:
        """See `Policy`."""
        n = np.maximum(self._rounds[rows], 1.0)
        t = np.maximum(self._rounds[rows].sum(axis=1, keepdims=True), 1.0)
        mean = self._reward[rows] / np.maximum(self._heard[rows], 1.0)
        bound = mean + self._beta * np.sqrt(2.0 * np.log(t) / n)
        return best(np.where(self._rounds[rows] > 0, bound, np.inf), available)
