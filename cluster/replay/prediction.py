"""Recorded rounds beside what their gammas and the fitted times say of them: how far a replay can be trusted.

For every round that drafted, gammas say how many tokens were to be expected of that drafter and that length there,
1 + gamma_1 + gamma_1 gamma_2 + ... (HedgeSpec, arXiv 2510.20064). Were gammas and acceptances of different laws, or the
deeper tokens of a drafter worse than its first (draft heads), the two columns would part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paceline.cluster.replay.fitted_times import FittedTimes
from paceline.cluster.replay.recording import RecordedRound, RecordedSequence
from paceline.cluster.replay.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Prediction:
    """One drafter's drafted rounds: tokens and milliseconds per round, as recorded and as predicted.

    `unscored` rounds are in neither column: the drafter's score of some position that counts is missing.
    """

    drafter: str
    rounds: int
    unscored: int
    tokens: float
    predicted_tokens: float
    ms: float
    predicted_ms: float


def predictions(
    sequences: Sequence[RecordedSequence],
    trajectories: Sequence[Trajectory],
    drafters: Sequence[str],
    times: FittedTimes,
) -> list[Prediction]:
    """One line for each drafter that drafted."""
    rows: dict[str, list[tuple[float, float, float, float]]] = {}
    unscored: dict[str, int] = {}
    for sequence, trajectory in zip(sequences, trajectories, strict=True):
        for entry in sequence.rounds:
            if not entry.drafted:
                continue
            column = drafters.index(entry.drafter)
            expected = _expected_tokens(entry, sequence, trajectory, column)
            unscored.setdefault(entry.drafter, 0)
            if expected is None:
                unscored[entry.drafter] += 1
                continue
            predicted_ms = times.round_ms(column, entry.drafted)
            rows.setdefault(entry.drafter, []).append((entry.tokens, expected, entry.round_ms, predicted_ms))
    made = []
    for drafter, count in unscored.items():
        table = np.array(rows.get(drafter, np.empty((0, 4))), dtype=np.float64).reshape(-1, 4)
        means = table.mean(axis=0) if len(table) else np.full(4, np.nan)
        made.append(Prediction(drafter, len(table), count, *(float(mean) for mean in means)))
    return sorted(made, key=lambda row: -row.rounds)


def _expected_tokens(
    entry: RecordedRound, sequence: RecordedSequence, trajectory: Trajectory, column: int
) -> float | None:
    """What a round was to bring, at most what was left of the text; None where a score that counts is missing."""
    first = entry.start - sequence.prompt_tokens
    left = len(trajectory) - first
    gammas = trajectory.gammas[first : first + min(entry.drafted, left), column]
    chances = np.cumprod(gammas)
    decided = np.flatnonzero(chances == 0.0)
    if len(decided):  # what comes after a sure miss does not count
        chances = chances[: decided[0]]
    if np.isnan(chances).any():
        return None
    return min(1.0 + float(chances.sum()), float(left))
