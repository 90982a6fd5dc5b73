"""What a round takes, fitted to a recording: a line over positions for verification, one over length for each drafter.

A round of drafter i with k tokens takes `share_i (a_i + b_i k) + c + d (k + 1) + rest`: the wait for the draft, in the
share of the rounds in which it was not at hand already, the target's forward, and what lies around them. Lines go
through medians by length, so that one stalled round moves nothing, and none falls.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from paceline.actors.errors import ConfigError
from paceline.cluster.replay.recording import RecordedRound, RecordedSequence


class Line:
    """Milliseconds as a line over work, through the medians by work, each weighing as many points as it stands for."""

    def __init__(self, points: Iterable[tuple[int, float]]) -> None:
        groups: dict[int, list[float]] = {}
        for work, ms in points:
            groups.setdefault(work, []).append(ms)
        x = np.array(sorted(groups), dtype=np.float64)
        y = np.array([np.median(groups[int(work)]) for work in x])
        weight = np.array([len(groups[int(work)]) for work in x], dtype=np.float64)
        middle_x, middle_y = np.average(x, weights=weight), np.average(y, weights=weight)
        spread = float(np.average((x - middle_x) ** 2, weights=weight))
        slope = float(np.average((x - middle_x) * (y - middle_y), weights=weight)) / spread if spread else 0.0
        self._slope = min(max(slope, 0.0), float(middle_y / max(middle_x, 1.0)))  # no faster than in proportion
        self._base = float(middle_y - self._slope * middle_x)

    def at(self, work: float) -> float:
        """Expected milliseconds."""
        return max(self._base + self._slope * work, 0.0)


class FittedTimes:
    """Times of one sequence decoded alone.

    `unmeasured` names drafters that never answered in the recording: each is taken to be as fast as the fastest, so
    what is said of their time is a hope.

    Args:
        sequences: The recording.
        drafters: Names, by column.

    Raises:
        ConfigError: no round in it has a measured verification.
    """

    def __init__(self, sequences: Sequence[RecordedSequence], drafters: Sequence[str]) -> None:
        rounds = [entry for sequence in sequences for entry in sequence.rounds]
        verified = [entry for entry in rounds if entry.verify_ms is not None]
        if not verified:
            raise ConfigError("the recording holds no round whose verification was timed; record longer replies")
        self._verify = Line((entry.verify_tokens, entry.verify_ms or 0.0) for entry in verified)
        self._rest_ms = max(
            float(np.median([entry.round_ms - entry.wait_ms - (entry.verify_ms or 0.0) for entry in verified])), 0.0
        )
        lines = [_draft_line(rounds, drafter) for drafter in drafters]
        self.unmeasured = tuple(drafter for drafter, line in zip(drafters, lines, strict=True) if line is None)
        known = [line for line in lines if line is not None]
        fastest = min(known, key=lambda line: line.at(1), default=Line([(1, 0.0)]))
        self._drafts = [fastest if line is None else line for line in lines]
        self._asked = [_asked_share(rounds, drafter) for drafter in drafters]

    def verify_ms(self, positions: int) -> float:
        """The target's forward and verdict."""
        return self._verify.at(positions)

    def draft_ms(self, drafter: int, length: int) -> float:
        """A drafter's answer, where it has to be asked."""
        return self._drafts[drafter].at(length)

    def round_ms(self, drafter: int | None, length: int) -> float:
        """A whole round; without a drafter, or of no length, plain decoding."""
        if drafter is None or not length:
            return self.verify_ms(1) + self._rest_ms
        wait_ms = self._asked[drafter] * self.draft_ms(drafter, length)
        return wait_ms + self.verify_ms(length + 1) + self._rest_ms


def _draft_line(rounds: Sequence[RecordedRound], drafter: str) -> Line | None:
    points = [(r.length, r.draft_ms) for r in rounds if r.drafter == drafter and r.draft_ms is not None]
    return Line(points) if points else None


def _asked_share(rounds: Sequence[RecordedRound], drafter: str) -> float:
    drafting = [entry for entry in rounds if entry.drafter == drafter]
    return sum(not entry.carried for entry in drafting) / len(drafting) if drafting else 1.0
