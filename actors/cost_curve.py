"""Milliseconds by amount of work, learned online from what was measured, and hard to mislead.

The time of a forward over its positions, of a draft over its tokens. It is no line: a kernel that works in blocks of
four takes a step at every fifth position, and what a step costs decides how long a draft should be. Measurements of one
amount displace only one another, so a long stretch of rounds of one size does not forget what the other sizes cost.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Sequence
from statistics import median

WARM_UP = 2  # first measurements that do not count: caches fill, kernels compile
WINDOW = 16  # measurements remembered of one amount of work
AMOUNTS = 32  # amounts of work remembered
EVERY = 4  # measurements after which the curve is drawn anew


class CostCurve:
    """One curve, which never falls. The median of an amount stands for it: a stalled machine is not a dear step.

    Args:
        amounts: Amounts of work remembered, those measured last.
        lasting: Measurements after which an amount that was not measured again is forgotten; None keeps it.
    """

    def __init__(self, amounts: int = AMOUNTS, lasting: int | None = None) -> None:
        self._amounts = amounts
        self._lasting = lasting
        self._seen = 0
        self._times: OrderedDict[int, deque[float]] = OrderedDict()  # the amount measured longest ago first
        self._last: dict[int, int] = {}  # amount -> `_seen` when it was last measured
        self._curve: tuple[list[int], list[float]] | None = None

    def add(self, work: int, ms: float) -> None:
        """Note one measurement."""
        self._seen += 1
        if self._seen <= WARM_UP:
            return
        if work not in self._times:
            self._times[work] = deque(maxlen=WINDOW)
            self._curve = None
        self._times[work].append(ms)
        self._times.move_to_end(work)
        self._last[work] = self._seen
        oldest = next(iter(self._times))
        late = self._lasting is not None and self._seen - self._last[oldest] > self._lasting
        if late or len(self._times) > self._amounts:
            del self._times[oldest], self._last[oldest]
            self._curve = None
        if self._seen % EVERY == 0:
            self._curve = None

    def at(self, work: int) -> float | None:
        """Expected milliseconds for this much work; None before the warm-up is over.

        Between measured amounts it is a line; below the least it is flat, and beyond the most in proportion to what the
        measured range costs.
        """
        if not self._times:
            return None
        amounts, times = self.points
        if work <= amounts[0]:
            return times[0]
        if work > amounts[-1]:
            width = amounts[-1] - amounts[0]
            slope = (times[-1] - times[0]) / width if width else times[-1] / max(amounts[-1], 1)
            return times[-1] + slope * (work - amounts[-1])
        right = bisect_left(amounts, work)
        left = right - 1
        share = (work - amounts[left]) / (amounts[right] - amounts[left])
        return times[left] + share * (times[right] - times[left])

    @property
    def points(self) -> tuple[list[int], list[float]]:
        """The amounts that were measured, ascending, and their milliseconds; empty before the warm-up is over."""
        if self._curve is None:
            self._curve = self._drawn()
        return self._curve

    def restore(self, points: Sequence[tuple[float, float]]) -> None:
        """Go on from another curve's points."""
        for work, ms in points:
            self._seen = max(self._seen, WARM_UP)
            self.add(round(work), ms)

    def _drawn(self) -> tuple[list[int], list[float]]:
        """Medians by amount, made monotone: neighbours in the wrong order share their mean, by how often each was
        measured (pool adjacent violators)."""
        amounts = sorted(self._times)
        pools: list[tuple[float, int, int]] = []  # mean, measurements, amounts
        for amount in amounts:
            mean, count, width = median(self._times[amount]), len(self._times[amount]), 1
            while pools and pools[-1][0] > mean:
                before, held, wide = pools.pop()
                mean = (mean * count + before * held) / (count + held)
                count, width = count + held, width + wide
            pools.append((mean, count, width))
        return amounts, [mean for mean, _, width in pools for _ in range(width)]
