"""One text's ring and chain, with the same meaning as many: so that a test can say what it expects in a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.cluster.gamma_ring import Forecast, GammaRings, PlayedDraft
from paceline.cluster.round_chain import RoundChains
from paceline.cluster.score_table import Entries

ROW = 2  # not the first one, so that rows are told apart


@dataclass(frozen=True)
class Placed:
    """Gammas that are new, and how many were late or early."""

    gammas: npt.NDArray[np.float32]
    late: int
    early: int


class SingleRing:
    """A row of `GammaRings`, beside others that nothing may happen to."""

    def __init__(self, start: int, max_draft: int, catch_up: int, drafters: int, lengths: Sequence[int] = ()) -> None:
        self.rings = GammaRings(max_draft, catch_up, lengths)
        for row in (0, ROW):
            self.rings.open(row, start)
        for _ in range(drafters):
            self.rings.join()
        self._row = np.array([ROW])

    @property
    def token_time(self) -> int:
        return self.rings.token_time(ROW)

    @property
    def released(self) -> int:
        return self.rings.released(ROW)

    def join(self) -> None:
        self.rings.join()

    def put(self, drafter: int, start: int, gammas: npt.NDArray[np.float32]) -> Placed:
        entries = Entries.of(np.array([start]), np.array([len(gammas)]))
        placed = self.rings.put(self._row, np.array([drafter]), entries, gammas)
        return Placed(gammas[placed.new], placed.late, placed.early)

    def played(self, draft: PlayedDraft) -> None:
        self.rings.played(ROW, draft)

    def advance(self, committed: int, truth: npt.NDArray[np.float64] | None = None) -> npt.NDArray[np.float64]:
        released = self.rings.advance(self._row, np.array([committed]), truth)
        assert (released.rows == ROW).all()
        return released.starts

    def pending(self, discount: float = 1.0) -> Forecast:
        known = self.rings.pending(self._row, discount)
        return Forecast(known.starts[0], known.counts[0], known.fade[0])

    def gammas(self, drafter: int, start: int, positions: int) -> npt.NDArray[np.float64] | None:
        return self.rings.gammas(ROW, drafter, start, positions)


class SingleChain:
    """A row of `RoundChains`, a position at a time."""

    def __init__(self, drafters: int, lengths: npt.NDArray[np.intp]) -> None:
        self._chains = RoundChains(lengths)
        self._chains.resize(1, drafters)
        self._ages = int(lengths[-1])
        self._drafters = drafters

    def join(self) -> None:
        self._drafters += 1
        self._chains.resize(1, self._drafters)

    def advance(self, drafters: npt.NDArray[np.intp], gammas: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Of some drafters, gammas [drafters, ages]; returns u, [drafters, lengths]."""
        everyone = np.full((1, self._ages, 1, self._drafters), np.nan)
        everyone[0, :, 0, drafters] = gammas
        told: npt.NDArray[np.float64] = self._chains.advance(np.array([0]), everyone)[0, :, 0, drafters]
        return told
