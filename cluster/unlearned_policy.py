"""The policies that do not learn: uniform, one drafter always, all in turn, and a fixed order of preference.

Built by `policy`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.cluster.learner import Bools, Floats, Pending, Rows
from paceline.cluster.policy_base import Played, Policy


class Uniform(Policy):
    """Every available drafter alike."""

    def weights(self, rows: Rows, available: Bools, pending: Pending | None = None) -> Floats:
        """See `Policy`."""
        result: Floats = available / np.maximum(available.sum(axis=1, keepdims=True), 1)
        return result

    def prior(self, available: Bools) -> Floats:
        """See `Policy`."""
        weights: Floats = self.weights(np.zeros(1, dtype=np.intp), available[None])[0]
        return weights


class Fixed(Uniform):
    """Always the one drafter; plain decoding while it is away."""

    def __init__(self, drafter: str) -> None:
        self._drafter = drafter
        self._names: list[str] = []

    def join(self, drafter: str) -> None:
        """See `Policy`."""
        self._names.append(drafter)

    def weights(self, rows: Rows, available: Bools, pending: Pending | None = None) -> Floats:
        """See `Policy`."""
        chosen = np.array([name == self._drafter for name in self._names], dtype=np.bool_)
        return (available & chosen).astype(np.float64)


class RoundRobin(Policy):
    """Every available drafter in turn, one round each, for each sequence by itself."""

    def __init__(self, max_sequences: int) -> None:
        self._turn = np.zeros(max_sequences, dtype=np.int64)

    def open(self, row: int, route: str) -> None:
        """See `Policy`."""
        self._turn[row] = 0

    def played(self, rows: Rows, played: Played) -> None:
        """See `Policy`."""
        np.add.at(self._turn, rows, 1)

    def weights(self, rows: Rows, available: Bools, pending: Pending | None = None) -> Floats:
        """See `Policy`."""
        return _nth(available, self._turn[rows])

    def prior(self, available: Bools) -> Floats:
        """See `Policy`: a new sequence starts with the first."""
        weights: Floats = _nth(available[None], np.zeros(1, dtype=np.int64))[0]
        return weights


class Composite(Policy):
    """The first drafter, in a fixed order, that has something to offer: n-grams first, then a model, is what shipping
    systems do.

    Who has something to offer is seen by asking: a drafter that was asked and proposed nothing is passed over in the
    next round, for the one after it in the order; once anybody drafted, the first is asked again.

    Args:
        max_sequences: Rows.
        priority: Names, first the first; drafters that are not named come after them, as they joined.
    """

    def __init__(self, max_sequences: int, priority: Sequence[str]) -> None:
        self._priority = tuple(priority)
        self._rank = np.zeros(0, dtype=np.int64)  # [drafters]: 0 is asked first
        self._names: list[str] = []
        self._passed = np.full(max_sequences, -1, dtype=np.int64)  # the highest rank that had nothing to offer

    def join(self, drafter: str) -> None:
        """See `Policy`."""
        self._names.append(drafter)
        named = [name for name in self._priority if name in self._names]
        order = named + [name for name in self._names if name not in named]
        self._rank = np.array([order.index(name) for name in self._names], dtype=np.int64)
        self._passed[:] = -1  # ranks have moved

    def open(self, row: int, route: str) -> None:
        """See `Policy`."""
        self._passed[row] = -1

    def played(self, rows: Rows, played: Played) -> None:
        """See `Policy`."""
        for row, column, drafted in zip(rows, played.columns, played.drafted, strict=True):
            if column >= 0:
                self._passed[row] = -1 if drafted else max(self._passed[row], self._rank[column])

    def weights(self, rows: Rows, available: Bools, pending: Pending | None = None) -> Floats:
        """See `Policy`."""
        return self._first(available, self._passed[rows])

    def prior(self, available: Bools) -> Floats:
        """See `Policy`."""
        weights: Floats = self._first(available[None], np.full(1, -1, dtype=np.int64))[0]
        return weights

    def _first(self, available: Bools, passed: Rows) -> Floats:
        """All weight on the available drafter of least rank beyond `passed`; from the start where none is left."""
        last = len(self._names)
        beyond = available & (self._rank > passed[:, None])
        offered = np.where(beyond.any(axis=1, keepdims=True), beyond, available)
        rank = np.where(offered, self._rank, last)
        weights: Floats = (offered & (rank == rank.min(axis=1, keepdims=True, initial=last))).astype(np.float64)
        return weights


def _nth(available: Bools, turn: Rows) -> Floats:
    """All weight on the turn'th available drafter, counting round and round."""
    turn = turn % np.maximum(available.sum(axis=1), 1)
    order = np.cumsum(available, axis=1) - 1  # each available drafter's place among them
    weights: Floats = (available & (order == turn[:, None])).astype(np.float64)
    return weights
