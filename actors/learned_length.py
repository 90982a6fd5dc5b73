"""How many tokens are drafted where the selector has learned how many: those, or what is at hand, or now and then some.

The selector knows what arms cost from the rounds that were played, so some are played for that alone: every so manieth
draft is half as long or twice as long, and after a long run of plain rounds one sequence drafts. `arm_choice` asks; the
engine keeps one.
"""

from __future__ import annotations

STRETCH = 32  # each so manieth draft is of another length
PROBE = 64  # plain rounds after which one sequence drafts


class LearnedLength:
    """Counts drafts and plain rounds of one engine."""

    def __init__(self) -> None:
        self._drafts = 0
        self._plain = 0

    def of(self, length: int, ready: int, most: int) -> int:
        """Tokens to draft, 1 to `most`.

        Args:
            length: What the selector says.
            ready: Tokens at hand, for which nobody waits: half as many as wanted are worth more than a wait.
            most: The longest that may be asked for.
        """
        if ready:
            return min(length, most) if 2 * ready < length else min(length, ready, most)
        self._drafts += 1
        turn = self._drafts % (2 * STRETCH)
        wanted = 2 * length if turn == 0 else (length + 1) // 2 if turn == STRETCH else length
        return max(1, min(wanted, most))

    def resting(self, plain: bool) -> bool:
        """Note whether a round is to be plain by the selector's word; True where it should draft all the same."""
        self._plain = self._plain + 1 if plain else 0
        if self._plain <= PROBE:
            return False
        self._plain = 0
        return True
