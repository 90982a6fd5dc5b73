"""Who drafts for a sequence in this round, drawn by the newest weights. `round` asks, once per sequence."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from random import Random

from paceline.actors.ports import DrafterPool, WeightsBoard
from paceline.actors.sequence import Sequence


def draw_drafter(
    sequence: Sequence, board: WeightsBoard, pool: DrafterPool, usable: Collection[str], chance: Random
) -> str | None:
    """Draw a drafter by weight among those that can be asked for this sequence; None where there is none."""
    weights: Mapping[str, float] = board.weights(sequence.seq)
    names = [
        name
        for name in usable
        if (not sequence.drafters or name in sequence.drafters) and pool.serves(name, sequence.seq)
    ]
    shares = [weights.get(name, 0.0) for name in names]
    if not any(shares):
        if not names or not sequence.generation.drafters:
            return None
        shares = [1.0] * len(names)  # drafters that the request names are played, whatever is thought of them
    return chance.choices(names, shares)[0]
