"""What a gamma at each depth of a draft is worth: how often the token there was right, over what its gamma foretold.

A drafter scores itself on the target's own text, each position from true context. Where it drafts, deeper tokens build
on its own guesses (a draft head's also on its own hidden states), it may stop early, or come too late; then the product
of gammas promises more than a draft brings. The rounds that it played say how much more, for nothing: of depth j, given
that all before it were right, accepted / gamma, over many rounds. Depths that are seldom reached borrow from the one
before. `arm_learning` keeps one; `gamma_ring` multiplies gammas by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.cluster.gamma_ring import PlayedDraft
from paceline.cluster.learner import Floats

MEMORY = 0.998  # of what one round said, kept in the next of that drafter
TRIALS = 8.0  # of gamma that the depth before counts for
MOST = 1.25  # a product of gammas can also promise too little, by chance or since drafts are sampled


class DraftTruth:
    """Ratios by depth and drafter.

    Args:
        max_draft: Depths.
    """

    def __init__(self, max_draft: int) -> None:
        self._right: Floats = np.zeros((max_draft, 0))
        self._foretold: Floats = np.zeros((max_draft, 0))
        self._ratios: Floats = np.ones((max_draft, 0))
        self._stale: set[int] = set()  # columns whose ratios are older than their counts

    def join(self) -> None:
        """A new drafter takes the next column."""
        column = np.zeros((len(self._right), 1))
        self._right, self._foretold = np.hstack([self._right, column]), np.hstack([self._foretold, column])
        self._ratios = np.hstack([self._ratios, column + 1.0])

    def add(self, rounds: Sequence[tuple[PlayedDraft, Floats]]) -> None:
        """Learn from rounds, each with the gammas of its judged depths."""
        for draft, gammas in rounds:
            right, foretold = self._right[:, draft.column], self._foretold[:, draft.column]
            right *= MEMORY
            foretold *= MEMORY
            right[: draft.accepted] += 1.0
            foretold[: draft.judged] += gammas
            self._stale.add(draft.column)

    @property
    def ratios(self) -> Floats:
        """What a gamma is worth, [depths, drafters]; 1 where nothing is known."""
        for column in self._stale:
            before = 1.0
            counts = zip(self._right[:, column].tolist(), self._foretold[:, column].tolist(), strict=True)
            for depth, (right, foretold) in enumerate(counts):
                before = self._ratios[depth, column] = min((right + TRIALS * before) / (foretold + TRIALS), MOST)
        self._stale.clear()
        return self._ratios

    def state(self, column: int) -> list[tuple[float, float]]:
        """Right and foretold by depth, of one drafter."""
        return list(zip(self._right[:, column].tolist(), self._foretold[:, column].tolist(), strict=True))

    def restore(self, column: int, state: Sequence[tuple[float, float]]) -> None:
        """Go on from another life's; depths beyond the longest draft of this one are left out."""
        for depth, (right, foretold) in enumerate(state[: len(self._right)]):
            self._right[depth, column], self._foretold[depth, column] = right, foretold
        self._stale.add(column)
