"""Drafted tokens that were not verified yet, kept for the next round while the text goes as they said.

To wait for a draft costs a round trip, however long the draft is; a drafter that answers at once is therefore asked
for the next round's draft, too. Only point masses are carried: they follow from the committed text alone. Of drawn
tokens it would matter that how many are left, and so whether a fresh draft is drawn instead, may depend on the tokens
themselves, which are then not distributed as their law says. `round` keeps one draft per sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.actors.messages import Draft, Laws


@dataclass(frozen=True, slots=True)
class CarriedDraft:
    """A drafter's tokens from the end of the committed text on."""

    drafter: str
    draft: Draft


def first_tokens(draft: Draft, length: int) -> Draft:
    """The first tokens of a draft, `length` at most."""
    q = None if draft.q is None else Laws(draft.q.ids[:length], draft.q.probs[:length])
    return Draft(draft.seq, draft.start, draft.tokens[:length], q)


def carry(drafter: str, draft: Draft, committed: list[int]) -> CarriedDraft | None:
    """What is left of a draft after `committed` tokens; None where they went another way, or nothing may be left."""
    count = len(committed)
    if draft.q is not None or draft.tokens[:count] != committed or len(draft.tokens) == count:
        return None
    return CarriedDraft(drafter, Draft(draft.seq, draft.start + count, draft.tokens[count:]))
