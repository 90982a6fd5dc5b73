"""What arms cost at a load: fits of what was measured, hope for what was not, and what a millisecond is worth."""

from __future__ import annotations

import numpy as np
import pytest

from paceline.actors.messages import DraftTiming, RoundContext, SequenceRound, TargetReport
from paceline.cluster.arm_cost import ArmCost, going_rate


def test_a_lone_asker_pays_for_the_wait_of_all_and_many_share_it() -> None:
    more, wait, asked = np.full((8, 1, 1), 1.0), np.full((8, 1, 1), 6.0), np.ones((8, 1))
    eal = np.ones((8, 2, 1))
    eal[:, 1] = 2.0
    rate, share = going_rate(eal, more, wait, asked, 20.0)
    assert share == 1.0
    assert rate == pytest.approx(2.0 / 27.0)
    eal[1:, 1] = 1.0
    rate, share = going_rate(eal, more, wait, asked, 20.0)
    assert share == 8.0, "one of eight asks, and all wait"
    assert rate == pytest.approx((2.0 + 7 * 1.0) / 8 / (20.0 + 1.0 / 8 + 6.0)) or rate == pytest.approx(1 / 20)


def test_the_costs_of_unmeasured_work_are_hopeful_and_the_measured_ones_right() -> None:
    cost = ArmCost(4, np.array([1, 3, 7]))
    cost.join()
    cost.join()
    assert cost.prices(1, 1) is None
    for _ in range(4):
        for positions in (8, 16):
            cost.measured(
                [(0, DraftTiming("a", 1, 7, 3.0))],
                TargetReport("t", verify_ms=10.0 + positions, verify_tokens=positions),
            )
    prices = cost.prices(2, 2)
    assert prices is not None
    assert prices.more_ms[-1] == pytest.approx(26.0 - 18.0 * 2 / 8)  # 16 positions were measured, 2 were not
    assert prices.wait_ms[0].tolist() == pytest.approx([3.0 / 7, 9.0 / 7, 3.0])
    assert prices.wait_ms[1].tolist() == prices.wait_ms[0].tolist(), "never timed: as fast as the fastest"


def test_a_draft_for_many_says_little_of_one_for_one() -> None:
    cost = ArmCost(4, np.array([1, 4]))
    cost.join()
    for _ in range(4):
        for length in (1, 4):
            timing = DraftTiming("a", 8, length, 40.0 * length)
            cost.measured([(0, timing)], TargetReport("t", verify_ms=10.0, verify_tokens=16))

    def waits(askers: int) -> list[float]:
        prices = cost.prices(16, askers)
        assert prices is not None
        return prices.wait_ms[0].tolist()

    assert waits(8) == waits(13) == waits(16) == pytest.approx([40.0, 160.0])
    assert waits(1) == pytest.approx([5.0, 20.0]), "hopeful, and so it is tried"
    for _ in range(4):
        for length in (1, 4):
            cost.measured([(0, DraftTiming("a", 1, length, 12.0 * length))], TargetReport("t"))
    assert waits(1) == waits(7) == pytest.approx([12.0, 48.0])
    assert waits(8) == pytest.approx([40.0, 160.0])
    again = ArmCost(4, np.array([1, 4]))
    again.join()
    again.restore_wait(0, cost.wait_points(0))
    assert again.wait_points(0) == cost.wait_points(0)


def test_the_time_around_a_forward_is_that_of_all_sequences_in_it() -> None:
    """Here 5 ms of one, 8 of four, of which only one drafts."""
    cost = ArmCost(4, np.array([1, 3]))
    cost.join()
    for _ in range(4):
        for sequences, rest_ms in ((1, 5.0), (4, 8.0)):
            told = SequenceRound(1, 12, "a", 3, 1, 3)
            context = RoundContext(2.0, 2.0 + 10.0 + rest_ms)
            news = TargetReport("t", rounds=[told], verify_ms=10.0, verify_tokens=sequences + 3, context=context)
            assert news.decoding == sequences
            cost.measured([], news)
    alone, busy = cost.prices(1, 1), cost.prices(4, 1)
    assert alone is not None
    assert busy is not None
    assert busy.plain_ms == pytest.approx(18.0)
    assert alone.plain_ms == pytest.approx(10.0 / 4 + 5.0)


def test_who_decodes_plainly_beside_shares_the_wait_and_makes_a_token() -> None:
    more, wait, asked = np.full((2, 1, 1), 1.0), np.full((2, 1, 1), 6.0), np.ones((2, 1))
    eal = np.ones((2, 2, 1))
    eal[:, 1] = 3.0
    rate, share = going_rate(eal, more, wait, asked, 20.0, others=2)
    assert rate == pytest.approx((2 * 3.0 + 2) / 4 / (20.0 + 1.0 / 2 + 6.0))
    assert share == 2.0, "two of four ask"
