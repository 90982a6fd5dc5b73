"""`GET /metrics`: all of an application's metrics as Prometheus scrapes them.

The ingress's own samples and those that the other processes left on the board, as one. Counters live as long as the
ingress does: what a target counted before it died stays counted.
"""

from __future__ import annotations

import asyncio

from fastapi import Request
from fastapi.responses import Response

from paceline.cluster.backend import Backend
from paceline.cluster.metrics.request_metrics import RequestMetrics
from paceline.cluster.metrics.samples import Totals
from paceline.cluster.metrics.text import CONTENT_TYPE, exposition

_OWN = "own"


class MetricsEndpoint:
    """The endpoint over a backend.

    Args:
        backend: Tells the samples of all other processes.
        requests: This process's own.
    """

    def __init__(self, backend: Backend, requests: RequestMetrics) -> None:
        self._backend = backend
        self._requests = requests
        self._totals = Totals()
        self._one_at_a_time = asyncio.Lock()

    async def metrics(self, _: Request) -> Response:
        """The page."""
        async with self._one_at_a_time:
            found = {**await self._backend.metrics(), _OWN: self._requests.gather()}
            for source, samples in found.items():
                self._totals.take(source, samples)
            self._totals.keep(found)
            return Response(exposition(self._totals.samples()), media_type=CONTENT_TYPE)
