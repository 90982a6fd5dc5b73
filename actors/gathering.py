"""How long news for the selector, and scores, are gathered before they are sent: some ten tokens of each sequence.

Each message costs its sender, the wire and the selector about a millisecond, whatever is in it, and where they share
the target's processors every round pays. With more sequences a target makes fewer tokens of each in the same time, so
that news may be gathered for longer without being older in tokens; where it makes as many, what has gathered of one
sequence ends the wait: the selector has room for few tokens beyond the delay at which it releases losses. Never sooner
than for a sequence alone, or a fast target would bury a slow selector in messages.
`weights_link` and `score_link` wait by it.
"""

from __future__ import annotations

import math

ALONE_S = 0.1
LONGEST_S = 0.5
MOST_TOKENS = 20  # of one sequence


def gather_s(sequences: int) -> float:
    """Most seconds between messages about so many sequences."""
    return min(ALONE_S * math.sqrt(max(sequences, 1)), LONGEST_S)
