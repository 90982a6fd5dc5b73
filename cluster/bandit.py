"""The policies that learn from their own rounds alone: what a bandit is, and the two classical ones.

They are what others publish and ship, kept as baselines: of a round they see which drafter played, how much it drafted
and how much was accepted, and of the drafters that did not play they see nothing. Each sequence starts anew. A round
whose drafter had nothing to offer counts as one with nothing accepted; a round that was decoded plainly counts for
nobody. `ucb` and `exp3` hold those made for speculative decoding; `policy` builds them.
"""

from __future__ import annotations

import numpy as np

from paceline.cluster.learner import Bools, Floats, Pending, Rows
from paceline.cluster.policy_base import Played, Policy


class Bandit(Policy):
    """Rounds and rewards of each drafter in each sequence, [sequences, drafters].

    The last row stays empty: it is a sequence that has not begun, whose weights are the prior.

    Args:
        max_sequences: Rows.
    """

    def __init__(self, max_sequences: int) -> None:
        self._rounds: Floats = np.zeros((max_sequences + 1, 0))
        self._reward: Floats = np.zeros((max_sequences + 1, 0))

    def join(self, drafter: str) -> None:
        """See `Policy`."""
        column = np.zeros((len(self._rounds), 1))
        self._rounds = np.hstack([self._rounds, column])
        self._reward = np.hstack([self._reward, column])

    def open(self, row: int, route: str) -> None:
        """See `Policy`."""
        self._rounds[row] = 0.0
        self._reward[row] = 0.0

    def played(self, rows: Rows, played: Played) -> None:
        """See `Policy`. The reward is the round's tokens, the bonus token included."""
        asked = played.columns >= 0
        where = (rows[asked], played.columns[asked])
        np.add.at(self._rounds, where, 1.0)
        np.add.at(self._reward, where, played.accepted[asked] + 1.0)

    def prior(self, available: Bools) -> Floats:
        """See `Policy`: every sequence starts anew."""
        weights: Floats = self.weights(np.array([len(self._rounds) - 1]), available[None])[0]
        return weights


class EpsilonGreedy(Bandit):
    """The best mean reward so far with probability 1 - epsilon, any drafter with probability epsilon (Sutton and Barto,
    "Reinforcement Learning", section 2.2); each once before that.

    The mixture is told as weights, so it draws nothing itself.
    """

    def __init__(self, max_sequences: int, epsilon: float) -> None:
        super().__init__(max_sequences)
        self._epsilon = epsilon

    def weights(self, rows: Rows, available: Bools, pending: Pending | None = None) -> Floats:
        """See `Policy`."""
        tried = self._rounds[rows] > 0
        mean = self._reward[rows] / np.maximum(self._rounds[rows], 1.0)
        greedy = best(np.where(tried, mean, np.inf), available)
        uniform = available / np.maximum(available.sum(axis=1, keepdims=True), 1)
        begun = np.where((tried | ~available).all(axis=1, keepdims=True), self._epsilon, 0.0)
        result: Floats = (1.0 - begun) * greedy + begun * uniform
        return result


class Thompson(Bandit):
    """Draws each drafter's acceptance rate from what is believed of it, and plays the highest (Thompson 1933).

    The belief is Beta(1 + accepted, 1 + rejected) over all of a sequence's drafted tokens: an accepted length is a
    number of successes before a failure, of which the Beta law is the conjugate prior. A higher rate is a longer
    expected length, so the highest rate is the arm to play. It draws anew for every call.

    Args:
        max_sequences: Rows.
        seed: Of its draws.
    """

    def __init__(self, max_sequences: int, seed: int) -> None:
        super().__init__(max_sequences)
        self._random = np.random.default_rng(seed)

    def played(self, rows: Rows, played: Played) -> None:
        """See `Policy`. `_reward` counts accepted tokens, `_rounds` rejections."""
        asked = played.columns >= 0
        where = (rows[asked], played.columns[asked])
        rejected = (played.accepted < played.drafted) | (played.drafted == 0)
        np.add.at(self._reward, where, played.accepted[asked].astype(np.float64))
        np.add.at(self._rounds, where, rejected[asked].astype(np.float64))

    def weights(self, rows: Rows, available: Bools, pending: Pending | None = None) -> Floats:
        """See `Policy`."""
        return best(self._random.beta(1.0 + self._reward[rows], 1.0 + self._rounds[rows]), available)


def best(scores: Floats, available: Bools) -> Floats:
    """All weight on the available drafter of the highest score, the first of several; [rows, drafters]."""
    weights: Floats = np.zeros(scores.shape)
    if scores.shape[1]:
        top = np.where(available, scores, -np.inf).argmax(axis=1)
        weights[np.arange(len(scores)), top] = available.any(axis=1)
    return weights
