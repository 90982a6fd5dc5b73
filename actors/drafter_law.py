"""A drafter's law at one position: what it draws from, what it says of that, and how it scores. numpy only.

Kinds that make laws share it; `law_reader` makes them of logits. A greedy sequence needs the likeliest token only, a
sampled one the sparse law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paceline.actors.gamma import overlap_sparse, point_gammas
from paceline.actors.messages import Commit, Draft, Ids, Laws, Probs, Propose


@dataclass(frozen=True, slots=True)
class Law:
    """The law of one position: the likeliest token and its probability; for sampled sequences the whole sparse law."""

    best: int
    sure: float
    ids: Ids | None = None  # [width]
    probs: Probs | None = None  # [width]


def draw(law: Law, chance: np.random.Generator) -> tuple[int, float]:
    """A token and its probability: the likeliest where the sequence is greedy."""
    if law.ids is None or law.probs is None:
        return law.best, law.sure
    mass = np.cumsum(law.probs, dtype=np.float64)
    slot = int(np.searchsorted(mass, chance.random() * mass[-1], side="right"))  # never one without mass
    return int(law.ids[slot]), float(law.probs[slot])


def gammas(laws: Sequence[Law], commit: Commit) -> Probs:
    """Acceptance at a commit's positions; `laws` may end before them, and what is missing scores 0."""
    known, count = len(laws), len(commit.tokens)
    if commit.p is None or not laws or laws[0].ids is None:
        return point_gammas([law.best for law in laws] + [-1] * (count - known), commit)
    scored = np.zeros(count, dtype=np.float32)
    scored[:known] = overlap_sparse(Laws(commit.p.ids[:known], commit.p.probs[:known]), stack(laws))
    return scored


def draft(item: Propose, tokens: list[int], laws: Sequence[Law]) -> Draft:
    """What a drafter answers: its tokens, and the laws they were drawn from."""
    own = laws[: len(tokens)]
    return Draft(item.seq, item.start, tokens, stack(own) if own and own[0].ids is not None else None)


def stack(laws: Sequence[Law]) -> Laws:
    """Sparse laws as one array each of ids and probabilities, as wide as the widest."""
    width = max((len(law.ids) for law in laws if law.ids is not None), default=1)
    ids = np.full((len(laws), width), -1, dtype=np.int32)
    probs = np.zeros((len(laws), width), dtype=np.float32)
    for row, law in enumerate(laws):
        if law.ids is not None and law.probs is not None:
            ids[row, : len(law.ids)] = law.ids
            probs[row, : len(law.probs)] = law.probs
    return Laws(ids, probs)
