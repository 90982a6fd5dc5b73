"""The ring of acceptances: the expected length it computes, when it releases it, and what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from paceline.cluster.gamma_ring import GammaRing

K, C = 3, 2
DELAY = 2 * K + C


def gammas(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def told(ring: GammaRing, committed: int) -> np.ndarray:
    """What is released, of the longest draft, [positions, drafters]."""
    return ring.advance(committed).eal[:, :, -1]


def test_eal_is_the_expected_length_over_every_way_a_draft_can_go() -> None:
    chances = np.array([0.9, 0.4, 0.7])
    expected = 0.0
    for hits in itertools.product([True, False], repeat=K):
        chance = np.prod(np.where(hits, chances, 1 - chances))
        accepted = list(itertools.takewhile(bool, hits))
        expected += chance * (len(accepted) + 1)
    ring = GammaRing(5, K, C, 1)
    ring.put(0, 5, chances.astype(np.float32))
    assert told(ring, 5 + DELAY)[0, 0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("steps", [[DELAY + 3], [1] * (DELAY + 3), [4, DELAY - 5, 3, 1]])
def test_release_depends_on_token_time_alone(steps: list[int]) -> None:
    """However rounds fall, position s comes at token-time s + 2K + C, neither sooner nor later, and only once."""
    start = 10
    ring = GammaRing(start, K, C, 2)
    ring.put(0, start, np.linspace(0.1, 0.9, 12, dtype=np.float32))
    committed, released = start, []
    for step in steps:
        committed += step
        released += [eal[0] for eal in told(ring, committed)]
        assert len(released) == max(committed - start - DELAY + 1, 0)
    assert released == sorted(released)  # gammas rise, so the windows come in order
    assert len(set(released)) == 4


def test_windows_span_rounds_and_are_not_cut() -> None:
    """A window whose last gamma came rounds later counts in full."""
    ring = GammaRing(0, K, C, 1)
    ring.put(0, 0, gammas(1))
    told(ring, 1)
    ring.put(0, 1, gammas(1, 1))
    told(ring, 3)
    assert told(ring, DELAY)[0, 0] == K + 1


def test_a_missing_gamma_puts_only_that_drafter_to_sleep() -> None:
    ring = GammaRing(0, K, C, 2)
    ring.put(0, 0, gammas(0.5, 0.5, 0.5))
    ring.put(1, 0, gammas(0.0, 0.5))  # the first rejection decides, yet the window is not complete
    eal = told(ring, DELAY)
    assert eal[0, 0] == pytest.approx(1.875)
    assert np.isnan(eal[0, 1])


def test_scores_may_overtake_reports_and_lag_behind_them() -> None:
    ring = GammaRing(0, K, C, 1)
    assert len(ring.put(0, 0, gammas(1, 1, 1, 1)).gammas) == 4  # before any report
    told(ring, DELAY - 1)
    placed = ring.put(0, 2, gammas(1, 1, 0.5))  # two of them repeat
    assert placed.gammas.tolist() == [0.5]
    assert told(ring, DELAY).tolist() == [[K + 1]]
    assert ring.put(0, 0, gammas(0, 0.25)).late == 1  # position 0 is gone, position 1 is not
    assert told(ring, DELAY + 1).tolist() == [[1.75]]


def test_far_ahead_is_refused_and_slots_are_not_confused() -> None:
    ring = GammaRing(0, K, C, 1)
    placed = ring.put(0, 0, np.ones(1000, dtype=np.float32))
    assert placed.early > 0
    assert len(placed.gammas) + placed.early == 1000
    held = len(placed.gammas)
    eal = told(ring, held + DELAY)
    assert np.isfinite(eal[: held - K + 1]).all()
    assert np.isnan(eal[held - K + 1 :]).all()  # nothing of an earlier lap shines through
    assert np.isnan(told(ring, held + 3 * DELAY)).all()


def test_a_lost_stretch_of_reports_releases_no_more_than_was_held() -> None:
    ring = GammaRing(0, K, C, 1)
    eal = told(ring, 10**9)
    assert len(eal) < 100
    assert ring.token_time == 10**9
    ring.put(0, 10**9 - DELAY + 1, gammas(1, 1, 1))
    assert told(ring, 10**9 + 1).tolist() == [[K + 1]]


def test_a_repeated_or_older_report_releases_nothing() -> None:
    ring = GammaRing(0, K, C, 1)
    told(ring, DELAY + 2)
    assert len(told(ring, DELAY + 2)) == 0
    assert len(told(ring, 3)) == 0


def test_a_new_drafter_sleeps_until_it_has_scores() -> None:
    ring = GammaRing(0, K, C, 1)
    ring.put(0, 0, gammas(1, 1, 1, 1))
    ring.join()
    ring.put(1, 1, gammas(1, 1, 1))
    eal = told(ring, DELAY + 1)
    assert np.isnan(eal[0, 1])
    assert eal[1].tolist() == [K + 1, K + 1]


def forecast(known: np.ndarray) -> tuple[float, int]:
    """`GammaRing.pending` for one drafter, position by position; NaN where no gamma has come."""
    mean = float(np.nanmean(known))
    lengths = []
    for start in range(len(known)):
        if np.isnan(known[start]):
            continue
        window = [known[at] if at < len(known) and not np.isnan(known[at]) else mean for at in range(start, start + K)]
        lengths.append(1 + sum(np.prod(window[: ahead + 1]) for ahead in range(K)))
    return float(np.mean(lengths)), len(lengths)


@pytest.mark.parametrize("committed", [1, K, DELAY - 1])
def test_pending_is_the_ealfrom_what_has_come(committed: int) -> None:
    random = np.random.default_rng(committed)
    known = random.random(committed).astype(np.float32)
    ring = GammaRing(0, K, C, 3)
    ring.put(0, 0, known)
    ring.put(1, 0, known[: max(committed - 2, 1)])  # it lags
    told(ring, committed)
    eal, counts = ring.pending().eal[:, 0], ring.pending().counts
    lagging = np.full(committed, np.nan)
    lagging[: max(committed - 2, 1)] = known[: max(committed - 2, 1)]
    for column, values in enumerate((known.astype(np.float64), lagging)):
        expected, number = forecast(values)
        assert eal[column] == pytest.approx(expected, abs=1e-6)
        assert counts[column] == number
    assert np.isnan(eal[2])
    assert counts[2] == 0


def test_a_ealdoes_not_favour_the_drafter_that_played() -> None:
    """The one that played ends at its own rejection, the other is cut in the middle of its run: both count alike."""
    ring = GammaRing(0, K, C, 2)
    ring.put(0, 0, gammas(1, 0))
    ring.put(1, 0, gammas(0, 1))
    told(ring, 2)
    eal = ring.pending().eal[:, 0]
    assert eal[1] == pytest.approx((1 + 2 + 0.5 + 0.25) / 2)  # 1, and a run of unknown end
    assert eal[0] == pytest.approx((2 + 1) / 2)


def test_what_is_released_is_no_longer_pending() -> None:
    ring = GammaRing(0, K, C, 1)
    ring.put(0, 0, np.ones(20, dtype=np.float32))
    released = told(ring, 20)
    counts = ring.pending().counts
    assert len(released) + counts[0] == 20
    assert ring.released == len(released)


def test_a_played_rounds_gammas_are_read_back_whole_or_not_at_all() -> None:
    ring = GammaRing(0, K, C, 2)
    ring.put(0, 0, gammas(0.25, 0.5))
    assert ring.gammas(0, 0, 3) is None
    ring.put(0, 2, gammas(0.75))
    found = ring.gammas(0, 0, 3)
    assert found is not None
    assert found.tolist() == [0.25, 0.5, 0.75]
    assert ring.gammas(1, 0, 1) is None
