"""Which drafters suit a prompt, before any of them has been scored on it: a linear model over the prompt's sketch.

Full information labels every request for free: each drafter's mean advantage over the others, per position, is known of
every request that has ended, whoever played. The model is fitted online by normalised least mean squares (Widrow and
Hoff 1960; with features of length 1 the step is the rate), and forgets as it goes. It is a prior like a route's: a new
sequence starts from what it predicts, and the sequence's own losses correct it. `Selector` holds one.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from paceline.actors.prompt_sketch import BITS, features
from paceline.cluster.learner import Floats, Rows

RATE = 0.25  # of the error that one request mends
LEAST_POSITIONS = 8.0  # a request that released fewer tells too little
MOST = 4.0  # largest coefficient either way; an advantage is at most a round of the fastest drafter, or taken for it


class PromptPredictor:
    """Advantages by drafter, from sketches."""

    def __init__(self) -> None:
        self._coefficients: Floats = np.zeros((0, BITS + 1))  # [drafters, features]

    @property
    def coefficients(self) -> Floats:
        """The model, [drafters, features]."""
        return self._coefficients

    def restore(self, column: int, coefficients: Floats) -> None:
        """Give a drafter its coefficients of another life, [features]."""
        self._coefficients[column] = np.clip(coefficients, -MOST, MOST)

    def join(self) -> None:
        """A new drafter takes the next row, of which nothing is known."""
        self._coefficients = np.vstack([self._coefficients, np.zeros((1, BITS + 1))])

    def predict(self, sketched: bytes) -> Floats:
        """Expected advantage per position over the mean of all drafters, [drafters] in [-1, 1]; 0 where unknown."""
        if not sketched:
            return np.zeros(len(self._coefficients))
        advantages: Floats = np.clip(self._coefficients @ features(sketched), -1.0, 1.0)
        return advantages

    def learn(self, sketched: bytes, losses: Floats, positions: Floats) -> None:
        """Learn from one request.

        Args:
            sketched: Its prompt.
            losses: Summed over its released positions, [drafters].
            positions: How many of them each drafter was scored on, [drafters].
        """
        known = positions >= LEAST_POSITIONS
        if not sketched or known.sum() < 2:  # an advantage is over somebody
            return
        mean = losses[known] / positions[known]
        x = features(sketched)
        error = (mean.mean() - mean) - self._coefficients[known] @ x
        moved = self._coefficients[known] + RATE * error[:, None] * x
        self._coefficients[known] = np.clip(moved, -MOST, MOST)


class Advised(Protocol):
    """Whoever takes advice on new sequences."""

    def advise(self, row: int, advantages: Floats, share: float) -> None:
        """See `Policy`."""
        ...


class PromptPrior:
    """The predictor, what it is taught with, and whom it advises. `Selector` tells it what happens.

    Args:
        policy: It is advised.
        max_sequences: Rows.
        weight: How far a new sequence trusts the prediction, 0 to 1; 0 does nothing.
    """

    def __init__(self, policy: Advised, max_sequences: int, weight: float) -> None:
        self._policy = policy
        self._weight = weight
        self._predictor = PromptPredictor()  # learns nothing where the weight is 0
        self._sums = LossSums(max_sequences if weight else 0)

    @property
    def predictor(self) -> PromptPredictor:
        """The model."""
        return self._predictor

    def join(self) -> None:
        """A new drafter takes the next column."""
        self._predictor.join()
        self._sums.join()

    def open(self, row: int, sketched: bytes) -> None:
        """A new sequence has begun in the policy."""
        if self._weight and sketched:
            self._policy.advise(row, self._predictor.predict(sketched), self._weight)

    def add(self, rows: Rows, losses: Floats) -> None:
        """See `LossSums`."""
        if self._weight:
            self._sums.add(rows, losses)

    def close(self, row: int, sketched: bytes) -> None:
        """A sequence ended."""
        if self._weight:
            self._predictor.learn(sketched, *self._sums.take(row))


class LossSums:
    """Each running sequence's losses, summed by drafter, for its prompt's lesson.

    Args:
        max_sequences: Rows.
    """

    def __init__(self, max_sequences: int) -> None:
        self._losses: Floats = np.zeros((max_sequences, 0))
        self._positions: Floats = np.zeros((max_sequences, 0))

    def join(self) -> None:
        """A new drafter takes the next column."""
        column = np.zeros((len(self._losses), 1))
        self._losses = np.hstack([self._losses, column])
        self._positions = np.hstack([self._positions, column])

    def add(self, rows: Rows, losses: Floats) -> None:
        """Each of `rows` released a position, maybe several: losses [rows, drafters], NaN where one was not scored."""
        heard = ~np.isnan(losses)
        np.add.at(self._losses, rows, np.where(heard, losses, 0.0))
        np.add.at(self._positions, rows, heard)

    def take(self, row: int) -> tuple[Floats, Floats]:
        """A row's sums and positions, [drafters] each, which then begin anew."""
        taken = self._losses[row].copy(), self._positions[row].copy()
        self._losses[row] = 0.0
        self._positions[row] = 0.0
        return taken
