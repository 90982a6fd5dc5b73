"""How long news is gathered: no older in tokens of a sequence beside others than alone, and never for long."""

from __future__ import annotations

import pytest

from paceline.actors.gathering import ALONE_S, LONGEST_S, gather_s


@pytest.mark.parametrize(("sequences", "seconds"), [(0, ALONE_S), (1, ALONE_S), (4, 2 * ALONE_S), (400, LONGEST_S)])
def test_the_more_sequences_the_longer_and_never_beyond_the_bound(sequences: int, seconds: float) -> None:
    assert gather_s(sequences) == pytest.approx(seconds)


def test_news_of_each_sequence_is_no_older_in_tokens() -> None:
    """A target that makes at most n^0.5 times as many tokens of n sequences as of one, which is what batches of a small
    model bring."""
    alone = gather_s(1)
    assert all(gather_s(n) * n**0.5 / n <= alone + 1e-9 for n in range(1, 65))
