"""What is kept of gammas to be explained: told apart by sequence and drafter, bounded, and room that is used again."""

from __future__ import annotations

import numpy as np

from paceline.cluster.gamma_pages import PAGE, GammaPages
from paceline.cluster.score_table import Entries


def put(pages: GammaPages, *scores: tuple[int, int, int, list[float]]) -> None:
    """Scores of (row, column, first position, gammas)."""
    rows, columns, starts = (np.array([score[place] for score in scores]) for place in range(3))
    entries = Entries.of(starts, np.array([len(score[3]) for score in scores]))
    pages.put(rows, columns, entries, np.array([g for score in scores for g in score[3]], dtype=np.float32))


def test_pages_are_as_one_array_for_each_sequence() -> None:
    random = np.random.default_rng(0)
    most, drafters = 3 * PAGE + 5, 4
    pages, expected = GammaPages(most), {}
    for _ in range(20):
        expected[pages.open()] = np.full((most, drafters), np.nan, dtype=np.float32)
    for _ in range(40):
        scores = []
        for row in random.choice(list(expected), 8, replace=False).tolist():
            column, start = int(random.integers(drafters)), int(random.integers(-10, most + 10))
            gammas = random.random(int(random.integers(0, 50)), dtype=np.float32)
            scores.append((row, column, start, gammas.tolist()))
            for position, gamma in enumerate(gammas, start):
                if 0 <= position < most:
                    expected[row][position, column] = gamma
        put(pages, *scores)
    for row, whole in expected.items():
        for first, last in ((0, most), (5, 9), (PAGE - 1, 2 * PAGE + 1), (most, most + 40), (7, 7)):
            found = pages.read(row, first, last)
            inside = whole[first:last, : found.shape[1]]
            np.testing.assert_array_equal(found[: len(inside)], inside)
            assert np.isnan(found[len(inside) :]).all()
            assert len(found) == last - first


def test_what_is_closed_makes_room_and_nothing_of_it_shows_in_what_follows() -> None:
    pages = GammaPages(10 * PAGE)
    for _ in range(50):
        row = pages.open()
        put(pages, (row, 1, 0, [0.5] * 5 * PAGE))
        assert np.isnan(pages.read(row, 0, 5 * PAGE)[:, 0]).all()
        assert np.isnan(pages.read(row, 5 * PAGE, 10 * PAGE)).all()
        pages.close(row)
        again = pages.open()
        assert np.isnan(pages.read(again, 0, 10 * PAGE)).all()
        pages.close(again)
    assert len(pages._pages) <= 8, "pages are given out again"
