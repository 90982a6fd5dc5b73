"""Notices that whoever asked for generations has died, so that they end instead of being decoded for nobody.

A client that leaves cancels its stream; an ingress that is killed cancels nothing. `target_replica` keeps one watch.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable

logger = logging.getLogger(__name__)


class CallerWatch:
    """Looks at the callers of running generations every so often, on a thread of its own.

    Args:
        gone: Whether a caller is dead; asked only of those with running generations.
        abort: Ends a generation by its id.
        every_s: Seconds between looks.
    """

    def __init__(self, gone: Callable[[str], bool], abort: Callable[[str], None], every_s: float = 2.0) -> None:
        self._gone = gone
        self._abort = abort
        self._every_s = every_s
        self._running: defaultdict[str, set[str]] = defaultdict(set)  # ids by caller
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="caller-watch", daemon=True).start()

    def begun(self, caller: str, request_id: str) -> None:
        """A generation runs for a caller; an empty caller is not watched."""
        if caller:
            with self._lock:
                self._running[caller].add(request_id)

    def ended(self, caller: str, request_id: str) -> None:
        """It runs no more."""
        with self._lock:
            self._running[caller].discard(request_id)
            if not self._running[caller]:
                del self._running[caller]

    def close(self) -> None:
        """Stop looking."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._every_s):
            with self._lock:
                callers = list(self._running)
            for caller in callers:
                try:
                    self._end_of(caller)
                except Exception:  # the loop's edge: the next look may go better
                    logger.exception("the generations of %s could not be looked after", caller)

    def _end_of(self, caller: str) -> None:
        if not self._gone(caller):
            return
        with self._lock:
            left = self._running[caller]
        logger.warning("%s has died; ending its %d generations", caller, len(left))
        for request_id in list(left):
            self.ended(caller, request_id)
            self._abort(request_id)
