"""How many tokens a round drafts offline: always as many, as many as were recorded, or by the target's own rule."""

from __future__ import annotations

from typing import Protocol

from paceline.actors.draft_length import Ask, DraftLength
from paceline.actors.messages import DraftTiming
from paceline.cluster.replay.fitted_times import FittedTimes
from paceline.cluster.replay.trajectory import PlayedRound, Trajectory


class LengthRule(Protocol):
    """How many tokens a round drafts."""

    def choose(self, trajectory: Trajectory, number: int, position: int, drafter: str, most: int) -> int:
        """0 to `most`; 0 decodes plainly."""
        ...

    def played(self, number: int, drafter: str, played: PlayedRound, times: FittedTimes) -> None:
        """A round was played."""
        ...


class FixedLength:
    """Always as many."""

    def __init__(self, length: int) -> None:
        self._length = length

    def choose(self, trajectory: Trajectory, number: int, position: int, drafter: str, most: int) -> int:
        """See `LengthRule`."""
        return min(self._length, most)

    def played(self, number: int, drafter: str, played: PlayedRound, times: FittedTimes) -> None:
        """Nothing to learn."""


class RecordedLength(FixedLength):
    """As many as the recorded round that committed the position: for drafters that are replayed where they played."""

    def __init__(self) -> None:
        super().__init__(0)

    def choose(self, trajectory: Trajectory, number: int, position: int, drafter: str, most: int) -> int:
        """See `LengthRule`."""
        return min(int(trajectory.lengths[position]), most)


class AdaptedLength:
    """The target's own rule, told the fitted times."""

    def __init__(self) -> None:
        self._rule = DraftLength()

    def choose(self, trajectory: Trajectory, number: int, position: int, drafter: str, most: int) -> int:
        """See `LengthRule`."""
        return self._rule.choose([Ask(number, drafter, most)], 1)[0]

    def played(self, number: int, drafter: str, played: PlayedRound, times: FittedTimes) -> None:
        """See `LengthRule`."""
        timings = []
        if played.drafter is not None:
            self._rule.drafted(number, drafter, played.drafted, played.accepted)
            timings = [DraftTiming(drafter, 1, played.length, times.draft_ms(played.drafter, played.length))]
        verify_ms = times.verify_ms(played.drafted + 1)
        self._rule.timed(timings, verify_ms, played.drafted + 1, played.tokens, played.ms)
