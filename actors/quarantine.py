"""How long a drafter that misbehaved is left alone: exponential back-off, forgiven after a good stretch.

A grave fault (a draft that cannot be verified) counts at once; a light one (a late or failed answer) only as the third
in a row. Each drafter of a `session_pool` has one.
"""

from __future__ import annotations

from collections.abc import Callable

FIRST_S = 1.0
LONGEST_S = 60.0
STRIKES = 3
GOOD_STRETCH = 64


class Quarantine:
    """One drafter's record."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until_s = float("-inf")
        self._next_s = FIRST_S
        self._strikes = 0
        self._good = 0

    @property
    def active(self) -> bool:
        """Whether the drafter is left alone now."""
        return self._clock() < self._until_s

    def punish(self, at_least_s: float = 0.0) -> float:
        """Leave the drafter alone, twice as long as the last time. Faults while it already is do not add up.

        Returns:
            For how long, in seconds; 0 where it already was.
        """
        self._good = self._strikes = 0
        if self.active:
            return 0.0
        length_s = max(self._next_s, at_least_s)
        self._until_s = self._clock() + length_s
        self._next_s = min(2 * length_s, LONGEST_S)
        return length_s

    def strike(self) -> float:
        """Note a light fault; returns what `punish` does where it was one too many, else 0."""
        self._good = 0
        self._strikes += 1
        return self.punish() if self._strikes >= STRIKES else 0.0

    def good(self) -> None:
        """Note a good answer; after a stretch of them the next quarantine is a short one again."""
        self._strikes = 0
        self._good += 1
        if self._good >= GOOD_STRETCH:
            self._next_s = FIRST_S
