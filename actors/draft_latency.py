"""How long to wait for one drafter's drafts, from how long it took before.

The first few rounds get the whole deadline. From then on a drafter that stalls costs a few of its own usual latencies,
not the cluster's deadline. Each drafter of a `session_pool` has one.
"""

from __future__ import annotations

SMOOTHING = 0.2
MEASURED_ENOUGH = 5
PATIENCE = 4.0
SPREADS = 4.0
# A stall is paid for once: the drafter is not asked again until its answer came. A draft lost to jitter costs more.
MARGIN_S = 0.02


class DraftLatency:
    """Exponentially smoothed latency of one drafter, Propose sent to Draft received, and its mean deviation.

    Args:
        deadline_s: Most that is ever waited.
    """

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._measured = 0
        self._latency_s = 0.0
        self._spread_s = 0.0
        self._length = 0.0

    def observe(self, latency_s: float, length: int) -> None:
        """Learn from one answer, in time or late, to a request whose longest draft had `length` tokens."""
        self._measured += 1
        share = max(SMOOTHING, 1.0 / self._measured)
        off_s = latency_s - self._latency_s
        self._latency_s += share * off_s
        if self._measured > 1:
            self._spread_s += share * (abs(off_s) - self._spread_s)
        self._length += share * (length - self._length)

    @property
    def usual_s(self) -> float | None:
        """The smoothed latency; None while too few answers were timed."""
        return self._latency_s if self._measured >= MEASURED_ENOUGH else None

    def patience_s(self, length: int) -> float:
        """How long to wait for drafts of `length` tokens: longer drafts than usual take proportionally longer."""
        if self._measured < MEASURED_ENOUGH:
            return self.deadline_s
        longer = max(1.0, (length + 1.0) / (self._length + 1.0))
        usual_s = PATIENCE * longer * self._latency_s + SPREADS * self._spread_s
        return min(self.deadline_s, usual_s + MARGIN_S)
