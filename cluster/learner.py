"""What every full-information learner is: regrets of many sequences at once, and weights that follow from them.

Rows are sequences, columns drafters. All drafters are scored on every position, whoever played, so a learner needs no
exploring. The laws differ (`hedge`, `normalhedge`, `adanormalhedge`); what they learn from is one thing, kept here:

- **Discount.** Regret fades with every position. On a text whose best drafter changes, a learner that forgets nothing
  sticks to the past.
- **Sleeping.** A drafter without a score at a position has regret 0 there, and the play it is compared with is over
  those that were awake (Freund, Schapire, Singer and Warmuth 1997). Its old regret fades like the others'.
- **Pending losses.** A loss is released, and becomes regret, at a fixed delay (`gamma_ring`). What is already known of
  losses that are not released counts in the weights, as a hint: hints may be wrong without harm to the regret's order
  (Flaspohler et al. 2021, "Online Learning with Optimism and Delay", arXiv 2106.06885), since they stand for no more
  losses than the delay holds back.

`learned_policy` and `shared_prior` hold them; plain numpy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Pending:
    """Losses that are known but not released: their mean and their number, [rows, drafters]; NaN where there are 0."""

    losses: Floats
    counts: Floats


@dataclass(frozen=True, slots=True)
class Start:
    """What a new sequence may know of the drafters, [drafters]: regrets, the weights that go with them, and the number
    of positions that they are worth."""

    regret: Floats
    law: Floats
    positions: float


class Learner(ABC):
    """Regrets and their law over many sequences.

    Args:
        learners: Rows.
        discount: Regret, and what else a law sums up, is multiplied by this at every position.
    """

    def __init__(self, learners: int, discount: float) -> None:
        self._discount = discount
        self._regret: Floats = np.zeros((learners, 0))
        self._mass: Floats = np.zeros((learners, 0))

    def join(self) -> None:
        """Add a column for a new drafter. It starts from regret 0: scores come whether or not it plays, so it needs no
        head start to be found out."""
        column = np.zeros((len(self._regret), 1))
        self._regret = np.hstack([self._regret, column])
        self._mass = np.hstack([self._mass, column])

    def reset(self, row: int, start: Start | None = None) -> None:
        """Begin a sequence, from nothing or from what others taught."""
        self._regret[row] = 0.0 if start is None else start.regret
        self._mass[row] = 0.0

    def advise(self, row: int, regret: Floats, positions: float) -> None:
        """Let a sequence that has just begun start from expected regrets, too, [drafters], worth so many positions."""
        self._regret[row] += regret
        self._mass[row] += self._massed(regret[None], np.full((1, len(regret)), positions))[0]

    def regret(self, row: int) -> Floats:
        """One sequence's regrets, [drafters]."""
        result: Floats = self._regret[row].copy()
        return result

    def weights(self, rows: Rows, available: Bools, pending: Pending | None = None) -> Floats:
        """Weights of some sequences, [rows, drafters]; rows sum to 1 over `available`, or are 0 where nothing is."""
        regret, mass = self._regret[rows], self._mass[rows]
        if pending is not None:
            heard = pending.counts * available
            known = np.where(heard > 0, pending.losses, 0.0)
            played = (self._law(rows, regret, mass, heard > 0) * known).sum(axis=1, keepdims=True)
            hoped = np.where(heard > 0, heard * (played - known), 0.0)
            regret, mass = regret + hoped, mass + self._massed(hoped, heard)
        return self._law(rows, regret, mass, available)

    def learn(self, rows: Rows, losses: Floats) -> None:
        """Give rows the losses of their next positions. Several of one row are all met with the weights it has now.

        Args:
            rows: [positions]; whose each is. A row may come several times.
            losses: [positions, drafters] in [0, 1]; NaN where the drafter sleeps. What is all NaN changes nothing.
        """
        entries, gained, awake = self._gained(rows, losses)
        massed = self._massed(gained, awake.astype(np.float64))
        rows, place, counts = np.unique(entries, return_inverse=True, return_counts=True)
        keep = self._discount ** counts[:, None]
        self._regret[rows] = keep * self._regret[rows] + summed(gained, place, len(rows))
        self._mass[rows] = keep * self._mass[rows] + summed(massed, place, len(rows))

    def _gained(self, rows: Rows, losses: Floats) -> tuple[Rows, Floats, Bools]:
        """The rows that heard anything, the regret each position adds, and who was awake."""
        awake = ~np.isnan(losses)
        heard = awake.any(axis=1)
        rows, awake = rows[heard], awake[heard]
        known = np.where(awake, losses[heard], 0.0)
        played = (self._law(rows, self._regret[rows], self._mass[rows], awake) * known).sum(axis=1, keepdims=True)
        return rows, np.where(awake, played - known, 0.0), awake

    def _massed(self, gained: Floats, heard: Floats) -> Floats:
        """What positions add to `mass`, from the regret gained and the number heard, both [rows, drafters]."""
        return np.zeros_like(gained)

    @abstractmethod
    def _law(self, rows: Rows, regret: Floats, mass: Floats, available: Bools) -> Floats:
        """Weights [rows, drafters] from the state, over `available`; a row of zeros where nothing is."""


def summed(values: Floats, place: Rows, count: int) -> Floats:
    """The sum [count, columns] of the rows of values [entries, columns] that go to each place [entries]."""
    total: Floats = np.zeros((count, values.shape[1]))
    np.add.at(total, place, values)
    return total


def normalised(weights: Floats, available: Bools) -> Floats:
    """Each row of non-negative weights summing to 1 over `available`; uniform where all its weights are 0."""
    weights = np.where(available, weights, 0.0)
    weights = np.where(weights.any(axis=1, keepdims=True), weights, available)
    result: Floats = weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return result
