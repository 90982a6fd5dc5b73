"""Statistics by drafter over the whole cluster: discounted mean acceptance and length, and what was played.

`Selector` feeds it; snapshots read it.
"""

from __future__ import annotations

import numpy as np

from paceline.actors.messages import DrafterStatistics, SequenceRound

MEMORY = 512.0  # positions


class Mean:
    """A discounted mean of values that come in batches; `memory` of them are remembered."""

    def __init__(self, memory: float = MEMORY) -> None:
        self._keep = 1.0 - 1.0 / memory
        self._sum = 0.0
        self._count = 0.0

    def add(self, total: float, count: int) -> None:
        """Note so many values by their sum; those of one batch count alike."""
        keep = self._keep**count
        self._sum = keep * self._sum + total
        self._count = keep * self._count + count

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

    def scores(self, total: float, count: int) -> None:
        """Note gammas of positions that had none, by their sum."""
        self.gamma.add(total, count)
        self.scored += count

    def released(self, total: float, count: int) -> None:
        """Note at how many positions it was awake, and how many rounds of its own are expected to begin there."""
        self.starts.add(total, count)

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
