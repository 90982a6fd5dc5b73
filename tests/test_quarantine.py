"""Back-off doubles up to a limit and is forgiven; waiting follows what a drafter usually takes."""

from __future__ import annotations

import pytest
from fake_drafter import DEADLINE_S, Clock

from paceline.actors import quarantine
from paceline.actors.draft_latency import MARGIN_S, DraftLatency


def test_quarantine_doubles_up_to_its_limit_and_is_forgiven() -> None:
    clock = Clock()
    record = quarantine.Quarantine(clock)
    lengths = []
    for _ in range(9):
        lengths.append(record.punish())
        assert record.punish() == 0.0  # while it lasts, more of the same adds nothing
        clock.now_s += lengths[-1]
        assert not record.active
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    for _ in range(quarantine.GOOD_STRETCH):
        record.good()
    assert record.punish() == quarantine.FIRST_S


def test_patience_follows_what_was_measured() -> None:
    latency = DraftLatency(DEADLINE_S)
    for _ in range(5):
        assert latency.patience_s(7) == DEADLINE_S
        latency.observe(0.010, 7)
    usual_s = latency.patience_s(7)
    assert usual_s == pytest.approx(4 * 0.010 + MARGIN_S)
    assert latency.patience_s(3) == usual_s  # shorter drafts than usual get no less
    assert latency.patience_s(15) == pytest.approx(2 * 4 * 0.010 + MARGIN_S)
    latency.observe(0.030, 7)
    assert latency.patience_s(7) > usual_s + 4 * 0.2 * 0.020  # an unsteady drafter gets more
    for _ in range(30):
        latency.observe(5.0, 7)
    assert latency.patience_s(7) == DEADLINE_S
