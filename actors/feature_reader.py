"""What a target's drafters are sent of its caches' features, made once however many of them ask for the same.

A `session_pool` has one; its peers read from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.actors.bfloat16 import to_bits
from paceline.actors.messages import Features
from paceline.actors.ports import Tracked


class FeatureReader:
    """Reads rows of features, and remembers them until `forget`.

    Args:
        layers: Whose features the target's caches hold, ascending (`CausalModel.feature_layers`).
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self._layers = tuple(layers)
        self._read: dict[tuple[int, int, int, tuple[int, ...]], Features] = {}

    def missing(self, layers: Sequence[int]) -> list[int]:
        """Those of `layers` that the target keeps no features of."""
        return [layer for layer in layers if layer not in self._layers]

    def rows(self, sequence: Tracked, start: int, stop: int, layers: tuple[int, ...]) -> Features:
        """Features of positions `start` .. `stop` - 1, [stop - start, layers * width], to be read only.

        Raises:
            ValueError: a position is not in the sequence's cache.
        """
        own = (sequence.seq, start, stop, layers)
        if own not in self._read:
            whole = (sequence.seq, start, stop, self._layers)
            if whole not in self._read:
                self._read[whole] = to_bits(sequence.cache.features(start, stop))
            if own != whole:
                self._read[own] = self._columns(self._read[whole], layers)
        return self._read[own]

    def forget(self) -> None:
        """Let go of what was read: the next texts are longer."""
        self._read.clear()

    def _columns(self, features: Features, layers: tuple[int, ...]) -> Features:
        rows, width = len(features), features.shape[1] // len(self._layers)
        kept = features.reshape(rows, len(self._layers), width)[:, [self._layers.index(layer) for layer in layers]]
        return kept.reshape(rows, len(layers) * width)
