"""The draft lengths that are learned about: each of the short ones, and ever fewer of the long ones.

Arms are (drafter, length) and plain decoding, which stands first as a drafter of its own that makes one token a round
whatever its length. `arm_learning`, `arm_cost` and `gamma_ring` share one ladder.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paceline.cluster.learner import Bools, Floats

RUNGS = (1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 48, 64)


class ArmLadder:
    """Lengths, ascending, up to the longest draft. `max_draft` is at least 1."""

    def __init__(self, max_draft: int) -> None:
        self.rungs = (*(rung for rung in RUNGS if rung < max_draft), max_draft)
        self.lengths: npt.NDArray[np.intp] = np.array(self.rungs, dtype=np.intp)

    def __len__(self) -> int:
        return len(self.rungs)

    @staticmethod
    def with_plain(drafters: Bools) -> Bools:
        """A mask [.., 1 + drafters], of one [.., drafters], in which plain decoding is always there."""
        return np.concatenate([np.ones_like(drafters[..., :1], shape=(*drafters.shape[:-1], 1)), drafters], axis=-1)

    def arms(self, drafters: Floats, plain: Floats) -> Floats:
        """Values of all arms, [rows, 1 + drafters, lengths], from those of the drafters [rows, drafters, lengths] and
        of plain decoding [rows]."""
        first = np.broadcast_to(plain[:, None, None], (len(plain), 1, len(self)))
        return np.concatenate([first, drafters], axis=1)
