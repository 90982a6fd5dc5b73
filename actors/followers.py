"""Who follows a sequence, that is drafts for it or at least is scored on it: the budget of evaluation.

To follow costs a drafter a prefill of the prompt and a forward for every few tokens, and where it shares the target's
processors the target pays. Fast drafters always follow. A slow one follows where it has weight in a new sequence, as
long as its drafts earn it: of the tokens of the sequences that it lately followed at this load, a share that it had
drafted itself and the target took. Where the target is busy, slow drafts stop paying, so that none are asked for, and
to be scored on everything would go on costing: so who does not earn it at one load is not tried at a higher one, and
where several sequences run, those that were not judged there yet are tried one at a time. Who has no weight, or does
not earn it, is scored on a sample of sequences, one of them at a time and in turn, so that the sample does not grow
with their number; one that was never scored comes first, and need not be drawn.

The engine keeps one, asks it for each new sequence, and tells it what came of it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from paceline.actors.arm_choice import SLOW_MS
from paceline.actors.generation import Generation
from paceline.actors.ports import DrafterPool, WeightsBoard

EARNED = 0.02  # of a sequence's tokens: to follow takes about as much of a small target's processors
CROWD = 3  # the load from which on one is tried at a time: four sequences
JUDGED_TOKENS = 2048.0  # followed at one load before a drafter is judged there: some twenty answers, of several kinds
CROWD_TOKENS = 512.0  # the same where all others pay for the trial
MEMORY_TOKENS = 8192.0  # that a record remembers


@dataclass(slots=True)
class _Record:
    """Discounted tokens of the sequences that a drafter followed at one load, and those of them that it had drafted."""

    tokens: float = 0.0
    accepted: float = 0.0

    def add(self, tokens: int, accepted: int) -> None:
        kept = math.exp(-tokens / MEMORY_TOKENS)
        self.tokens = kept * self.tokens + tokens
        self.accepted = kept * self.accepted + accepted

    @property
    def earns(self) -> bool:
        return self.accepted >= EARNED * self.tokens


@dataclass(slots=True)
class _Followed:
    """A running sequence: its slow followers, the load that it began under, and whose drafts were taken."""

    slow: list[str]
    load: int
    accepted: Counter[str] = field(default_factory=Counter)


class Followers:
    """See this module's docstring. The engine's thread calls it.

    Args:
        board: Weights, and the drafters there are.
        pool: How long they usually take.
        share: Of the sequences, those that one of the slow drafters which do not follow by themselves is scored on.
        chance: Draws them.
    """

    def __init__(self, board: WeightsBoard, pool: DrafterPool, share: float, chance: Random) -> None:
        self._board = board
        self._pool = pool
        self._share = share
        self._chance = chance
        self._last: dict[str, int] = {}  # the last sequence that a slow drafter was given
        self._records: dict[tuple[str, int], _Record] = {}  # by drafter and load
        self._running: dict[int, _Followed] = {}

    def choose(self, seq: int, generation: Generation, running: int) -> tuple[str, ...]:
        """The drafters that shall follow a new sequence; empty means all.

        A request that names its own policy lets it choose among all.

        Args:
            seq: Its id.
            generation: Its request.
            running: Sequences that run, this one included.
        """
        if generation.drafters or generation.policy or not generation.speculate:
            return generation.drafters
        members = [member for member in self._board.members() if not member.draining]
        names, up = list(dict.fromkeys(m.drafter for m in members)), {m.drafter for m in members if m.up}
        self._forget_all_but(names)
        weights = self._board.weights(seq)
        load = running.bit_length()  # 1, 2 and 3, 4 to 7, ..
        kept: list[str] = []
        slow: list[str] = []
        tried: list[str] = []
        idle: list[str] = []
        for name in names:
            if (self._pool.draft_ms(name) or math.inf) < SLOW_MS:
                kept.append(name)
            elif weights.get(name, 0.0) > 0 and (earns := self._earns(name, load)) is not False:
                (slow if earns else tried).append(name)
            elif name in up:
                idle.append(name)
        if load >= CROWD and tried:
            first = max(tried, key=lambda name: (name in up, weights[name]))
            idle += [name for name in tried if name != first and name in up]
            tried = [first]
        slow += tried
        if idle:
            next_one = min(idle, key=lambda name: self._last.get(name, -1))
            new = self._share > 0 and next_one not in self._last
            if new or self._chance.random() < self._share:
                slow.append(next_one)
            elif not (kept or slow):  # nobody at all would mean all of them
                slow.append(max(idle, key=lambda name: weights.get(name, 0.0)))
        self._last |= dict.fromkeys(slow, seq)
        if slow and generation.max_draft != 0:  # else nobody can earn anything there
            self._running[seq] = _Followed(slow, load)
        return () if len(kept) + len(slow) == len(names) else tuple(name for name in names if name in {*kept, *slow})

    def played(self, seq: int, drafter: str, accepted: int) -> None:
        """Note whose draft was taken, and how many tokens of it."""
        followed = self._running.get(seq)
        if followed is not None and accepted:
            followed.accepted[drafter] += accepted

    def closed(self, seq: int, tokens: int) -> None:
        """A sequence ended after so many tokens of answer."""
        followed = self._running.pop(seq, None)
        if followed is None:
            return
        for name in followed.slow:
            if name in self._last:  # it may be gone
                record = self._records.setdefault((name, followed.load), _Record())
                record.add(max(tokens - 1, 0), followed.accepted[name])  # nobody drafts an answer's first token

    def _earns(self, name: str, load: int) -> bool | None:
        """Whether its drafts earn that it follows at a load; None where that is to be found out."""
        if (here := self._verdict(name, load)) is not None:
            return here
        return False if any(self._verdict(name, lower) is False for lower in range(1, load)) else None

    def _verdict(self, name: str, load: int) -> bool | None:
        record = self._records.get((name, load))
        if record is None or record.tokens < (JUDGED_TOKENS if load < CROWD else CROWD_TOKENS):
            return None
        return record.earns

    def _forget_all_but(self, names: list[str]) -> None:
        """Drop who is gone: should it come back, it is new."""
        if gone := self._last.keys() - names:
            self._last = {name: seq for name, seq in self._last.items() if name not in gone}
            self._records = {key: record for key, record in self._records.items() if key[0] not in gone}
