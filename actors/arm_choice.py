"""What a sequence plays in a round: a drafter, drawn by the newest weights, and how many of its tokens are verified."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from paceline.actors.draft_length import Ask
from paceline.actors.engine_counts import NO_DRAFTER, NO_WEIGHTS
from paceline.actors.ports import DrafterPool, WeightsBoard
from paceline.actors.round_setup import Setup
from paceline.actors.sequence import Sequence

SLOW_MS = 3.0  # a drafter that usually takes longer drafts for one round only, and follows a sample of sequences
PLAIN = ""  # the arm of plain decoding
ROUNDING = 1e-5  # of weights that sum to 1
STAY = 0.25  # of the largest weight: a drafter with so much goes on while what it drafted comes true


@dataclass(frozen=True, slots=True)
class Arm:
    """A drafter, and how many of its tokens are verified."""

    drafter: str
    length: int


def choose_arms(sequences: Collection[Sequence], setup: Setup, usable: Collection[str]) -> dict[int, Arm]:
    """The arms of a round's sequences, by sequence id; who has none decodes plainly.

    Where the selector sets lengths, an arm is drawn with its length; for other sequences, for those that may not draft
    so long, and in the first rounds, which try lengths, a rule of the target's sets them: half of a slow draft costs
    nearly the whole wait. One draw serves all sequences of the round: those that would draft half of the time do so in
    the same rounds, and share the wait.
    """
    luck: float | None = None
    asks: list[Ask] = []
    arms: dict[int, Arm] = {}
    resting: list[tuple[Sequence, int]] = []
    rule = setup.lengths
    for sequence in sequences:
        most = sequence.draft_limit(setup.max_draft)
        if not most:
            continue
        lengths = setup.board.lengths(sequence.seq) if rule is None or not rule.starting else {}
        if lengths and luck is None:
            luck = setup.chance.random()
        drafter = draw_drafter(sequence, setup.board, setup.pool, usable, setup.chance, luck if lengths else None)
        if drafter is None:
            setup.counts.fallbacks[NO_WEIGHTS if usable else NO_DRAFTER] += 1
        elif drafter == PLAIN:
            resting.append((sequence, most))
        elif lengths.get(drafter, most + 1) <= most:
            length = setup.learned.of(lengths[drafter], carried_tokens(sequence, drafter), most)
            arms[sequence.seq] = Arm(drafter, length)
        else:
            asks.append(Ask(sequence.seq, drafter, most, carried_tokens(sequence, drafter)))
    if (arms or resting) and setup.learned.resting(plain=not arms and bool(resting)):
        sequence, most = setup.chance.choice(resting)
        lengths, weights = setup.board.lengths(sequence.seq), setup.board.weights(sequence.seq)
        drafter = max(
            _askable(sequence, setup.pool, usable), key=lambda name: (weights.get(name, 0.0), setup.chance.random())
        )
        arms[sequence.seq] = Arm(drafter, min(lengths.get(drafter, 1), most))
    chosen = [ask.most for ask in asks] if rule is None else rule.choose(asks, len(sequences))
    return arms | {ask.seq: Arm(ask.drafter, length) for ask, length in zip(asks, chosen, strict=True) if length}


def carried_tokens(sequence: Sequence, drafter: str) -> int:
    """How many tokens of a drafter are at hand."""
    carried = sequence.carried
    return len(carried.draft.tokens) if carried is not None and carried.drafter == drafter else 0


def ask_length(sequence: Sequence, arm: Arm, pool: DrafterPool) -> int:
    """How many tokens to ask for: of a drafter that answers at once also the bonus and the next round's draft."""
    if not sequence.sampling.point_mass or (pool.draft_ms(arm.drafter) or SLOW_MS) >= SLOW_MS:
        return arm.length
    return min(2 * arm.length + 1, sequence.remaining - 1)


def draw_drafter(
    sequence: Sequence,
    board: WeightsBoard,
    pool: DrafterPool,
    usable: Collection[str],
    chance: Random,
    luck: float | None = None,
) -> str | None:
    """Draw a drafter by weight among those that can be asked for this sequence; None where there is none.

    One whose draft is at hand is not left for another that is hardly better: its draft costs no wait. With `luck`,
    in [0, 1), the draw is that; and what is missing from the weights to 1 is plain decoding's, which is drawn as PLAIN
    unless the request names its drafters.
    """
    weights: Mapping[str, float] = board.weights(sequence.seq)
    names = _askable(sequence, pool, usable)
    shares = [weights.get(name, 0.0) for name in names]
    named = bool(sequence.generation.drafters)  # those are played, whatever is thought of them
    rest = 1.0 - sum(weights.values()) if luck is not None and not named else 0.0
    rest = rest if rest > ROUNDING else 0.0
    if not any(shares):
        if names and rest:
            return PLAIN
        if not names or not named:
            return None
        shares = [1.0] * len(names)
    at_hand = sequence.carried.drafter if sequence.carried is not None else None
    if at_hand in names and weights.get(at_hand, 0.0) >= STAY * max(*shares, rest):
        return at_hand
    if luck is None:
        return chance.choices(names, shares)[0]
    ends = list(accumulate([*shares, rest]))
    return [*names, PLAIN][min(bisect_right(ends, luck * ends[-1]), len(names))]


def _askable(sequence: Sequence, pool: DrafterPool, usable: Collection[str]) -> list[str]:
    """The drafters that can be asked for this sequence."""
    return [
        name
        for name in usable
        if (not sequence.drafters or name in sequence.drafters) and pool.serves(name, sequence.seq)
    ]
