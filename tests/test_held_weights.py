"""The number of the update that a target goes by: that of what is held, and of the present stream only."""

from __future__ import annotations

import numpy as np

from paceline.actors.held_weights import HeldWeights
from paceline.actors.messages import Member, WeightsUpdate

ONE = np.ones(1, dtype=np.float32)


def test_the_number_is_that_of_the_update_whose_weights_were_taken() -> None:
    held = HeldWeights(None, 5.0, lambda: 0.0)
    assert held.number == 0
    held.connected()
    held.apply(WeightsUpdate(4, ("a",), ONE, members=(Member("a", "lm", "h:1"),)), lambda _: True)
    assert held.number == 4
    held.disconnected()
    assert held.number == 0, "another selector counts anew"
    assert held.weights(1) == {"a": 1.0}, "what it said is still held"
    held.connected()
    held.apply(WeightsUpdate(1, (), ONE[:0]), lambda _: True)  # one that knows no drafter yet
    assert (held.number, held.held_back) == (0, 1)
    held.apply(WeightsUpdate(2, ("a",), ONE), lambda _: True)
    assert held.number == 2
