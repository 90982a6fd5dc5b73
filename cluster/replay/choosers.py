"""Who says which drafter is played offline: one that always says the same, or a policy in the cluster's own selector.

A policy is driven through the live `Selector`: it is told what targets and drafters would tell it, and answers with
the same weights. So delays, losses, priors across requests and whatever a policy hears are those of the cluster, and a
policy that is added there can be replayed here at once. What differs: sequences come one at a time, and news travels
at once. `player` calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from paceline.actors.messages import (
    DraftTiming,
    Heartbeat,
    RoundContext,
    Score,
    SequenceOpened,
    SequenceRound,
    TargetReport,
)
from paceline.cluster.config import SelectorConfig, SpeculationConfig
from paceline.cluster.replay.fitted_times import FittedTimes
from paceline.cluster.replay.trajectory import Floats, PlayedRound, Trajectory
from paceline.cluster.selector import Selector

_TARGET = "replay"


class Chooser(Protocol):
    """Whose drafter is played. Sequences come one after the other."""

    def open(self, number: int, trajectory: Trajectory) -> None:
        """A sequence begins."""
        ...

    def weights(self) -> Floats:
        """Weights [drafters] for its next round; what is missing to 1 is plain decoding's."""
        ...

    def lengths(self) -> Sequence[int]:
        """Draft lengths by drafter, where the chooser sets them, and else none."""
        ...

    def played(self, played: PlayedRound) -> None:
        """A round was played."""
        ...

    def close(self) -> None:
        """The sequence ended."""
        ...


class FixedChooser:
    """Always the same drafter; None decodes plainly."""

    def __init__(self, drafter: int | None, drafters: int) -> None:
        self._weights: Floats = np.zeros(drafters)
        if drafter is not None:
            self._weights[drafter] = 1.0

    def open(self, number: int, trajectory: Trajectory) -> None:
        """Nothing to learn."""

    def weights(self) -> Floats:
        """See `Chooser`."""
        return self._weights

    def lengths(self) -> Sequence[int]:
        """See `Chooser`."""
        return ()

    def played(self, played: PlayedRound) -> None:
        """Nothing to learn."""

    def close(self) -> None:
        """Nothing to learn."""


class SelectorChooser:
    """A policy, in the cluster's own selector.

    Args:
        config: The policy and its settings.
        max_draft: Most tokens of a draft.
        drafters: Names, by column.
        times: What the selector is told that things took.
        learned: Whether it sets draft lengths, too.
    """

    def __init__(
        self,
        config: SelectorConfig,
        max_draft: int,
        drafters: Sequence[str],
        times: FittedTimes,
        learned: bool = False,
    ) -> None:
        self._drafters = drafters
        self._times = times
        speculation = SpeculationConfig(max_draft=max_draft, draft_length="learned" if learned else "measured")
        self._selector = Selector(config, speculation, 1.0, lambda: 0.0)
        for name in drafters:
            self._selector.register(Heartbeat(name, "replayed", "replay:1"))
        self._connection = self._selector.connect(_TARGET)
        self._seq = 0
        self._weights: Floats = np.zeros(len(drafters))
        self._lengths: Sequence[int] = ()
        self._trajectory: Trajectory | None = None

    def open(self, number: int, trajectory: Trajectory) -> None:
        """See `Chooser`."""
        self._seq, self._trajectory = number, trajectory
        opened = SequenceOpened(number, trajectory.prompt_tokens, trajectory.route, trajectory.allowed)
        self._report(TargetReport(_TARGET, opened=[opened]))

    def weights(self) -> Floats:
        """See `Chooser`."""
        return self._weights

    def lengths(self) -> Sequence[int]:
        """See `Chooser`."""
        return self._lengths

    def played(self, played: PlayedRound) -> None:
        """See `Chooser`: every drafter's scores of the round's positions, then the round."""
        trajectory = self._trajectory
        if trajectory is None:
            raise ValueError("played: no sequence is open")
        first = trajectory.prompt_tokens + played.start
        for column, name in enumerate(self._drafters):
            gammas = trajectory.gammas[played.start : played.start + played.tokens, column]
            scores = [
                Score(self._seq, first + offset, gammas[offset : offset + 1].astype(np.float32))
                for offset in np.flatnonzero(~np.isnan(gammas)).tolist()
            ]
            self._selector.scores(name, scores)
        drafter = None if played.drafter is None else self._drafters[played.drafter]
        timings = []
        if drafter is not None and played.drafter is not None:
            draft_ms = self._times.draft_ms(played.drafter, played.length)
            timings = [DraftTiming(drafter, 1, played.length, draft_ms)]
        told = SequenceRound(
            self._seq, first + played.tokens, drafter or "", played.drafted, played.accepted, length=played.length
        )
        verify_ms = self._times.verify_ms(played.drafted + 1)
        # Fitted times are those of the wait that a round had, so that they are all the round took.
        context = RoundContext(wait_ms=max(played.ms - verify_ms, 0.0), round_ms=played.ms)
        report = TargetReport(
            _TARGET, [], [told], [], timings, verify_ms, verify_tokens=played.drafted + 1, context=context
        )
        self._report(report)

    def close(self) -> None:
        """See `Chooser`."""
        self._selector.report(self._connection, TargetReport(_TARGET, closed=[self._seq]))

    def _report(self, report: TargetReport) -> None:
        self._selector.report(self._connection, report)
        update = self._selector.update(self._connection)
        if update is not None and self._seq in update.sequences:
            self._weights = update.sequences[self._seq].astype(np.float64)
            self._lengths = update.lengths.get(self._seq, ())
