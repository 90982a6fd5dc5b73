"""Admission by memory: who may join by the positions that keys and values really take, and when somebody must yield.

A long answer that is only allowed is not there yet, and most end early. So a sequence joins where its prompt fits
beside what the others hold, with a little headroom for each to grow; where that turns out too little, `engine` takes
the newest one's memory back for a while. A sequence alone always fits, since longer ones are refused at the door.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

from paceline.actors.causal_model import CausalModel
from paceline.actors.sequence import Sequence
from paceline.kernels.decoder_ops import BLOCK

HEADROOM = 4 * BLOCK  # positions that each sequence can still grow by when another one joins


class KVBudget:
    """Bounds what running sequences hold together.

    Args:
        model: Says what their caches take.
        positions: Most, in whole blocks.
        max_draft: Most tokens that a round drafts.
    """

    def __init__(self, model: CausalModel, positions: int, max_draft: int) -> None:
        self._model = model
        self._positions = positions
        self._max_draft = max_draft

    def usage(self, running: Items[Sequence]) -> float:
        """The share that is held; up to 1."""
        return self._model.positions_held([sequence.cache for sequence in running]) / self._positions

    def fits(self, running: Items[Sequence]) -> bool:
        """Whether the next round of these sequences does, drafts and what is left of their prompts included."""
        return self._needed(running, self._max_draft) <= self._positions

    def admits(self, running: Items[Sequence], tokens: int, remaining: int) -> bool:
        """Whether one more may join.

        Args:
            running: Those that are there.
            tokens: That the new one begins with.
            remaining: Most that it may add.
        """
        joining = _in_blocks(tokens + min(remaining, HEADROOM))
        return not running or self._needed(running, HEADROOM) + joining <= self._positions

    def _needed(self, running: Items[Sequence], growth: int) -> int:
        """Positions held once each has run all its tokens and grown by so many, or by all that remain to it."""
        caches = [sequence.cache for sequence in running]
        return self._model.positions_held(caches) + sum(
            _in_blocks(len(sequence.tokens) + min(sequence.remaining, growth)) - _in_blocks(cache.length)
            for sequence, cache in zip(running, caches, strict=True)
        )


def _in_blocks(positions: int) -> int:
    return -(-positions // BLOCK) * BLOCK
