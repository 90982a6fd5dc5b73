"""How fast rounds go, beside how fast plain ones would: the counters behind a live speed-up.

Plain decoding gives each of n sequences one token per plain round, so the same tokens would have taken it
tokens / n * plain(n) milliseconds, where plain(n) is what rounds of n sequences lately took in which nobody was asked
to draft. The speed-up between two moments is the growth of that time over the growth of the time that was really taken.
Nothing is assumed of other machines or of a cluster without drafters: the plain rounds are those of this very target,
with its drafters beside it. `round` tells it of each round; the target's replica reads it from another thread.
"""

from __future__ import annotations

from dataclasses import dataclass

MEMORY = 0.9  # of what is known of plain rounds, kept at each new one


@dataclass(frozen=True, slots=True)
class PaceCount:
    """Counters that only grow, and what a plain round of one sequence takes (0 before the first).

    `decode_ms` is the time of rounds, and `plain_ms` what plain decoding would have taken for their tokens.
    """

    decode_ms: float = 0.0
    plain_ms: float = 0.0
    plain_round_ms: float = 0.0


class Pace:
    """The counters of one engine. Its thread writes; any thread may read `count`, which is replaced as a whole."""

    def __init__(self) -> None:
        self.count = PaceCount()
        self._plain: dict[int, float] = {}  # milliseconds of a plain round, by sequences; as many as run together

    def ran(self, sequences: int, tokens: int, round_ms: float, *, plain: bool) -> None:
        """Note a round without prefill.

        Rounds of more sequences than were ever seen plain are held against the most that were, which understates them;
        before the first plain round nothing is counted.

        Args:
            sequences: How many took part.
            tokens: What they gained together.
            round_ms: What it took, all told.
            plain: Whether nobody was asked to draft.
        """
        if plain:
            known = self._plain.get(sequences, round_ms)
            self._plain[sequences] = MEMORY * known + (1.0 - MEMORY) * round_ms
        fewer = [size for size in self._plain if size <= sequences]
        if not fewer:
            return
        size = max(fewer)
        self.count = PaceCount(
            self.count.decode_ms + round_ms,
            self.count.plain_ms + tokens / sequences * self._plain[size],
            self._plain.get(1, 0.0),
        )
