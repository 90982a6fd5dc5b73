"""The policy that learns: a NormalHedge learner per sequence, and slower ones per route that new sequences start from.

A learner that starts from nothing wastes the first 50 to 100 tokens of every request. So each route (and the cluster as
a whole) has a learner of its own, with a memory of hundreds of positions over all sequences, and a new sequence starts
from a share of its regrets, scaled to what a sequence's shorter memory would hold.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from paceline.cluster.normalhedge import Bools, Floats, NormalHedge, Rows

PRIOR_MEMORY = 512  # positions, over all of a route's sequences
MAX_ROUTES = 256

_CLUSTER = 0  # the row, among the priors, of the cluster as a whole


class LearnedPolicy:
    """NormalHedge, discounted, started from a prior. Implements `Policy`.

    Args:
        max_sequences: Rows.
        discount: Of a sequence's regret, per released position.
        prior_weight: Share of the route's regret that a new sequence starts from.
    """

    def __init__(self, max_sequences: int, discount: float, prior_weight: float) -> None:
        self._hedge = NormalHedge(max_sequences, discount)
        self._priors = NormalHedge(1 + MAX_ROUTES, 1.0 - 1.0 / PRIOR_MEMORY)
        memory = PRIOR_MEMORY if discount == 1.0 else min(1.0 / (1.0 - discount), PRIOR_MEMORY)
        self._scale = prior_weight * memory / PRIOR_MEMORY
        self._routes: OrderedDict[str, int] = OrderedDict()  # route -> row among the priors, oldest use first
        self._route_of: dict[int, str] = {}

    @property
    def routes(self) -> int:
        """Routes that have a prior of their own."""
        return len(self._routes)

    def join(self, drafter: str) -> None:
        """See `Policy`."""
        self._hedge.join()
        self._priors.join()

    def open(self, row: int, route: str) -> None:
        """See `Policy`."""
        self._route_of[row] = route
        self._hedge.reset(row, self._scale * self._priors.regret(self._prior_row(route)))

    def close(self, row: int) -> None:
        """See `Policy`."""
        del self._route_of[row]

    def learn(self, rows: Rows, losses: Floats, allowed: Bools) -> None:
        """See `Policy`. What a sequence may not use is still news for the priors."""
        self._hedge.learn(rows, np.where(allowed, losses, np.nan))
        self._priors.learn_many(_CLUSTER, losses)
        routes = [self._route_of[int(row)] for row in rows]
        for route in {route for route in routes if route}:
            mine = np.array([name == route for name in routes])
            self._priors.learn_many(self._prior_row(route), losses[mine])

    def played(self, row: int) -> None:
        """Nothing to keep: losses tell all."""

    def weights(self, rows: Rows, available: Bools) -> Floats:
        """See `Policy`."""
        return self._hedge.weights(rows, available)

    def prior(self, available: Bools) -> Floats:
        """See `Policy`: what a sequence of no particular route would start from."""
        if self._scale == 0.0:
            uniform: Floats = available / max(int(available.sum()), 1)
            return uniform
        weights: Floats = self._priors.weights(np.array([_CLUSTER]), available[None])[0]
        return weights

    def _prior_row(self, route: str) -> int:
        """The route's row. A new route starts from the cluster's regrets, and may take the least recently used row."""
        if not route:
            return _CLUSTER
        if route not in self._routes:
            full = len(self._routes) >= MAX_ROUTES
            self._routes[route] = self._routes.popitem(last=False)[1] if full else 1 + len(self._routes)
            self._priors.reset(self._routes[route], self._priors.regret(_CLUSTER))
        self._routes.move_to_end(route)
        return self._routes[route]
