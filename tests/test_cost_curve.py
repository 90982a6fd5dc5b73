"""The curve of times: medians, steps, a fair guess between and beyond, and nothing forgotten for being rare."""

from __future__ import annotations

import pytest

from paceline.actors.cost_curve import AMOUNTS, EVERY, WARM_UP, CostCurve


def curve(points: dict[int, float], times: int = 8) -> CostCurve:
    made = CostCurve()
    for _ in range(WARM_UP):
        made.add(1, 500.0)
    for _ in range(times):
        for work, ms in points.items():
            made.add(work, ms)
    return made


def test_nothing_is_said_before_the_warm_up_is_over() -> None:
    made = CostCurve()
    for _ in range(WARM_UP):
        made.add(1, 900.0)
        assert made.at(1) is None
    made.add(1, 10.0)
    assert made.at(1) == 10.0


def test_a_step_stays_a_step() -> None:
    made = curve({1: 10, 2: 10, 4: 10, 5: 18, 8: 18})
    assert [made.at(work) for work in (1, 3, 4, 5, 6, 8)] == [10, 10, 10, 18, 18, 18]


def test_between_and_beyond_what_was_measured() -> None:
    made = curve({2: 10, 10: 26})
    assert made.at(1) == 10
    assert made.at(6) == pytest.approx(18)
    assert made.at(20) == pytest.approx(46)
    assert curve({4: 8}).at(8) == pytest.approx(16), "of one amount, in proportion"


def test_a_stalled_machine_is_not_a_dear_step() -> None:
    made = curve({1: 10, 4: 12})
    for _ in range(3):
        made.add(4, 400.0)
    for _ in range(EVERY):
        made.add(1, 10.0)
    assert made.at(4) == 12


def test_more_work_never_costs_less() -> None:
    made = curve({1: 10, 2: 14, 3: 12, 8: 20})
    times = [made.at(work) for work in range(1, 10)]
    assert times == sorted(times)  # type: ignore[type-var]
    assert made.at(2) == made.at(3) == pytest.approx(13)


def test_it_follows_a_change_and_remembers_rare_amounts() -> None:
    made = curve({1: 10, 8: 20})
    for _ in range(200):
        made.add(1, 15.0)
    assert made.at(1) == 15
    assert made.at(8) == 20


def test_it_is_bounded() -> None:
    made = CostCurve()
    for work in range(1000):
        made.add(work, 1.0 + work)
    assert len(made._times) == AMOUNTS
    assert made.at(999) == pytest.approx(1000)
