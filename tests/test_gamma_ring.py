"""The ring of acceptances: what it tells of positions, when it releases them, and what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from single_ring import SingleChain, SingleRing

from paceline.actors.messages import Heartbeat, Score, SequenceOpened, SequenceRound, TargetReport
from paceline.cluster.config import SelectorConfig, SpeculationConfig
from paceline.cluster.gamma_ring import GammaRings
from paceline.cluster.score_table import Entries
from paceline.cluster.selector import Selector

K, C = 3, 2
DELAY = K + 1 + C


def gammas(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def told(ring: SingleRing, committed: int) -> np.ndarray:
    """What is released, of the longest draft, [positions, drafters]."""
    return ring.advance(committed)[:, :, -1]


def chained(values: np.ndarray) -> np.ndarray:
    """u of one drafter's gammas, [positions]."""
    chain = SingleChain(1, np.array([K]))
    return np.array([chain.advance(np.arange(1), np.full((1, K), value))[0, 0] for value in values])


@pytest.mark.parametrize("steps", [[DELAY + 3], [1] * (DELAY + 3), [4, DELAY - 5, 3, 1]])
def test_release_depends_on_token_time_alone(steps: list[int]) -> None:
    """However rounds fall, position s comes at token-time s + K + 1 + C, neither sooner nor later, and only once."""
    start = 10
    chances = np.linspace(0.1, 0.9, 12, dtype=np.float32)
    ring = SingleRing(start, K, C, 2)
    ring.put(0, start, chances)
    committed, released = start, []
    for step in steps:
        committed += step
        released += [starts[0] for starts in told(ring, committed)]
        assert len(released) == max(committed - start - DELAY + 1, 0)
    assert released == pytest.approx(chained(chances)[:4], abs=1e-6)


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 6]])
def test_rounds_go_on_from_score_to_score(pieces: list[int]) -> None:
    chances = np.random.default_rng(1).random(12).astype(np.float32)
    ring = SingleRing(0, K, C, 1)
    at, released = 0, []
    for piece in pieces:
        ring.put(0, at, chances[at : at + piece])
        at += piece
        released += told(ring, at)[:, 0].tolist()
    released += told(ring, at + DELAY - 1)[:, 0].tolist()
    assert released == pytest.approx(chained(chances), abs=1e-6)


def test_a_missing_gamma_puts_only_that_drafter_to_sleep_and_its_round_goes_on_after_it() -> None:
    ring = SingleRing(0, K, C, 2)
    ring.put(0, 0, gammas(1, 0, 1, 1))
    ring.put(1, 0, gammas(1))
    ring.put(1, 2, gammas(0, 1))
    starts = told(ring, DELAY + 3)
    assert starts[:, 0].tolist() == [1, 0, 1, 0]
    assert starts[[0, 2, 3], 1].tolist() == [1, 0, 1]
    assert np.isnan(starts[1, 1])


def test_what_a_drafter_left_out_is_not_waited_for() -> None:
    """It began to score in mid-text: that counts in the forecast at once, not when the gap is released."""
    ring = SingleRing(0, K, C, 1)
    ring.put(0, 4, gammas(1, 0))
    told(ring, 5)
    assert ring.pending().counts.tolist() == [2]
    assert ring.put(0, 3, gammas(1)).gammas.tolist() == [1], "late, and news of the drafter all the same"
    assert ring.pending().counts.tolist() == [2]


def test_scores_may_overtake_reports_and_lag_behind_them() -> None:
    ring = SingleRing(0, K, C, 1)
    assert len(ring.put(0, 0, gammas(1, 1, 1, 1)).gammas) == 4  # before any report
    told(ring, DELAY - 1)
    placed = ring.put(0, 2, gammas(0, 0, 0.5))  # two of them repeat, and change nothing
    assert placed.gammas.tolist() == [0.5]
    assert told(ring, DELAY).tolist() == [[1]]
    assert ring.put(0, 0, gammas(0, 0.25)).late == 1  # position 0 is gone, position 1 is not
    assert told(ring, DELAY + 4)[:, 0].tolist() == [0, 0, 0, 1]


def test_far_ahead_is_refused_and_slots_are_not_confused() -> None:
    ring = SingleRing(0, K, C, 1)
    placed = ring.put(0, 0, np.ones(1000, dtype=np.float32))
    assert placed.early > 0
    assert len(placed.gammas) + placed.early == 1000
    held = len(placed.gammas)
    starts = told(ring, held + DELAY)
    assert np.isfinite(starts[:held]).all()
    assert np.isnan(starts[held:]).all()  # nothing of an earlier lap shines through
    assert np.isnan(told(ring, held + 3 * DELAY)).all()


@pytest.mark.parametrize("start", [500, 10**6, 2**62])
def test_scores_of_another_time_are_counted_and_move_nothing(start: int) -> None:
    ring = SingleRing(0, K, C, 1)
    ring.put(0, 0, gammas(1, 0))
    assert ring.put(0, start, gammas(1, 1)).early == 2
    ring.put(0, 2, gammas(1, 1))
    assert told(ring, DELAY + 3)[:, 0].tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("steps", [(K, K + 1), (1, K - 1, K + 1), (2, 1, K + 1)])
def test_a_drafter_that_lags_as_far_as_it_may_has_scored_what_is_released(steps: tuple[int, ...]) -> None:
    """The other one's luck makes long steps; scores come after the report of their round, and C at a time."""
    ring = SingleRing(0, K, C, 1)
    at = scored = 0
    for number in range(60):
        at += steps[number % len(steps)]
        assert not np.isnan(told(ring, at)).any()
        if at - scored >= C:
            ring.put(0, scored, np.full(at - scored, 0.5, dtype=np.float32))
            scored = at


def test_a_lost_stretch_of_reports_releases_no_more_than_was_held() -> None:
    ring = SingleRing(0, K, C, 1)
    assert len(told(ring, 10**9)) < 100
    assert ring.token_time == 10**9
    ring.put(0, 10**9 - DELAY + 1, gammas(1, 1, 1))
    assert told(ring, 10**9 + 1).tolist() == [[1]]


def test_a_repeated_or_older_report_releases_nothing() -> None:
    ring = SingleRing(0, K, C, 1)
    told(ring, DELAY + 2)
    assert len(told(ring, DELAY + 2)) == 0
    assert len(told(ring, 3)) == 0


def test_a_new_drafter_sleeps_until_it_has_scores() -> None:
    ring = SingleRing(0, K, C, 1)
    ring.put(0, 0, gammas(1, 1, 1, 1))
    ring.join()
    ring.put(1, 1, gammas(1, 1, 1))
    starts = told(ring, DELAY + 1)
    assert np.isnan(starts[0, 1])
    assert starts[1].tolist() == [0, 1]


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("committed", [1, K, DELAY - 1])
def test_pending_is_the_mean_of_what_is_not_released(committed: int, discount: float) -> None:
    known = np.random.default_rng(committed).random(committed).astype(np.float32)
    ring = SingleRing(0, K, C, 3)
    ring.put(0, 0, known)
    lagging = max(committed - 2, 1)
    ring.put(1, 0, known[:lagging])
    told(ring, committed)
    forecast = ring.pending(discount)
    for column, heard in ((0, committed), (1, lagging)):
        weights = discount ** np.maximum(committed - 1.0 - np.arange(heard + 1), 0)  # and the position after its last
        assert forecast.counts[column] == pytest.approx(weights.sum())
        mean = (weights * chained(np.append(known[:heard], 0))).sum() / weights.sum()
        assert forecast.starts[column, 0] == pytest.approx(mean, abs=1e-6)
    assert np.isnan(forecast.starts[2]).all()
    assert forecast.counts[2] == 0
    assert forecast.fade == pytest.approx(discount**committed)


def test_what_is_released_is_no_longer_pending() -> None:
    ring = SingleRing(0, K, C, 1)
    ring.put(0, 0, np.ones(20, dtype=np.float32))
    released = told(ring, 20)
    counts = ring.pending().counts
    assert len(released) + counts[0] == 21
    assert ring.released == len(released)


def test_a_played_rounds_gammas_are_read_back_whole_or_not_at_all() -> None:
    ring = SingleRing(0, K, C, 2)
    ring.put(0, 0, gammas(0.25, 0.5))
    assert ring.gammas(0, 0, 3) is None
    ring.put(0, 2, gammas(0.75))
    found = ring.gammas(0, 0, 3)
    assert found is not None
    assert found.tolist() == [0.25, 0.5, 0.75]
    assert ring.gammas(1, 0, 1) is None


def test_two_scores_of_one_position_in_one_message_count_once_and_the_first_one_holds() -> None:
    rings = GammaRings(K, C)
    rings.join()
    rings.join()
    rings.open(0, 10)
    entries = Entries.of(np.array([10, 11, 10]), np.array([2, 2, 1]))
    placed = rings.put(np.zeros(3, int), np.array([1, 1, 0]), entries, gammas(0.5, 1, 0, 0.25, 0.125))
    assert placed.new.tolist() == [True, True, False, True, True]
    starts = rings.advance(np.array([0]), np.array([DELAY + 12])).starts[:, :, -1]
    assert starts[:, 1].tolist() == pytest.approx(chained(gammas(0.5, 1, 0.25)))


def test_many_sequences_at_once_are_as_each_alone() -> None:
    """Random rounds, lags, gaps, repeats, strays and a drafter that joins, over rows that are opened as time goes."""
    random = np.random.default_rng(3)
    lengths, drafters = (1, 2, K), 3
    rings, alone = GammaRings(K, C, lengths), {}
    for _ in range(drafters):
        rings.join()
    at: dict[int, int] = {}
    for step in range(60):
        if step % 6 == 0:
            row, start = len(at), int(random.integers(5, 90))
            rings.open(row, start)
            alone[row], at[row] = SingleRing(start, K, C, drafters, lengths), start
        if step == 33:
            rings.join()
            drafters += 1
            for ring in alone.values():
                ring.join()
        runs = []
        for row, column in itertools.product(at, range(drafters)):
            if random.random() < 0.7:
                start = max(at[row] - int(random.integers(0, 12)), 0) + 400 * int(random.random() < 0.05)
                runs.append((row, column, start, random.random(int(random.integers(0, 9))).astype(np.float32)))
        random.shuffle(runs)
        rows, columns, starts = (np.array([run[place] for run in runs]) for place in range(3))
        entries = Entries.of(starts, np.array([len(run[3]) for run in runs]))
        placed = rings.put(rows, columns, entries, np.concatenate([run[3] for run in runs]))
        each = [alone[row].put(column, start, values) for row, column, start, values in runs]
        assert placed.new.sum() == sum(len(one.gammas) for one in each)
        assert placed.late == sum(one.late for one in each)
        assert placed.early == sum(one.early for one in each)
        truth = random.random((K, drafters)) + 0.5
        moved = np.array([row for row in at if random.random() < 0.8], dtype=int)
        for row in moved.tolist():
            at[row] += int(random.integers(0, 9))
        released = rings.advance(moved, np.array([at[row] for row in moved.tolist()], dtype=int), truth)
        expected = [alone[row].advance(at[row], truth) for row in moved.tolist()]
        assert released.rows.tolist() == [row for row, part in zip(moved, expected, strict=True) for _ in part]
        np.testing.assert_array_equal(released.starts, np.concatenate([np.empty((0, drafters, 3)), *expected]))
        rows = np.array(list(at))
        for ring in alone.values():
            ring.advance(0, truth)  # as good as what the others go by, from now on
        known = rings.pending(rows, 0.9)
        for row in at:
            one = alone[row].pending(0.9)
            np.testing.assert_allclose(known.starts[row], one.starts, rtol=1e-12)
            np.testing.assert_allclose(known.counts[row], one.counts, rtol=1e-12)
            assert known.fade[row] == one.fade


@pytest.mark.parametrize(("policy", "setter"), [("metasd_ucb", "measured"), ("normalhedge", "learned")])
def test_rounds_beyond_the_ring_are_not_judged_by_other_positions_gammas(policy: str, setter: str) -> None:
    """Fourteen rounds of five tokens, of which the first six were scored: told one by one or in one message, the same
    rounds count."""

    def judged(together: bool) -> list[float]:
        core = Selector(
            SelectorConfig.model_validate({"policy": policy}),
            SpeculationConfig.model_validate({"max_draft": 4, "catch_up_tokens": 3, "draft_length": setter}),
            60.0,
            lambda: 0.0,
        )
        core.register(Heartbeat("a", "ngram", "h:1"))
        connection = core.connect("t")
        core.report(connection, TargetReport("t", opened=[SequenceOpened(1, 10)]))
        core.scores("a", [Score(1, 10, np.ones(28, dtype=np.float32))])
        reports = [
            TargetReport("t", rounds=[SequenceRound(1, 15 + 5 * number, "a", 4, 4, length=4)]) for number in range(14)
        ]
        for message in [reports] if together else [[report] for report in reports]:
            core.report(connection, *message)
        if setter == "learned":
            assert core._learning._arms is not None
            return [float(value) for value in core._learning._arms.truth._foretold[:, 0]]
        return [float(core._learning.policy._policies[0]._heard[0, 0])]  # type: ignore[attr-defined]

    assert judged(together=True) == pytest.approx(judged(together=False))
