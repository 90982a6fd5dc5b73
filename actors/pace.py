"""How fast rounds go, beside how fast plain ones would: the counters behind a live speed-up.

Plain decoding gives each of n sequences one token per plain round, so the same tokens would have taken it
tokens / n * plain(n) milliseconds, where plain(n) is the median of the last rounds of n sequences in which nobody was
asked to draft: a stall is one round among them, where a mean would carry it into every later claim. A plain round
itself is worth the time it took. The speed-up between two moments is the growth of that time over the growth of the
time that was really taken. Nothing is assumed of other machines or of a cluster without drafters: the plain rounds are
those of this very target, with its drafters beside it. `round` tells it of each round; the target's replica reads it
from another thread.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median_low

REMEMBERED = 16  # plain rounds of each size


@dataclass(frozen=True, slots=True)
class PaceCount:
    """Counters that only grow, and the plain round that the last round was held against (zeros before the first).

    `decode_ms` is the time of rounds, and `plain_ms` what plain decoding would have taken for their tokens.
    `plain_round_ms` is what a plain round of `plain_sequences` sequences takes: of as many as the last round had, or of
    the most below that of which one was seen.
    """

    decode_ms: float = 0.0
    plain_ms: float = 0.0
    plain_round_ms: float = 0.0
    plain_sequences: int = 0


class Pace:
    """The counters of one engine. Its thread writes; any thread may read `count`, which is replaced as a whole."""

    def __init__(self) -> None:
        self.count = PaceCount()
        self._rounds: dict[int, deque[float]] = {}  # milliseconds of plain rounds, by how many ran
        self._plain: dict[int, float] = {}  # their medians

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
            rounds = self._rounds.setdefault(sequences, deque(maxlen=REMEMBERED))
            rounds.append(round_ms)
            self._plain[sequences] = median_low(rounds)  # of two, the one that did not stall
        fewer = [size for size in self._plain if size <= sequences]
        if not fewer:
            return
        size = max(fewer)
        self.count = PaceCount(
            self.count.decode_ms + round_ms,
            self.count.plain_ms + (round_ms if plain else tokens / sequences * self._plain[size]),
            self._plain[size],
            size,
        )
