"""Who pulls: the interface of every selection policy, the three that do not learn, and the registry of names.

A policy maps sequences (rows) and drafters (columns) to weights. It sees losses position by position and rounds as they
are reported; it knows no sockets, no clocks and no names beyond those that join. `Selector` is its only caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from paceline.actors.errors import ConfigError
from paceline.cluster.config import SelectorConfig
from paceline.cluster.learned_policy import LearnedPolicy
from paceline.cluster.normalhedge import Bools, Floats, Rows


class Policy(Protocol):
    """Weights over drafters, for every sequence."""

    def join(self, drafter: str) -> None:
        """A new drafter takes the next column."""
        ...

    def open(self, row: int, route: str) -> None:
        """A new sequence takes a row that was never used, or that was closed."""
        ...

    def close(self, row: int) -> None:
        """The row's sequence ended."""
        ...

    def learn(self, rows: Rows, losses: Floats, allowed: Bools) -> None:
        """Each of `rows` released one position: losses [rows, drafters] in [0, 1], NaN where a drafter sleeps.

        `allowed` [rows, drafters] tells which drafters the sequence may use at all.
        """
        ...

    def played(self, row: int) -> None:
        """The sequence finished a round."""
        ...

    def weights(self, rows: Rows, available: Bools) -> Floats:
        """Weights [rows, drafters]; rows sum to 1 over the available drafters, or are zero: plain decoding."""
        ...

    def prior(self, available: Bools) -> Floats:
        """Weights [drafters] of a sequence that has none of its own yet; `available` is [drafters]."""
        ...


class Uniform:
    """Every available drafter alike."""

    def join(self, drafter: str) -> None:
        """Nothing to keep."""

    def open(self, row: int, route: str) -> None:
        """Nothing to keep."""

    def close(self, row: int) -> None:
        """Nothing to keep."""

    def learn(self, rows: Rows, losses: Floats, allowed: Bools) -> None:
        """Nothing to learn."""

    def played(self, row: int) -> None:
        """Nothing to keep."""

    def weights(self, rows: Rows, available: Bools) -> Floats:
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

    def weights(self, rows: Rows, available: Bools) -> Floats:
        """See `Policy`."""
        chosen = np.array([name == self._drafter for name in self._names], dtype=np.bool_)
        return (available & chosen).astype(np.float64)


class RoundRobin(Uniform):
    """Every available drafter in turn, one round each, for each sequence by itself."""

    def __init__(self, max_sequences: int) -> None:
        self._turn = np.zeros(max_sequences, dtype=np.int64)

    def open(self, row: int, route: str) -> None:
        """See `Policy`."""
        self._turn[row] = 0

    def played(self, row: int) -> None:
        """See `Policy`."""
        self._turn[row] += 1

    def weights(self, rows: Rows, available: Bools) -> Floats:
        """See `Policy`."""
        turn = self._turn[rows] % np.maximum(available.sum(axis=1), 1)
        order = np.cumsum(available, axis=1) - 1  # each available drafter's place among them
        weights: Floats = (available & (order == turn[:, None])).astype(np.float64)
        return weights

    def prior(self, available: Bools) -> Floats:
        """See `Policy`: a new sequence starts with the first."""
        weights: Floats = (available & (np.cumsum(available) == 1)).astype(np.float64)
        return weights


def _fixed(config: SelectorConfig) -> Policy:
    if config.drafter is None:
        raise ConfigError("selector.drafter: policy `fixed` needs the name of the drafter to play, got nothing")
    return Fixed(config.drafter)


_POLICIES: dict[str, Callable[[SelectorConfig], Policy]] = {
    "normalhedge": lambda config: LearnedPolicy(config.max_sequences, config.discount, config.prior_weight),
    "fixed": _fixed,
    "round_robin": lambda config: RoundRobin(config.max_sequences),
    "uniform": lambda _: Uniform(),
}


def build_policy(config: SelectorConfig) -> Policy:
    """The policy that a configuration names.

    Raises:
        ConfigError: it lacks what the policy needs.
    """
    return _POLICIES[config.policy](config)
