"""Plays trajectories offline: at each round a chooser picks a drafter, a rule its length, and gammas tell what would
have come of it.

The text is the recorded one whoever drafts, since drafting does not change it; the first round of a sequence runs its
prompt, and decodes plainly, as at the target. `replay_command` calls it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np

from paceline.cluster.replay.choosers import Chooser
from paceline.cluster.replay.fitted_times import FittedTimes
from paceline.cluster.replay.length_rules import FixedLength, LengthRule
from paceline.cluster.replay.trajectory import PlayedRound, Trajectory
from paceline.cluster.speculation_report import PLAIN


@dataclass
class Outcome:
    """What a chooser made of all trajectories; per trajectory where it says so."""

    name: str
    rounds: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    by_drafter: Counter[str] = field(default_factory=Counter)  # rounds
    unscored: float = 0.0  # weight, over rounds, of drafters that could not be played for want of a score

    @property
    def tokens_per_round(self) -> float:
        """Over all rounds, those that ran prompts too."""
        return sum(self.tokens) / max(sum(self.rounds), 1)

    @property
    def tokens_per_s(self) -> float:
        """By the fitted times."""
        return 1e3 * sum(self.tokens) / sum(self.ms) if sum(self.ms) else 0.0


class Player:
    """Plays all of a recording, once per chooser.

    Args:
        trajectories: In the order in which they came.
        drafters: Names, by column.
        times: What rounds take.
        max_draft: Most tokens of a draft.
        seed: Of the draws by weight.
    """

    def __init__(
        self, trajectories: Sequence[Trajectory], drafters: Sequence[str], times: FittedTimes, max_draft: int, seed: int
    ) -> None:
        self._trajectories = trajectories
        self._drafters = drafters
        self._times = times
        self._max_draft = max_draft
        self._seed = seed

    def play(self, name: str, chooser: Chooser, lengths: LengthRule) -> Outcome:
        """Play every trajectory."""
        outcome, chance = Outcome(name), Random(self._seed)
        for number, trajectory in enumerate(self._trajectories, 1):
            chooser.open(number, trajectory)
            position = rounds = 0
            spent_ms = 0.0
            while position < len(trajectory):
                drafter = self._drawn(chooser, trajectory, position, outcome, chance) if position else None
                learned = chooser.lengths()
                rule = FixedLength(learned[drafter]) if learned and drafter is not None else lengths
                played = self._round(number, position, drafter, rule, trajectory)
                chooser.played(played)
                if position:
                    lengths.played(number, self._name(drafter), played, self._times)
                outcome.by_drafter[self._name(drafter) if played.drafted else PLAIN] += 1
                position += played.tokens
                rounds += 1
                spent_ms += played.ms
            chooser.close()
            outcome.rounds.append(rounds)
            outcome.tokens.append(len(trajectory))
            outcome.ms.append(spent_ms)
        return outcome

    def _drawn(
        self, chooser: Chooser, trajectory: Trajectory, position: int, outcome: Outcome, chance: Random
    ) -> int | None:
        """A drafter by weight, among those that scored the position; None where there is none."""
        weights = chooser.weights()
        known = np.where(np.isnan(trajectory.gammas[position]), 0.0, weights)
        outcome.unscored += float(weights.sum() - known.sum())
        if known.sum() <= 0:
            return None
        plain = max(1.0 - float(weights.sum()), 0.0) if chooser.lengths() else 0.0
        drawn: int | None = chance.choices([*range(len(known)), None], [*known.tolist(), plain])[0]
        return drawn

    def _round(
        self, number: int, position: int, drafter: int | None, lengths: LengthRule, trajectory: Trajectory
    ) -> PlayedRound:
        left = len(trajectory) - position
        length = drafted = accepted = 0
        if drafter is not None:
            most = min(self._max_draft, left - 1)
            length = lengths.choose(trajectory, number, position, self._name(drafter), most) if most else 0
        if drafter is not None and length:
            accepted, drafted = trajectory.accepted(position, drafter, length)
        ms = self._times.round_ms(drafter, length)
        return PlayedRound(position, accepted + 1, drafter if length else None, length, drafted, accepted, ms)

    def _name(self, drafter: int | None) -> str:
        return "" if drafter is None else self._drafters[drafter]
