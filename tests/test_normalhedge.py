"""NormalHedge: the weights solve the published equation, sleepers are left alone, and it finds the best drafter."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from paceline.cluster.normalhedge import NormalHedge, normalhedge_weights

ROOT = Path(__file__).resolve().parent.parent


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


def test_learning_is_vectorised_exactly() -> None:
    """A batch of learners, some asleep in part, equals each learner on its own."""
    rng = np.random.default_rng(1)
    losses = rng.random((30, 4, 5))  # [positions, learners, drafters]
    losses[rng.random(losses.shape) < 0.2] = np.nan
    together, alone = NormalHedge(4, 0.9), NormalHedge(4, 0.9)
    for _ in range(5):
        together.join()
        alone.join()
    for position in losses:
        together.learn(np.arange(4), position)
        for learner in range(4):
            alone.learn(np.array([learner]), position[[learner]])
    for learner in range(4):
        np.testing.assert_allclose(together.regret(learner), alone.regret(learner), atol=1e-12)


def test_a_sleeping_drafter_gets_no_regret_and_an_unheard_position_changes_nothing() -> None:
    hedge = NormalHedge(1, 1.0)
    for _ in range(3):
        hedge.join()
    row = np.zeros(1, dtype=np.intp)
    hedge.learn(row, np.array([[0.2, 0.6, np.nan]]))
    np.testing.assert_allclose(hedge.regret(0), [0.2, -0.2, 0.0])
    hedge.learn(row, np.full((1, 3), np.nan))
    np.testing.assert_allclose(hedge.regret(0), [0.2, -0.2, 0.0])


def test_a_new_drafter_that_is_better_takes_over_within_a_few_positions() -> None:
    hedge = NormalHedge(1, 0.97)
    hedge.join()
    hedge.join()
    row = np.zeros(1, dtype=np.intp)
    for _ in range(200):
        hedge.learn(row, np.array([[0.4, 0.8]]))
    hedge.join()
    for _ in range(5):
        hedge.learn(row, np.array([[0.4, 0.8, 0.1]]))
    assert hedge.weights(row, np.ones((1, 3), dtype=bool))[0, 2] > 0.9


@pytest.fixture(scope="module")
def sim() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sim_selector", ROOT / "benchmarks" / "sim_selector.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Seeded, so these never flicker; the floors lie over three standard errors (0.05 at 128 tokens, 0.03 at 512) below the
# means of 400 runs (4.69, 5.16; discounted and after a switch 4.76).
@pytest.mark.parametrize(
    ("tokens", "discount", "switch", "floor"),
    [(128, 1.0, False, 4.5), (512, 1.0, False, 5.05), (512, 0.97, False, 5.05), (512, 0.97, True, 4.6)],
)
def test_it_finds_the_best_of_seven(sim: ModuleType, tokens: int, discount: float, switch: bool, floor: float) -> None:
    assert sim.simulate("normalhedge", discount, tokens, switch=switch) >= floor


def test_it_is_forgetting_that_finds_the_new_best(sim: ModuleType) -> None:
    assert sim.simulate("normalhedge", 1.0, 512, switch=True, runs=20) < 4.0
