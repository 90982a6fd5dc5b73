"""Rounds of one sequence whose played drafter's scores have not all come: what MetaSD's reward waits for.

A drafter is scored on what it drafted only after the target committed it, on the drafter's own device, so its gammas
come after the round's report. `Selector` keeps one of these per sequence and asks after every report and score.
"""

from __future__ import annotations

from collections import deque

from paceline.cluster.gamma_ring import Floats, GammaRing


class AwaitedScores:
    """Rounds in the order in which they were played. Those whose gammas were released unheard are dropped."""

    def __init__(self) -> None:
        self._rounds: deque[tuple[int, int, int]] = deque()  # column, first position, positions

    def add(self, column: int, start: int, positions: int) -> None:
        """A round was played: `positions` of what the drafter proposed from `start` on lie at committed prefixes."""
        self._rounds.append((column, start, positions))

    def take(self, ring: GammaRing) -> list[tuple[int, Floats]]:
        """Rounds that are now complete, the oldest first: the column and its gammas, [positions]."""
        complete = []
        while self._rounds:
            column, start, positions = self._rounds[0]
            if start >= ring.released:
                gammas = ring.gammas(column, start, positions)
                if gammas is None:
                    break
                complete.append((column, gammas))
            self._rounds.popleft()
        return complete
