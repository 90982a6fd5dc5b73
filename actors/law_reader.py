"""From a model drafter's logits to its laws, after each sequence's temperature, top-k and top-p."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from paceline.actors.drafter_law import Law
from paceline.actors.sampling import Sampling
from paceline.kernels.law import likeliest, sampling_law, top_width

Vocabulary = npt.NDArray[np.int64]  # the target's id of each column of a drafter's logits


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
            p = sampling_law(
                logits if not points else logits[drawn],
                torch.tensor([s.temperature for s in chosen]),
                torch.tensor([s.top_k for s in chosen]),
                torch.tensor([s.top_p for s in chosen]),
            )
            columns, probs = (tensor.cpu().numpy() for tensor in top_width(p, self._width, renormalise=True))
            ids = np.where(columns >= 0, self._named(columns), -1).astype(np.int32)
            for index, row in enumerate(drawn):
                laws[row] = Law(int(ids[index, 0]), float(probs[index, 0]), ids[index], probs[index])
        return [law for law in laws if law is not None]

    def _named(self, columns: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return columns if self._vocabulary is None else self._vocabulary[columns]
