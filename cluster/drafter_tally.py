"""Statistics by drafter over the whole cluster: discounted mean acceptance and length, and what was played.

`Selector` feeds it; snapshots read it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paceline.actors.messages import DrafterStatistics, SequenceRound
from paceline.cluster.learner import Floats

MEMORY = 512.0  # positions


class Mean:
    """A discounted mean of values that come in batches; `memory` of them are remembered."""

    def __init__(self, memory: float = MEMORY) -> None:
        self._keep = 1.0 - 1.0 / memory
        self._sum = 0.0
        self._count = 0.0

    def add(self, values: npt.NDArray[np.floating]) -> None:
        """Note values; those of one batch count alike."""
        keep = self._keep ** len(values)
        self._sum = keep * self._sum + float(values.sum())
        self._count = keep * self._count + len(values)

    @property
    def state(self) -> tuple[float, float]:
        """Discounted sum and count."""
        return self._sum, self._count

    def restore(self, total: float, count: float) -> None:
        """Go on from another mean's state."""
        self._sum, self._count = total, count

    @property
    def value(self) -> float:
        """The mean; NaN before the first value."""
        return self._sum / self._count if self._count else float("nan")


class DrafterTally:
    """One drafter's statistics, over the last `memory` positions or so."""

    def __init__(self, memory: float = MEMORY) -> None:
        self.gamma = Mean(memory)
        self.starts = Mean(memory)
        self.scored = 0
        self.rounds = 0
        self.drafted = 0
        self.accepted = 0

    def scores(self, gammas: npt.NDArray[np.float32]) -> None:
        """Note gammas of positions that had none."""
        self.gamma.add(gammas)
        self.scored += len(gammas)

    def released(self, starts: Floats) -> None:
        """Note the chances that rounds of its own begin, [positions]; NaN where the drafter slept."""
        self.starts.add(starts[~np.isnan(starts)])

    @property
    def eal(self) -> float:
        """Tokens of a round, had it drafted alone: positions over the rounds that would have begun there; NaN before
        the first."""
        return 1.0 / self.starts.value if self.starts.value else float("nan")

    def played(self, played: SequenceRound) -> None:
        """Note a round that the drafter drafted."""
        self.rounds += 1
        self.drafted += played.drafted
        self.accepted += played.accepted

    def statistics(self, drafter: str, weight: float, draft_ms: float) -> DrafterStatistics:
        """As a snapshot shows them: unknown means are 0."""
        gamma, eal, ms = (0.0 if np.isnan(x) else float(x) for x in (self.gamma.value, self.eal, draft_ms))
        return DrafterStatistics(drafter, self.scored, gamma, eal, weight, self.rounds, self.drafted, self.accepted, ms)
