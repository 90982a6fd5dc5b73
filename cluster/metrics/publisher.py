"""A thread that gathers one process's samples every few seconds and hands them to both ways out.

The process itself only adds to plain numbers; what it costs to label, compare and send them is paid here. Target
replicas, the fleet and the ingress have one each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event, Thread

from paceline.cluster.config import MetricsConfig
from paceline.cluster.metrics.board import MetricBoard
from paceline.cluster.metrics.ray_export import RayExport
from paceline.cluster.metrics.samples import Samples

logger = logging.getLogger(__name__)

STALE_INTERVALS = 3.0
LEAST_STALE_S = 10.0
_EXIT_WAIT_S = 2.0


def board_of(application: str, settings: MetricsConfig) -> MetricBoard:
    """The board of an application's processes."""
    return MetricBoard(application, max(LEAST_STALE_S, STALE_INTERVALS * settings.interval_s))


class MetricPublisher:
    """Publishes what one process gathers; it starts at once, where the settings export anything.

    Args:
        source: The process's name, unique in the application.
        gather: Makes the samples; runs on the publisher's thread.
        application: Name of the Serve application.
        settings: Where to, and how often.
    """

    def __init__(self, source: str, gather: Callable[[], Samples], application: str, settings: MetricsConfig) -> None:
        self._source = source
        self._gather = gather
        self._interval_s = settings.interval_s
        self._board = board_of(application, settings) if "http" in settings.export else None
        self._ray = RayExport() if "ray" in settings.export else None
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="metrics", daemon=True)
        if settings.export:
            self._thread.start()

    def close(self) -> None:
        """Stop, and take the samples off the board."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_EXIT_WAIT_S)

    def _run(self) -> None:
        failed = False
        while not self._stopping.wait(self._interval_s):
            try:
                samples = self._gather()
                if self._ray is not None:
                    self._ray.publish(samples)
                if self._board is not None:
                    self._board.put(self._source, samples)
                failed = False
            except Exception:  # the thread's edge: metrics may be missing, the process they tell of goes on
                if not failed:
                    logger.exception("metrics could not be published; trying again every %.1f s", self._interval_s)
                failed = True
        if self._board is not None:
            try:
                self._board.remove(self._source)
            except Exception:  # Ray is going down with us
                logger.info("metrics were not taken off the board", exc_info=True)
