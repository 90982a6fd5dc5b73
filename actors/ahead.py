"""Drafts that nobody waits for: asked for in one round, and played in the next if the text went as they begin.

All sequences of a round wait for a draft, so the more there are, the less one draft is worth its wait. Asked for and
not waited for, it is made while the target runs, in the round that its sequence decodes plainly; if the token of that
round is its first, the rest is at hand for the next one. So only drafts that may be carried are asked ahead
(`carried_draft`), and only of drafters that answer at once: a slow one would take the target's processors for longer
than its draft is good for, and not be there when it is wanted. `round` calls this.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Sequence as Items

from paceline.actors.arm_choice import SLOW_MS, Arm, carried_tokens
from paceline.actors.carried_draft import carry
from paceline.actors.draft_length import Ask
from paceline.actors.messages import Draft
from paceline.actors.ports import DrafterPool, Drafts
from paceline.actors.round_setup import Setup
from paceline.actors.sequence import Sequence

Asks = Mapping[str, Items[tuple[Sequence, int]]]  # by drafter: sequences, and tokens to ask for


def take_arrived(sequences: Items[Sequence], setup: Setup) -> Collection[int]:
    """Give sequences what was asked ahead for them and has come.

    Returns:
        Those for which a draft is still on its way: it goes from where they are now, so they play no other meanwhile.
    """
    came = setup.pool.arrived()
    for sequence in sequences:
        if sequence.seq not in came.drafts:
            continue
        drafter, draft = came.drafts[sequence.seq]
        since = sequence.tokens[draft.start :]
        sequence.carried = carry(drafter, draft, since) or sequence.carried
        if setup.lengths is not None and since:  # its first token was judged, if only by the way
            setup.lengths.drafted(sequence.seq, drafter, 1, int(since[0] == draft.tokens[0]))
    return came.awaited


def worth_waiting(asks: Asks, setup: Setup) -> bool:
    """Whether a round should wait for these drafts, or else have them a round later: also where they would be of no use
    then, and where it is not known how long they take."""
    rule = setup.lengths
    if rule is None or rule.starting or not asks:
        return True
    wait_ms = 0.0
    for drafter, wanted in asks.items():
        usual_ms = setup.pool.draft_ms(drafter)
        if usual_ms is None or usual_ms >= SLOW_MS or not all(s.sampling.point_mass for s, _ in wanted):
            return True
        wait_ms = max(wait_ms, usual_ms)
    drafts = [Ask(s.seq, drafter, length) for drafter, wanted in asks.items() for s, length in wanted]
    return rule.lost_by_delay(drafts) >= rule.rate * wait_ms


def ask_ahead(asks: Asks, arms: dict[int, Arm], pool: DrafterPool) -> Drafts:
    """Ask and go on; a sequence that asked plays what it has at hand of that drafter, or nothing: `arms` follows.

    The token of this round is the first of what is asked for, so that is one more.
    """
    at_hand: dict[int, Draft] = {}
    for drafter, wanted in asks.items():
        for sequence, _ in wanted:
            ready = carried_tokens(sequence, drafter)
            if ready and sequence.carried is not None:
                at_hand[sequence.seq] = sequence.carried.draft
                arms[sequence.seq] = Arm(drafter, ready)
            else:
                del arms[sequence.seq]
    longer = {
        drafter: [(sequence, min(length + 1, sequence.remaining - 1)) for sequence, length in wanted]
        for drafter, wanted in asks.items()
    }
    return Drafts(at_hand, pool.ask_ahead(longer))
