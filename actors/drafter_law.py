"""Laws of a drafter that is a model: from its logits to what it draws from, what it says of that, and how it scores.

`model_drafter` and `head` share it. A greedy sequence needs the likeliest token only; a sampled one the sparse law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from paceline.actors.gamma import overlap_sparse, point_gammas
from paceline.actors.messages import Commit, Draft, Ids, Laws, Probs, Propose
from paceline.actors.sampling import Sampling
from paceline.kernels.law import likeliest, sampling_law, top_width

Vocabulary = npt.NDArray[np.int64]  # the target's id of each column of a drafter's logits


@dataclass(frozen=True, slots=True)
class Law:
    """The law of one position: the likeliest token and its probability; for sampled sequences the whole sparse law."""

    best: int
    sure: float
    ids: Ids | None = None  # [width]
    probs: Probs | None = None  # [width]


class LawReader:
    """Makes laws of logits.

    Args:
        width: Ids kept of a law that is sampled from.
        min_confidence: Above 0 the probability of a greedy sequence's likeliest token is worked out, too.
        vocabulary: The target's id of each column of the logits; None where they are the same.
    """

    def __init__(self, width: int, min_confidence: float, vocabulary: Vocabulary | None = None) -> None:
        self._width = width
        self._min_confidence = min_confidence
        self._vocabulary = vocabulary

    def read(self, logits: torch.Tensor, samplings: Sequence[Sampling]) -> list[Law]:
        """One law per row of logits [rows, columns]."""
        laws: list[Law | None] = [None] * len(samplings)
        points = [row for row, sampling in enumerate(samplings) if sampling.point_mass]
        drawn = [row for row, sampling in enumerate(samplings) if not sampling.point_mass]
        if points:
            rows = logits if not drawn else logits[points]
            best = self._named(likeliest(rows).numpy(force=True)).tolist()
            sure = [1.0] * len(points)
            if self._min_confidence > 0:
                sure = rows.float().softmax(dim=-1).amax(dim=-1).tolist()
            for row, token, probability in zip(points, best, sure, strict=True):
                laws[row] = Law(token, probability)
        if drawn:
            chosen = [samplings[row] for row in drawn]
            device = logits.device
            p = sampling_law(
                logits if not points else logits[drawn],
                torch.tensor([s.temperature for s in chosen], device=device),
                torch.tensor([s.top_k for s in chosen], device=device),
                torch.tensor([s.top_p for s in chosen], device=device),
            )
            columns, probs = (tensor.cpu().numpy() for tensor in top_width(p, self._width, renormalise=True))
            ids = np.where(columns >= 0, self._named(columns), -1).astype(np.int32)
            for index, row in enumerate(drawn):
                laws[row] = Law(int(ids[index, 0]), float(probs[index, 0]), ids[index], probs[index])
        return [law for law in laws if law is not None]

    def _named(self, columns: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return columns if self._vocabulary is None else self._vocabulary[columns]


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
    """Sparse laws as one array each of ids and probabilities."""
    ids = np.stack([law.ids for law in laws if law.ids is not None])
    return Laws(ids, np.stack([law.probs for law in laws if law.probs is not None]))
