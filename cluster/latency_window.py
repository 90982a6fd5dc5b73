"""Percentiles of what streaming clients waited for in the last seconds: the first token, and each one after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

WINDOW_S = 30.0
MOST = 1024  # samples of each kind; of more, the oldest go


class LatencyWindow:
    """Time to first token, and inter-token latency: the time between two rounds' texts, shared by the later one's
    tokens, each of which counts."""

    def __init__(self) -> None:
        self._first: deque[tuple[float, float, int]] = deque(maxlen=MOST)  # when, milliseconds, tokens
        self._tokens: deque[tuple[float, float, int]] = deque(maxlen=MOST)

    def first(self, now_s: float, ms: float) -> None:
        """A first token came."""
        self._first.append((now_s, ms, 1))

    def tokens(self, now_s: float, ms: float, tokens: int) -> None:
        """So many tokens came, each after so long."""
        self._tokens.append((now_s, ms, tokens))

    def percentiles(self, now_s: float) -> dict[str, Any]:
        """`ttft_ms` and `token_ms` as [p50, p99] over the window before a moment; null where nothing came."""
        for samples in (self._first, self._tokens):
            while samples and samples[0][0] < now_s - WINDOW_S:
                samples.popleft()
        return {"ttft_ms": _percentiles(self._first), "token_ms": _percentiles(self._tokens)}


def _percentiles(samples: Iterable[tuple[float, float, int]]) -> list[float] | None:
    """The smallest values that at least half, and 99 of 100, of the tokens do not exceed."""
    ordered = sorted((ms, count) for _, ms, count in samples)
    total = sum(count for _, count in ordered)
    if not total:
        return None
    found, seen = [], 0
    shares = [0.5, 0.99]
    for ms, count in ordered:
        seen += count
        while shares and seen >= shares[0] * total:
            found.append(round(ms, 2))
            shares.pop(0)
    return found
