"""Rounds whose played drafter's scores have not all come: what MetaSD's reward waits for.

A drafter is scored on what it drafted only after the target committed it, on the drafter's own device, so its gammas
come after the round's report. `Selector` keeps one of these and asks after every report and score.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from paceline.cluster.gamma_ring import Floats, GammaRings


class AwaitedScores:
    """Rounds by row, in the order in which they were played. Those whose gammas were released unheard are dropped."""

    def __init__(self) -> None:
        self._rounds: dict[int, deque[tuple[int, int, int]]] = {}  # column, first position, positions

    def add(self, row: int, column: int, start: int, positions: int) -> None:
        """A round was played: `positions` of what the drafter proposed from `start` on lie at committed prefixes."""
        self._rounds.setdefault(row, deque()).append((column, start, positions))

    def forget(self, row: int) -> None:
        """The row's sequence ended."""
        self._rounds.pop(row, None)

    def take(self, rings: GammaRings, token_times: Mapping[int, int] | None = None) -> list[tuple[int, int, Floats]]:
        """Rounds that are now complete, each row's oldest first: row, column and its gammas, [positions].

        `token_times` are those that rows are about to be moved on to: what is released then is not waited for.
        """
        complete = []
        for row, rounds in list(self._rounds.items()):
            released = rings.released(row)
            soon = max(released, rings.due((token_times or {}).get(row, 0)))
            while rounds:
                column, start, positions = rounds[0]
                gammas = rings.gammas(row, column, start, positions) if start >= released else None
                if gammas is not None:
                    complete.append((row, column, gammas))
                elif start >= soon:
                    break
                rounds.popleft()
            if not rounds:
                del self._rounds[row]
        return complete
