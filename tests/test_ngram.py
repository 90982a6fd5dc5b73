"""Prompt lookup: which earlier occurrence is copied, and how far."""

from __future__ import annotations

import pytest

from paceline.actors.drafter_options import NgramOptions
from paceline.actors.messages import Commit, Laws, Open, Propose
from paceline.actors.ngram import Ngram
from paceline.actors.sampling import Sampling


def draft(tokens: list[int], length: int, **options: int) -> list[int]:
    drafter = Ngram(NgramOptions(**options), 100)
    drafter.open([Open(1, tokens, Sampling())])
    return drafter.propose([Propose(1, len(tokens), length)])[0].tokens


@pytest.mark.parametrize(
    ("tokens", "length", "options", "expected"),
    [
        ([1, 2, 3, 9, 8, 1, 2, 3], 2, {}, [9, 8]),
        ([1, 2, 5, 1, 2, 6, 1, 2], 1, {}, [6]),  # the most recent occurrence
        ([4, 1, 2, 5, 7, 1, 2, 6, 4, 1, 2], 1, {}, [5]),  # the longest match before the most recent
        ([1, 2, 1, 2, 1, 2], 5, {}, [1, 2, 1, 2, 1]),  # a loop is drafted as a loop
        ([7, 7], 3, {"min_ngram": 1}, [7, 7, 7]),
        ([1, 2, 3, 4], 3, {}, []),  # nothing repeats
        ([1, 5, 2, 1], 2, {}, []),  # a single token does not count ...
        ([1, 5, 2, 1], 2, {"min_ngram": 1}, [5, 2]),  # ... unless it may
        ([9, 1, 2, 5, 8, 1, 2, 6, 9, 1, 2], 1, {"max_ngram": 2}, [6]),  # longer matches are not looked for
        ([3], 2, {"min_ngram": 1}, []),
    ],
)
def test_what_is_copied(tokens: list[int], length: int, options: dict[str, int], expected: list[int]) -> None:
    assert draft(tokens, length, **options) == expected


def test_a_sampled_score_is_the_targets_probability_of_the_guess() -> None:
    drafter = Ngram(NgramOptions(), 100)
    drafter.open([Open(1, [1, 2, 3, 1, 2], Sampling(temperature=1.0))])
    p = Laws(*_laws([{3: 0.25, 4: 0.5}, {1: 0.9}, {5: 1.0}]))
    # guesses: 3 after (1, 2); 1 after (3,) is too short a context: (2, 3) is followed by 1; after 7 nothing
    assert drafter.commit([Commit(1, 5, [3, 7, 5], p)])[0].tolist() == pytest.approx([0.25, 0.9, 0.0])


def _laws(rows: list[dict[int, float]]) -> tuple[object, object]:
    import numpy as np

    ids = np.full((len(rows), 2), -1, np.int32)
    probs = np.zeros((len(rows), 2), np.float32)
    for index, row in enumerate(rows):
        ids[index, : len(row)], probs[index, : len(row)] = list(row), list(row.values())
    return ids, probs
