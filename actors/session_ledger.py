"""What one drafter was told of each sequence, and so what it must hear next.

The ledger counts tokens *sent*; whether they arrived shows by itself, since a gap makes the drafter ask for a resync.
Each drafter of a `session_pool` has one; entries live from `open` to `close`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from paceline.actors.messages import Commit, Open
from paceline.actors.ports import Tracked

# A drafter that lags by more is opened afresh: the laws it would score itself by take 0.5 KB and more per token.
LONGEST_COMMIT = 1024


@dataclass(slots=True)
class _Entry:
    sent: int | None = None  # tokens; None where it must be opened (again)
    opened: bool = False  # the drafter may hold a session, good or not
    warm: bool = False  # it drafted in this session, so its prompt is behind it
    asleep_until_s: float = float("-inf")


class SessionLedger:
    """One drafter's sessions, as its target knows them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: dict[int, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def news(self, sequence: Tracked) -> Open | Commit | None:
        """What the drafter must hear to hold all of a sequence; None where it does."""
        sent = self._sent(sequence.seq)
        held = len(sequence.tokens)
        if sent is None or held - sent > LONGEST_COMMIT:
            return Open(sequence.seq, list(sequence.tokens), sequence.sampling)
        if sent == held:
            return None
        return Commit(sequence.seq, sent, sequence.tokens[sent:], sequence.laws(sent))

    def lags(self, sequence: Tracked, tokens: int) -> bool:
        """Whether the drafter has no session, or was not told the last `tokens` or more."""
        sent = self._sent(sequence.seq)
        return sent is None or len(sequence.tokens) - sent >= tokens

    def told(self, news: Open | Commit) -> None:
        """Note that news went out."""
        entry = self._entries.setdefault(news.seq, _Entry())
        if isinstance(news, Open):
            entry.sent, entry.opened, entry.warm = len(news.tokens), True, False
        else:
            entry.sent = news.start + len(news.tokens)

    def drafted(self, seq: int) -> None:
        """Note that the drafter drafted for a sequence."""
        if seq in self._entries:
            self._entries[seq].warm = True

    def warm(self, seq: int) -> bool:
        """Whether the drafter drafted in this session before, so that its latency says something."""
        entry = self._entries.get(seq)
        return entry is not None and entry.warm

    def lose(self, seq: int) -> None:
        """The drafter has no (good) session of this sequence: open it again next time."""
        if seq in self._entries:
            self._entries[seq].sent = None

    def lose_all(self) -> None:
        """The drafter has no sessions any more; a fresh one may also have room again."""
        for seq in self._entries:
            self._entries[seq] = _Entry()

    def sleep(self, seq: int, duration_s: float) -> None:
        """The drafter cannot take this sequence: leave it out for a while."""
        entry = self._entries.setdefault(seq, _Entry())  # it may never have been opened: its Open was too large
        entry.sent, entry.asleep_until_s = None, self._clock() + duration_s

    def serves(self, seq: int) -> bool:
        """Whether the drafter may be asked for this sequence now."""
        entry = self._entries.get(seq)
        return entry is None or entry.asleep_until_s <= self._clock()

    def sequences(self) -> list[int]:
        """Every sequence known here."""
        return list(self._entries)

    def forget(self, seq: int) -> bool:
        """The sequence ended; returns whether the drafter may hold a session to close."""
        entry = self._entries.pop(seq, None)
        return entry is not None and entry.opened

    def _sent(self, seq: int) -> int | None:
        entry = self._entries.get(seq)
        return None if entry is None else entry.sent
