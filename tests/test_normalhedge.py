"""NormalHedge's law: the weights solve the published equation, over the drafters that are available."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paceline.cluster.normalhedge import normalhedge_weights


def by_bisection(regret: np.ndarray) -> np.ndarray:
    """The paper's weights, straight from its two equations."""
    positive = np.maximum(regret, 0.0)
    top, count = positive.max(), len(regret)
    low, high = top**2 / (2 * (1 + math.log(count))), top**2 / 2
    for _ in range(100):
        c = (low + high) / 2
        low, high = (c, high) if np.exp(positive**2 / (2 * c)).mean() > math.e else (low, c)
    weights = positive / c * np.exp(positive**2 / (2 * c))
    return weights / weights.sum()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("drafters", [1, 2, 7, 64])
def test_weights_agree_with_bisection(drafters: int, scale: float) -> None:
    rng = np.random.default_rng(drafters)
    regret = rng.normal(size=(50, drafters)) * scale
    regret[:, 0] = np.abs(regret[:, 0])  # NormalHedge proper: somebody has positive regret
    regret[0] = scale  # all alike
    got = normalhedge_weights(regret, np.ones_like(regret, dtype=bool))
    for row, weights in zip(regret, got, strict=True):
        np.testing.assert_allclose(weights, by_bisection(row), atol=1e-9)


def test_weights_are_over_available_drafters_only() -> None:
    regret = np.array([[3.0, 1.0, 2.0, -1.0]] * 2)
    available = np.array([[False, True, True, True], [False, False, False, False]])
    got = normalhedge_weights(regret, available)
    np.testing.assert_allclose(got[0, 1:], by_bisection(regret[0, 1:]), atol=1e-9)
    assert got[0, 0] == 0
    assert got[1].tolist() == [0, 0, 0, 0]


def test_without_positive_regret_the_better_ones_lead() -> None:
    """The leader is down: what is known of the others is not thrown away."""
    got = normalhedge_weights(np.array([[5.0, -1.0, -4.0, -4.0]]), np.array([[False, True, True, True]]))[0]
    assert got.argmax() == 1
    assert got[1] > 0.9
    nothing = normalhedge_weights(np.zeros((1, 4)), np.ones((1, 4), dtype=bool))
    assert nothing.tolist() == [[0.25] * 4]
