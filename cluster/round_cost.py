"""What a round costs, fitted online from what targets measured, and the loss that follows from it.

The aim is the least time for a text, and a drafter alone takes as long for it as its rounds are many and long. With
u_i(t) the chance that a round of the drafter's own begins at position t (`round_chain`) and T_i what its rounds take,

    loss_i(t) = 3 u_i(t) T_i / T_min,

which sums to just that, in thirds of the fastest drafter's rounds. The obvious loss, (T_draft + T_verify) / EAL
averaged over positions, does not: it averages reciprocals, and counts a run of right tokens once for each of them. The
unit matters to learners with a rate (Hedge, AdaNormalHedge): their papers' rates are for losses that may differ by 1 at
every position, and those of drafters differ by a third of a round or less. NormalHedge has none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal

import numpy as np

from paceline.actors.messages import DraftTiming
from paceline.cluster.learner import Floats

WARM_UP = 2  # first measurements of each kind that do not count: caches fill, kernels compile
WINDOW = 32  # measurements remembered
ROUND = 3.0  # what a round counts as a loss


class Fit:
    """Milliseconds as a line over work (tokens drafted in one call), by a window of measurements.

    Values beyond three times the window's median are cut to it: a stalled machine is not a slow drafter. The line lets
    drafters be compared at the same load; without it, the drafter that most sequences use looks slow for that alone.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._points: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._line: tuple[float, float] | None = None

    def add(self, work: float, ms: float) -> None:
        """Note one measurement."""
        self._seen += 1
        if self._seen > WARM_UP:
            self._points.append((work, ms))
            self._line = None

    @property
    def points(self) -> list[tuple[float, float]]:
        """The window: work and milliseconds."""
        return list(self._points)

    def restore(self, points: Sequence[tuple[float, float]]) -> None:
        """Go on from another fit's window."""
        self._points.extend(points)
        self._seen = max(self._seen, WARM_UP) if points else self._seen
        self._line = None

    def at(self, work: float) -> float | None:
        """Expected milliseconds for this much work; None before the warm-up is over."""
        if not self._points:
            return None
        if self._line is None:
            self._line = self._fitted()
        base, slope = self._line
        return base + slope * work

    def _fitted(self) -> tuple[float, float]:
        work, ms = np.array(self._points).T
        middle = float(np.median(ms))
        ms = np.minimum(ms, 3.0 * middle)
        spread = float(work.var())
        slope = float(((work - work.mean()) * (ms - ms.mean())).mean()) / spread if spread > 0 else 0.0
        # Time neither falls with work, nor grows faster than in proportion to it.
        slope = min(max(slope, 0.0), middle / max(float(np.median(work)), 1.0))
        return float(np.median(ms - slope * work)), slope


class RoundCost:
    """Milliseconds of a round by drafter, at the load of recent rounds."""

    def __init__(self) -> None:
        self._drafts: list[Fit] = []
        self._verify = Fit()
        self._loads: deque[int] = deque(maxlen=WINDOW)
        self._round_ms: Floats | None = None
        self._fresh = False  # whether `_round_ms` is of the newest measurement

    def join(self) -> None:
        """A new drafter takes the next column."""
        self._drafts.append(Fit())
        self._fresh = False

    def measured(self, timings: Sequence[tuple[int, DraftTiming]], verify_ms: float) -> None:
        """Note one round: (column, timing) of each drafter that drafted, and the target's time (0: not measured)."""
        self._fresh = False
        load = 0
        for column, timing in timings:
            work = timing.sequences * timing.length
            load += work
            self._drafts[column].add(work, timing.draft_ms)
        if load > 0:
            self._loads.append(load)
            if verify_ms > 0:
                self._verify.add(0.0, verify_ms)

    def draft_points(self, column: int) -> list[tuple[float, float]]:
        """What a drafter's fit stands on."""
        return self._drafts[column].points

    def verify_points(self) -> tuple[list[tuple[float, float]], list[int]]:
        """What the target's fit stands on, and recent loads."""
        return self._verify.points, list(self._loads)

    def restore_draft(self, column: int, points: Sequence[tuple[float, float]]) -> None:
        """Go on from another life's fit of a drafter."""
        self._drafts[column].restore(points)
        self._fresh = False

    def restore_verify(self, points: Sequence[tuple[float, float]], loads: Sequence[int]) -> None:
        """Go on from another life's fit of the target."""
        self._verify.restore(points)
        self._loads.extend(loads)
        self._fresh = False

    def draft_ms(self) -> Floats:
        """Expected drafting time if a drafter drafted for everyone, [drafters]; NaN where it was never measured."""
        load = float(np.median(self._loads)) if self._loads else 0.0
        fitted = [fit.at(load) for fit in self._drafts]
        return np.array([np.nan if ms is None else ms for ms in fitted], dtype=np.float64)

    def round_ms(self) -> Floats | None:
        """Expected time of a whole round by drafter, [drafters]; None while too little was measured to tell.

        A drafter that was never measured is taken to be as fast as the fastest, so that it gets its chance to be.
        """
        if not self._fresh:
            self._round_ms = self._fitted()
            self._fresh = True
        return self._round_ms

    def _fitted(self) -> Floats | None:
        verify = self._verify.at(0.0)
        draft = self.draft_ms()
        if verify is None or np.isnan(draft).all():
            return None
        result: Floats = verify + np.maximum(np.where(np.isnan(draft), np.nanmin(draft), draft), 0.0)
        return result


class RoundLoss:
    """Turns the beginnings of drafters' own rounds into losses, by the configured aim.

    Args:
        aim: `eal` counts rounds, whatever they take; `time` is the loss of this module's docstring.
        cost: Where round times come from.
    """

    def __init__(self, aim: Literal["time", "eal"], cost: RoundCost) -> None:
        self._aim = aim
        self._cost = cost

    def losses(self, starts: Floats) -> Floats:
        """Losses [positions, drafters] of u, NaN where that is NaN; rounds alone count until one was measured."""
        round_ms = self._cost.round_ms() if self._aim == "time" else None
        if round_ms is None:
            return ROUND * starts
        result: Floats = starts * (ROUND * round_ms / round_ms.min())
        return result
