"""What rounds cost, and the loss that follows: least time per token in the long run."""

from __future__ import annotations

import numpy as np
import pytest

from paceline.actors.messages import DraftTiming
from paceline.cluster.round_cost import ROUND, RoundCost, RoundLoss

K = 4


def measured(*draft_ms: float, verify_ms: float = 20.0) -> RoundCost:
    cost = RoundCost()
    for _ in draft_ms:
        cost.join()
    for _ in range(6):
        cost.measured([(i, DraftTiming(str(i), 1, K, ms)) for i, ms in enumerate(draft_ms)], verify_ms)
    return cost


def best_by_loss(cost: RoundCost, starts: np.ndarray) -> int:
    """Which drafter has the least loss over these positions, [positions, drafters]."""
    losses = RoundLoss("time", cost).losses(starts)
    assert (losses >= 0).all()
    return int(losses.sum(axis=0).argmin())


def test_time_loss_prefers_what_makes_more_tokens_per_second() -> None:
    starts = np.tile([1 / 2.0, 1 / 2.5], (200, 1))
    assert best_by_loss(measured(5.0, 5.0), starts) == 1
    assert best_by_loss(measured(1.0, 30.0), starts) == 0  # 2 / 21 ms beats 2.5 / 50 ms
    assert best_by_loss(measured(1.0, 4.0), starts) == 1  # 2 / 21 ms loses to 2.5 / 24 ms


def test_losses_are_times_of_rounds_and_rounds_alone_until_one_was_measured() -> None:
    starts = np.array([[1.0, 0.25], [0.5, np.nan]])
    assert RoundLoss("time", RoundCost()).losses(starts)[0].tolist() == [ROUND, ROUND / 4]
    cost = measured(5.0, 30.0)
    assert RoundLoss("eal", cost).losses(starts)[0].tolist() == [ROUND, ROUND / 4]
    assert RoundLoss("time", cost).losses(starts)[0] == pytest.approx([ROUND, ROUND / 4 * 50 / 25])
    assert np.isnan(RoundLoss("time", cost).losses(starts)[1, 1])


def test_costs_are_robust_and_compared_at_the_same_load() -> None:
    cost = RoundCost()
    for _ in range(3):
        cost.join()
    assert cost.round_ms() is None
    for ms in (900.0, 700.0, *[4.0] * 8, 4000.0):  # warm-up and a stall
        cost.measured([(0, DraftTiming("a", 1, K, ms))], 20.0)
    assert cost.draft_ms()[0] == pytest.approx(4.0, rel=0.2)
    round_ms = cost.round_ms()
    assert round_ms is not None
    assert round_ms[1] == round_ms[0]  # never measured: as fast as the fastest
    busy = RoundCost()
    busy.join()
    busy.join()
    for number in range(20):  # both take 2 ms + 1 ms per sequence; the popular one has the big batches
        many = 6 + number % 3
        few = 1 + number % 2
        busy.measured(
            [(0, DraftTiming("a", many, K, 2.0 + many)), (1, DraftTiming("b", few, K, 2.0 + few))], verify_ms=20.0
        )
    both = busy.draft_ms()
    assert both[0] == pytest.approx(both[1], rel=0.1)
