"""How many tokens are worth drafting: as long as the next one's chance is worth its time, at the going rate.

The aim is tokens per millisecond. With rho = what the target lately made of a millisecond, a draft of k tokens brings
alpha + alpha^2 + ... + alpha^k more tokens, where alpha is the chance that a drafted token is accepted after those
before it were, and costs rho (v(k) / n + d(k) / m) tokens that the same time would have made: v milliseconds for k
more positions of each of the round's n sequences, as if all did alike, and d for waiting, which the m sequences that
ask in this round share, while all n wait. The k that gains most is taken, and none where even that loses; who drops out
leaves the wait to the others, so this is done over until nobody does. A busy target, where positions are dear, thus
drafts less and at last nothing. Maximising gain - rho cost is maximising the ratio itself (Dinkelbach 1967).

All of it is measured by the target while it runs. The first rounds try several lengths, to learn what they cost. What
a drafter is worth to a sequence is forgotten while it is not asked, and now and then it is asked all the same, since a
text that repeats nothing yet may do so later. The engine keeps one; `round` asks it and tells it what came of it.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Literal

from paceline.actors.cost_curve import CostCurve
from paceline.actors.messages import DraftTiming

LengthSetter = Literal["learned", "measured", "longest"]  # who sets how much is drafted

MEMORY = 0.9  # of what one round said of a sequence, kept in the next
CROWD_MEMORY = 0.995  # the same of a drafter, over all its sequences
RATE_MEMORY = 0.97  # the same of the rounds that make the going rate
PRIOR_TRIALS = 2.0  # drafted tokens that the drafter's general worth counts for in a new sequence
HOPE = 0.7  # alpha of a drafter of which nothing is known
HOPE_TRIALS = 4.0
START = (1.0, 0.0, 0.5, 1.0, 0.25, 0.0)  # of the longest draft, in the first rounds, over and over
START_ROUNDS = 18
PROBE = 4  # tokens of a draft that is asked for against the odds, since a text may have changed
FIRST_PROBE = 8  # plain rounds before it; twice as many after each that changed nothing
LAST_PROBE = 64
STRETCH = 32  # each so manieth draft is a token longer than what seems best, to learn what that costs


@dataclass(frozen=True, slots=True)
class Ask:
    """A sequence's drafter, the longest draft that may be asked for, and how many tokens it has drafted already, which
    nobody waits for."""

    seq: int
    drafter: str
    most: int
    ready: int = 0


@dataclass(slots=True)
class _Record:
    """Discounted counts of drafted tokens that were judged (those before and at the first rejection), and accepted;
    of asked rounds, and those that brought a draft."""

    judged: float = 0.0
    accepted: float = 0.0
    asked: float = 0.0
    brought: float = 0.0
    plain: int = 0  # rounds since it was last asked
    patience: int = FIRST_PROBE

    def fade(self, memory: float) -> None:
        self.judged *= memory
        self.accepted *= memory
        self.asked *= memory
        self.brought *= memory

    def rest(self) -> None:
        """One plain round more."""
        self.fade(MEMORY)
        self.plain += 1

    def probe(self) -> None:
        """It is asked against the odds; longer may pass before the next time."""
        self.plain, self.patience = 0, min(2 * self.patience, LAST_PROBE)

    def add(self, drafted: int, accepted: int, asked: bool) -> None:
        self.asked += asked
        self.brought += asked and drafted > 0
        self.judged += min(accepted + 1, drafted)
        self.accepted += accepted


@dataclass(slots=True)
class _Worth:
    """What one drafter does: in general, by sequence, and how long it takes."""

    general: _Record = field(default_factory=_Record)
    own: dict[int, _Record] = field(default_factory=dict)
    time: CostCurve = field(default_factory=CostCurve)
    drafts: int = 0

    def chances(self, seq: int) -> tuple[float, float]:
        """alpha, and the chance that there is a draft at all."""
        general = self.general
        alpha = (general.accepted + HOPE * HOPE_TRIALS) / (general.judged + HOPE_TRIALS)
        share = (general.brought + HOPE_TRIALS) / (general.asked + HOPE_TRIALS)
        own = self.own.get(seq)
        if own is not None:
            alpha = (own.accepted + alpha * PRIOR_TRIALS) / (own.judged + PRIOR_TRIALS)
            share = (own.brought + share * PRIOR_TRIALS) / (own.asked + PRIOR_TRIALS)
        return alpha, share


class DraftLength:
    """The measured rule of this module. Not thread-safe: the engine's thread calls it."""

    def __init__(self) -> None:
        self._drafters: dict[str, _Worth] = {}
        self._verify = CostCurve()
        self._rounds = 0
        self._tokens = 0.0
        self._ms = 0.0

    @property
    def starting(self) -> bool:
        """Whether these are the first rounds, which try lengths."""
        return self._rounds < START_ROUNDS

    def choose(self, asks: Items[Ask], batch: int) -> list[int]:
        """Tokens to ask each one's drafter for.

        Args:
            asks: Who could draft for which sequence, each sequence once.
            batch: Sequences that decode in this round; those that nobody asks for decode plainly.

        Returns:
            For each, 0 to its `most`; 0 decodes plainly.
        """
        plain_ms = self._verify.at(batch)
        if self.starting or plain_ms is None:
            return [round(ask.most * START[self._rounds % len(START)]) for ask in asks]
        rate = self._tokens / self._ms
        options = [self._options(ask, batch, plain_ms, rate) for ask in asks]
        lengths = [ask.most for ask in asks]
        askers = len(asks)
        while True:
            for index, gains in enumerate(options):
                if lengths[index]:
                    lengths[index] = _best(gains, rate / max(askers, 1))
            left = sum(length > ask.ready for length, ask in zip(lengths, asks, strict=True))
            if left == askers:
                break
            askers = left
        return self._settled(asks, lengths)

    def _options(self, ask: Ask, batch: int, plain_ms: float, rate: float) -> list[tuple[float, float]]:
        """Of 1, 2, .. tokens: what they gain in tokens, positions paid for, and the milliseconds of the wait."""
        worth = self._drafters.setdefault(ask.drafter, _Worth())
        alpha, share = worth.chances(ask.seq)
        options, tokens, chance = [], 0.0, 1.0
        for count in range(1, ask.most + 1):
            chance *= alpha
            tokens += chance
            more_ms = ((self._verify.at(batch * (1 + count)) or plain_ms) - plain_ms) / batch
            known = count <= ask.ready
            gain = (1.0 if known else share) * (tokens - rate * more_ms)
            options.append((gain, 0.0 if known else worth.time.at(count) or 0.0))
        return options

    def _settled(self, asks: Items[Ask], lengths: list[int]) -> list[int]:
        """The lengths, with now and then a token more, and probes of those that rest: together, since all wait."""
        records = [self._drafters[ask.drafter].own.setdefault(ask.seq, _Record()) for ask in asks]
        for index, (ask, own) in enumerate(zip(asks, records, strict=True)):
            if lengths[index]:
                own.plain, own.patience = 0, FIRST_PROBE
                worth = self._drafters[ask.drafter]
                worth.drafts += 1
                lengths[index] = min(ask.most, lengths[index] + (worth.drafts % STRETCH == 0))
            else:
                own.rest()
        resting = [index for index, length in enumerate(lengths) if not length]
        if any(records[index].plain >= records[index].patience for index in resting):
            for index in resting:
                if 2 * records[index].plain >= records[index].patience:
                    records[index].probe()
                    lengths[index] = min(asks[index].most, PROBE)
        return lengths

    def drafted(self, seq: int, drafter: str, drafted: int, accepted: int, asked: bool = True) -> None:
        """Learn from one sequence's round with a drafter; `drafted` is 0 where it was asked and had nothing to say."""
        worth = self._drafters.setdefault(drafter, _Worth())
        own = worth.own.setdefault(seq, _Record())
        own.fade(MEMORY)
        own.add(drafted, accepted, asked)
        worth.general.fade(CROWD_MEMORY)
        worth.general.add(drafted, accepted, asked)

    def timed(
        self, timings: Items[DraftTiming], verify_ms: float, positions: int, tokens: int, round_ms: float
    ) -> None:
        """Learn from one round's times.

        Args:
            timings: Of the drafters that were asked.
            verify_ms: Of the forward and the verdict.
            positions: Tokens in that forward.
            tokens: Tokens that all sequences together gained.
            round_ms: Of the whole round.
        """
        for timing in timings:
            self._drafters.setdefault(timing.drafter, _Worth()).time.add(timing.length, timing.draft_ms)
        self._verify.add(positions, verify_ms)
        self._rounds += 1
        self._tokens = RATE_MEMORY * self._tokens + tokens
        self._ms = RATE_MEMORY * self._ms + round_ms

    def closed(self, seq: int) -> None:
        """Forget a sequence."""
        for worth in self._drafters.values():
            worth.own.pop(seq, None)


def _best(options: Items[tuple[float, float]], price: float) -> int:
    """The length that gains most where a millisecond of waiting costs `price` tokens; 0 where all lose."""
    best, length = 0.0, 0
    for count, (gain, wait_ms) in enumerate(options, 1):
        net = gain - price * wait_ms
        if net > best:
            best, length = net, count
    return length
