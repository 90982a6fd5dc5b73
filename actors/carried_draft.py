"""Drafted tokens that were not verified yet, kept for the next round while the text goes as they said.

To wait for a draft costs a round trip, however long the draft is; a drafter that answers at once is therefore asked for
the next round's draft, too. What is carried was drawn given the very tokens that were committed meanwhile, so it is as
good a draft as a fresh one, and its law is the law it was drawn from. `round` keeps one per sequence.
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
    """What is left of a draft after `committed` tokens; None where they went another way, or nothing is left."""
    count = len(committed)
    if draft.tokens[:count] != committed or len(draft.tokens) == count:
        return None
    q = None if draft.q is None else Laws(draft.q.ids[count:], draft.q.probs[count:])
    return CarriedDraft(drafter, Draft(draft.seq, draft.start + count, draft.tokens[count:], q))
