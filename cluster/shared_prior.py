"""What all sequences together teach about the drafters: one slow learner per route, and one for the whole cluster.

A learner that starts from nothing wastes the first 50 to 100 tokens of every request. These have a memory of hundreds
of positions over all sequences, and a new sequence starts from a share of what they know, scaled to what a sequence's
shorter memory would hold. They learn from every sequence, whatever its policy. Held by `policy_mix`; read by
`learned_policy`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from paceline.cluster.learner import Bools, Floats, Prices, Rows, Start
from paceline.cluster.normalhedge import NormalHedge

MAX_ROUTES = 256

_CLUSTER = 0  # the row of the cluster as a whole


class Known(NamedTuple):
    """What is known of one drafter: a column of a `learner.Start`."""

    booked: Floats
    played: Floats
    paid: float
    met: float


class SharedPrior:
    """NormalHedge learners by route; the least recently used route makes room for a new one.

    Args:
        memory: Positions that are remembered, over all of a route's sequences.
        options: As a `Learner` has them.
        prices: As a `Learner` has them; its rows are this prior's.
    """

    def __init__(self, memory: int = 512, options: int = 1, prices: Prices | None = None) -> None:
        self._memory = memory
        self._options = options
        self._learners = NormalHedge(1 + MAX_ROUTES, 1.0 - 1.0 / memory, options, prices)
        self._positions: Floats = np.zeros(1 + MAX_ROUTES)
        self._rows: OrderedDict[str, int] = OrderedDict()  # route -> row, oldest use first

    @property
    def routes(self) -> int:
        """Routes that have a learner of their own."""
        return len(self._rows)

    def join(self) -> None:
        """A new drafter takes the next column."""
        self._learners.join()

    def learn(self, routes: Sequence[str], losses: Floats) -> None:
        """Each route released a position, with losses [routes, drafters], or with options; an empty route teaches the
        cluster alone."""
        self._learn(_CLUSTER, losses)
        for route in set(routes) - {""}:
            mine = np.array([name == route for name in routes])
            self._learn(self._row(route), losses[mine])

    def start(self, route: str, share: float, discount: float) -> Start:
        """What a new sequence of this route starts from, where it trusts the prior by `share` and forgets by
        `discount`."""
        row = self._row(route)
        scale = share * self.memory(discount) / self._memory
        faded = self._learners.memory(row, scale)
        law = self._outlook(row, np.ones(len(faded.booked), dtype=np.bool_))[0]
        even = (1.0 - share) / max(len(law), 1)
        return replace(faded, law=share * law + even, positions=scale * self._positions[row])

    def memory(self, discount: float) -> float:
        """Positions that a sequence with this discount remembers, but no more than this does."""
        return self._memory if discount == 1.0 else min(1.0 / (1.0 - discount), self._memory)

    def regrets(self) -> dict[str, Floats]:
        """Regrets [drafters] by route, the one used longest ago first; "" is the cluster. Without options only."""
        return {route: start.booked[:, 0] for route, start in self.memories().items()}

    def memories(self) -> dict[str, Start]:
        """All that is known by route, in the same order."""
        return {route: self._learners.memory(row) for route, row in {"": _CLUSTER, **self._rows}.items()}

    def positions(self) -> dict[str, float]:
        """What each is worth, in the same order."""
        return {route: float(self._positions[row]) for route, row in {"": _CLUSTER, **self._rows}.items()}

    def restore_positions(self, positions: Mapping[str, float]) -> None:
        """Go on from what another life's were worth; routes that are new here are made."""
        for route, amount in positions.items():
            self._positions[self._row(route)] = amount

    def restore(self, column: int, regrets: Mapping[str, float]) -> None:
        """Give a drafter its regrets of another life, by route. Without options only."""
        wide: Floats = np.zeros(self._options)
        self.remember(column, {route: Known(np.full(1, amount), wide, 0.0, 0.0) for route, amount in regrets.items()})

    def remember(self, column: int, known: Mapping[str, Known]) -> None:
        """Give a drafter what was known of it in another life, by route."""
        for route, item in known.items():
            row = self._row(route)
            start = self._learners.memory(row)
            if start.played is not None and start.paid is not None and start.met is not None:
                start.booked[column], start.played[column] = item.booked, item.played
                start.paid[column], start.met[column] = item.paid, item.met
            self._learners.reset(row, start)

    def weights(self, available: Bools) -> Floats:
        """What a sequence of no particular route would start from, [drafters]."""
        return self._outlook(_CLUSTER, available)[0]

    def outlook(self, available: Bools) -> tuple[Floats, Rows]:
        """As `weights`, and the option that each drafter would be played with, [drafters]."""
        return self._outlook(_CLUSTER, available)

    def _outlook(self, row: int, available: Bools) -> tuple[Floats, Rows]:
        weights, options = self._learners.outlook(np.array([row]), available[None])
        return weights[0], options[0]

    def _learn(self, row: int, losses: Floats) -> None:
        self._learners.learn(np.full(len(losses), row, dtype=np.intp), losses)
        self._positions[row] = (1.0 - 1.0 / self._memory) ** len(losses) * self._positions[row] + len(losses)

    def _row(self, route: str) -> int:
        """The route's row. A new route starts from what the cluster knows."""
        if not route:
            return _CLUSTER
        if route not in self._rows:
            row = self._rows.popitem(last=False)[1] if self.routes >= MAX_ROUTES else 1 + self.routes
            self._rows[route] = row
            self._learners.reset(row, self._learners.memory(_CLUSTER))
            self._positions[row] = self._positions[_CLUSTER]
        self._rows.move_to_end(route)
        return self._rows[route]
