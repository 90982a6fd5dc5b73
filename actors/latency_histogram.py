"""Durations counted by bucket: what a Prometheus histogram is made of, with nothing of Prometheus in it.

One `bisect` and two additions per observation, so that it may stand on a round's path. One thread observes; `count` may
be read by any, and is then at most one observation behind.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

# Upper bounds in seconds. A drafter answers in 0.3 ms to a quarter of a second; a token takes from 1 ms to seconds.
DRAFT_BOUNDS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
TOKEN_BOUNDS_S = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)
FIRST_TOKEN_BOUNDS_S = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 15.0, 30.0, 60.0)
REQUEST_BOUNDS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True, slots=True)
class HistogramCount:
    """A histogram at one moment. `counts[i]` are observations above bound i - 1, up to bound i; the last is open."""

    counts: tuple[int, ...]  # [bounds + 1]
    sum_s: float

    @property
    def total(self) -> int:
        """Observations."""
        return sum(self.counts)


class LatencyHistogram:
    """Observations by upper bound.

    Args:
        bounds_s: Seconds, ascending.

    Raises:
        ValueError: the bounds do not ascend, or there are none.
    """

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        if not bounds_s or list(bounds_s) != sorted(set(bounds_s)):
            raise ValueError(f"bounds_s: {bounds_s}; expected ascending seconds")
        self.bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Note a duration, `times` over."""
        self._counts[bisect_left(self.bounds_s, seconds)] += times
        self._sum_s += seconds * times

    @property
    def count(self) -> HistogramCount:
        """All observations so far."""
        return HistogramCount(tuple(self._counts), self._sum_s)
