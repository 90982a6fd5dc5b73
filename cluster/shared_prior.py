"""What all sequences together teach about the drafters: one slow learner per route, and one for the whole cluster.

A learner that starts from nothing wastes the first 50 to 100 tokens of every request. These have a memory of hundreds
of positions over all sequences, and a new sequence starts from a share of what they know, scaled to what a sequence's
shorter memory would hold. They learn from every sequence, whatever its policy. Held by `policy_mix`; read by
`learned_policy`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from paceline.cluster.learner import Bools, Floats, Start
from paceline.cluster.normalhedge import NormalHedge

PRIOR_MEMORY = 512  # positions, over all of a route's sequences
MAX_ROUTES = 256

_CLUSTER = 0  # the row of the cluster as a whole


class SharedPrior:
    """NormalHedge learners by route; the least recently used route makes room for a new one."""

    def __init__(self) -> None:
        self._learners = NormalHedge(1 + MAX_ROUTES, 1.0 - 1.0 / PRIOR_MEMORY)
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
        """Each route released a position, with losses [routes, drafters]; an empty route teaches the cluster alone."""
        self._learn(_CLUSTER, losses)
        for route in set(routes) - {""}:
            self._learn(self._row(route), losses[np.array([name == route for name in routes])])

    def start(self, route: str, share: float, discount: float) -> Start:
        """What a new sequence of this route starts from, where it trusts the prior by `share` and forgets by
        `discount`."""
        row = self._row(route)
        memory = PRIOR_MEMORY if discount == 1.0 else min(1.0 / (1.0 - discount), PRIOR_MEMORY)
        scale = share * memory / PRIOR_MEMORY
        regret = self._learners.regret(row)
        law = self._weights(row, np.ones(len(regret), dtype=np.bool_))
        return Start(scale * regret, share * law + (1.0 - share) / max(len(law), 1), scale * self._positions[row])

    def weights(self, available: Bools) -> Floats:
        """What a sequence of no particular route would start from, [drafters]."""
        return self._weights(_CLUSTER, available)

    def _weights(self, row: int, available: Bools) -> Floats:
        weights: Floats = self._learners.weights(np.array([row]), available[None])[0]
        return weights

    def _learn(self, row: int, losses: Floats) -> None:
        self._learners.learn(np.full(len(losses), row, dtype=np.intp), losses)
        self._positions[row] = (1.0 - 1.0 / PRIOR_MEMORY) ** len(losses) * self._positions[row] + len(losses)

    def _row(self, route: str) -> int:
        """The route's row. A new route starts from what the cluster knows."""
        if not route:
            return _CLUSTER
        if route not in self._rows:
            row = self._rows.popitem(last=False)[1] if self.routes >= MAX_ROUTES else 1 + self.routes
            self._rows[route] = row
            start = Start(self._learners.regret(_CLUSTER), np.empty(0), 0.0)
            self._learners.reset(row, start)
            self._positions[row] = self._positions[_CLUSTER]
        self._rows.move_to_end(route)
        return self._rows[route]
