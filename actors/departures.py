"""How fast requests end, and so when it is worth coming back to a full queue.

With one answer for all ("in a second") two hundred clients ask two hundred times a second, and each refusal costs cores
that the target needs. The engine notes who leaves; those whom it refuses are told to come back when half of those who
wait should have been admitted: then there is room, and the queue has not run empty.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_REMEMBERED = 32  # departures
_SOONEST_S, _LATEST_S = 1.0, 30.0


class Departures:
    """Times at which requests ended; not thread-safe, the engine holds its lock.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: deque[float] = deque(maxlen=_REMEMBERED)

    def note(self) -> None:
        """One has ended."""
        self._times.append(self._clock())

    def retry_after_s(self, waiting: int) -> float:
        """When to come back to a queue of so many: 1 to 30 seconds; 1 while too few have ended to tell."""
        if len(self._times) < 2:
            return _SOONEST_S
        # Up to now, not up to the last one: where nothing has ended for long, that counts.
        rate = (len(self._times) - 1) / max(self._clock() - self._times[0], 1e-3)
        return min(max(waiting / 2 / rate, _SOONEST_S), _LATEST_S)
