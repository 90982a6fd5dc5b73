"""Scores as `RequestLog` takes them, from plain ones."""

from __future__ import annotations

from collections import Counter

from paceline.actors.messages import Score, ScoreArrays
from paceline.cluster.score_table import ScoreInbox, ScoreTable

NAMES = ("a", "b", "ngram")


def table(drafter: str, *scores: Score) -> ScoreTable:
    """One drafter's scores, by columns of `NAMES`."""
    inbox, refused = ScoreInbox(), Counter[str]()
    inbox.put(drafter, ScoreArrays.of(scores))
    found = inbox.take(NAMES, lambda reason, count: refused.update({reason: count}))
    assert found is not None
    assert not refused
    return found
