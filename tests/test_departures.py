"""When the refused are told to come back: a scripted clock, and the engine's own refusals."""

from __future__ import annotations

import pytest
from engine_rig import LIMITS, Rig
from table_model import TableModel

from paceline.actors.departures import Departures
from paceline.actors.engine import EngineLimits
from paceline.actors.errors import Overloaded


def test_half_of_the_queue_at_the_pace_of_late() -> None:
    now = 100.0
    seen = Departures(lambda: now)
    assert seen.retry_after_s(64) == 1.0, "nothing is known yet"
    for _ in range(9):
        seen.note()
        now += 0.5
    # 8 intervals in 4.5 s up to now
    assert seen.retry_after_s(64) == pytest.approx(32 * 4.5 / 8)
    assert seen.retry_after_s(2) == 1.0
    now += 4.5
    assert seen.retry_after_s(8) == pytest.approx(4 * 9 / 8), "a pause makes it later"
    now += 1000
    assert seen.retry_after_s(64) == 30.0
    for _ in range(40):
        seen.note()
    assert seen.retry_after_s(64) == 1.0, "only the newest count"


def test_the_engine_tells_by_its_own_pace() -> None:
    made = Rig(TableModel(), {}, EngineLimits(**LIMITS | {"max_sequences": 2, "max_queue": 8, "max_context": 64}))
    now = 0.0
    made.engine._departures = Departures(lambda: now)
    for _ in range(10):
        made.submit([1], 4)
    with pytest.raises(Overloaded) as refused:
        made.submit([1], 4)
    assert refused.value.retry_after_s == 1.0
    for _ in range(2):
        now += 2.0
        made.engine._admit()
        while made.engine.running:
            made.engine._round()
    for _ in range(4):
        made.submit([1], 4)
    with pytest.raises(Overloaded) as refused:
        made.submit([1], 4)
    # 4 ended, two at 2 s and two at 4 s: 3 intervals in 2 s; 10 wait.
    assert refused.value.retry_after_s == pytest.approx(5 * 2 / 3)
