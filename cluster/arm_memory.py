"""What is known of arms, written down and taken back: priors, times, and what gammas are worth.

Priors and rounds go by the ladder's lengths, so that they are not taken back where the longest draft was another; all
else is. Each drafter tells its own lengths: one that has not come since keeps those of the life that knew it.
`selector_memory` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paceline.cluster.arm_ladder import ArmLadder
from paceline.cluster.arm_learning import ArmLearning
from paceline.cluster.selector_state import ArmPrior, ArmsState, DrafterArms
from paceline.cluster.shared_prior import Known


class ArmMemory:
    """Writes down and takes back what `ArmLearning` knows.

    Args:
        arms: It.
        ladder: Its lengths.
    """

    def __init__(self, arms: ArmLearning, ladder: ArmLadder) -> None:
        self._arms = arms
        self._lengths = list(ladder.rungs)

    def state(self) -> ArmsState:
        """All but the drafters'."""
        return ArmsState(
            lengths=self._lengths,
            plain=self._prior(0),
            positions=self._arms.prior.positions(),
            forward_ms=self._arms.cost.verify_points(),
            rest_ms=self._arms.cost.rest_points(),
        )

    def drafter(self, column: int) -> DrafterArms:
        """One drafter's."""
        sums, positions = self._arms.acceptance(column)
        return DrafterArms(
            lengths=self._lengths,
            prior=self._prior(column + 1),
            price=self._arms.price_of(column).tolist(),
            rounds_alone=sums.tolist(),
            positions=positions,
            truth=self._arms.truth.state(column),
            wait_ms=self._arms.cost.wait_points(column),
            rounds=self._arms.cost.rounds(column),
        )

    def restore(self, state: ArmsState) -> None:
        """Take back all but the drafters'."""
        self._arms.cost.restore_target(state.forward_ms, state.rest_ms)
        if state.lengths == self._lengths:
            self._arms.prior.restore_positions(state.positions)
            self._remember(0, state.plain)

    def joined(self, column: int, kept: DrafterArms) -> None:
        """A drafter came: give it what was kept of it."""
        self._arms.cost.restore_wait(column, kept.wait_ms)
        self._arms.cost.restore_rounds(column, kept.rounds)
        self._arms.truth.restore(column, kept.truth)
        if kept.lengths == self._lengths:
            self._arms.restore_price(column, np.array(kept.price))
            self._arms.accept(column, np.array(kept.rounds_alone), kept.positions)
            self._remember(column + 1, kept.prior)

    def _prior(self, column: int) -> dict[str, ArmPrior]:
        kept = {}
        for route, start in self._arms.prior.memories().items():
            if start.played is not None and start.paid is not None and start.met is not None:
                kept[route] = ArmPrior(
                    alone=start.booked[column].tolist(),
                    played=start.played[column].tolist(),
                    paid=float(start.paid[column]),
                    met=float(start.met[column]),
                )
        return kept

    def _remember(self, column: int, kept: Mapping[str, ArmPrior]) -> None:
        known = {
            route: Known(np.array(item.alone), np.array(item.played), item.paid, item.met)
            for route, item in kept.items()
            if route in self._arms.prior.positions()
        }
        self._arms.prior.remember(column, known)
