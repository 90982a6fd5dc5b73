"""What a selection policy is: it hears what sequences do, and says with which weights drafters should play.

A policy maps sequences (rows) and drafters (columns) to weights. It knows no sockets, no clocks, and no names beyond
those that join. What a policy does not override it does not hear: full-information learners override `learn`, bandits
`played` (MetaSD `judged` too), the others neither. `policy` lists them all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.cluster.learner import Bools, Floats, Pending, Rows

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Played:
    """What rounds came to, one entry per round: all that a bandit may know of them at once."""

    columns: Rows  # the drafter that was asked; -1: decoded plainly
    drafted: Counts  # tokens it proposed that were verified; 0: it had nothing to offer
    accepted: Counts  # of those; the round's tokens are these and one more


class Policy(ABC):
    """Weights over drafters, for every sequence. Where a method is not overridden, what it tells changes nothing.

    `hears_gammas` says that `judged` is overridden: to wait for the scores of a round costs something.
    """

    hears_gammas = False

    def join(self, drafter: str) -> None:  # noqa: B027 - not every policy keeps a state
        """A new drafter takes the next column."""

    def open(self, row: int, route: str) -> None:  # noqa: B027
        """A new sequence takes a row that was never used, or that was closed."""

    def advise(self, row: int, advantages: Floats, share: float) -> None:  # noqa: B027
        """A sequence that has just begun is expected to find these advantages per position over the mean of all
        drafters, [drafters]; they are to be trusted by `share`, 0 to 1."""

    def close(self, row: int) -> None:  # noqa: B027
        """The row's sequence ended."""

    def learn(self, rows: Rows, losses: Floats, allowed: Bools) -> None:  # noqa: B027
        """Positions were released, one entry each: whose they are [positions], and losses [positions, drafters] in
        [0, 1], NaN where a drafter sleeps. A row may come several times, its positions in order.

        `allowed` [positions, drafters] tells which drafters the sequence may use at all.
        """

    def played(self, rows: Rows, played: Played) -> None:  # noqa: B027
        """Rounds ended, one entry each, in order; a row may come several times."""

    def judged(self, row: int, column: int, gammas: Floats) -> None:  # noqa: B027
        """The scores of one played round came: the played drafter's own gammas at the positions that it drafted and
        that are committed (those before its first rejection, and that one), [positions].

        They come after `played`, once per round and in order, but not where the drafter sent none in time.
        """

    @abstractmethod
    def weights(self, rows: Rows, available: Bools, pending: Pending | None = None) -> Floats:
        """Weights [rows, drafters]; rows sum to 1 over the available drafters, or are zero: plain decoding.

        `pending` is what is known of losses that `learn` has not been given yet; it changes these weights only.
        """

    @abstractmethod
    def prior(self, available: Bools) -> Floats:
        """Weights [drafters] of a sequence that has none of its own yet; `available` is [drafters]."""
