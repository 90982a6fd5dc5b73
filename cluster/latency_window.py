"""Percentiles of what clients waited for in the last seconds: a place, the first token, each one after it, the end.

First tokens and those after them are those of streams: of other answers nobody sees them come. How long requests waited
for a place only the target knows, which counts by bucket; `bucket_percentiles` reads that.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

WINDOW_S = 30.0
MOST = 1024  # samples of each kind; of more, the oldest go
OF_REQUESTS = (0.5, 0.95)  # few enough in a window for a rarer one to be the slowest of all
OF_TOKENS = (0.5, 0.99)
_Samples = deque[tuple[float, float, int]]  # when, milliseconds, how many


class LatencyWindow:
    """Time to first token; inter-token latency: the time between two rounds' texts, shared by the later one's tokens,
    each of which counts; and time from a request's arrival to its answer's end."""

    def __init__(self) -> None:
        self._first: _Samples = deque(maxlen=MOST)
        self._tokens: _Samples = deque(maxlen=MOST)
        self._whole: _Samples = deque(maxlen=MOST)

    def first(self, now_s: float, ms: float) -> None:
        """A first token came."""
        self._first.append((now_s, ms, 1))

    def tokens(self, now_s: float, ms: float, tokens: int) -> None:
        """So many tokens came, each after so long."""
        self._tokens.append((now_s, ms, tokens))

    def whole(self, now_s: float, ms: float) -> None:
        """An answer came to its end."""
        self._whole.append((now_s, ms, 1))

    def percentiles(self, now_s: float) -> dict[str, Any]:
        """`ttft_ms` and `whole_ms` as [p50, p95], `token_ms` as [p50, p99], over the window before a moment; null where
        nothing came."""
        for samples in (self._first, self._tokens, self._whole):
            while samples and samples[0][0] < now_s - WINDOW_S:
                samples.popleft()
        return {
            "ttft_ms": _percentiles(self._first, OF_REQUESTS),
            "token_ms": _percentiles(self._tokens, OF_TOKENS),
            "whole_ms": _percentiles(self._whole, OF_REQUESTS),
        }


def bucket_percentiles(bounds_s: Sequence[float], counts: Sequence[int]) -> list[float] | None:
    """[p50, p95] in milliseconds of durations that were counted by bucket; None of none.

    Within a bucket they are taken to lie evenly, as Prometheus' `histogram_quantile` does; above the last bound they
    are told as that bound.

    Args:
        bounds_s: Upper bounds in seconds, ascending.
        counts: [bounds + 1], as in `HistogramCount`.
    """
    seen = list(accumulate(counts))
    if not seen[-1]:
        return None
    found = []
    for share in OF_REQUESTS:
        rank = share * seen[-1]
        place = bisect_left(seen, rank)
        if place == len(bounds_s):
            found.append(bounds_s[-1] * 1e3)
            continue
        below_s = bounds_s[place - 1] if place else 0.0
        inside = (rank - (seen[place] - counts[place])) / counts[place]
        found.append(round((below_s + inside * (bounds_s[place] - below_s)) * 1e3, 2))
    return found


def _percentiles(samples: Iterable[tuple[float, float, int]], shares: Sequence[float]) -> list[float] | None:
    """The smallest values that at least such shares of what was counted do not exceed."""
    ordered = sorted((ms, count) for _, ms, count in samples)
    total = sum(count for _, count in ordered)
    if not total:
        return None
    found: list[float] = []
    seen = 0
    for ms, count in ordered:
        seen += count
        while len(found) < len(shares) and seen >= shares[len(found)] * total:
            found.append(round(ms, 2))
    return found
