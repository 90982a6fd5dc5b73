"""The live speed-up's counters, alone and in an engine; and what else a chunk tells the dashboard."""

from __future__ import annotations

import pytest
from engine_rig import GuessHost, crowd, rig
from table_model import TableModel

from paceline.actors.pace import REMEMBERED, Pace


def speed_up(pace: Pace) -> float:
    return pace.count.plain_ms / pace.count.decode_ms


def test_plain_rounds_are_worth_themselves() -> None:
    pace = Pace()
    for _ in range(50):
        pace.ran(1, 1, 10.0, plain=True)
    pace.ran(1, 1, 300.0, plain=True)
    assert speed_up(pace) == pytest.approx(1.0), "one that stalls, too"
    assert pace.count.plain_round_ms == pytest.approx(10.0)


def test_three_tokens_in_half_as_long_again_are_twice_as_fast() -> None:
    pace = Pace()
    pace.ran(1, 1, 10.0, plain=True)
    before = pace.count
    for _ in range(20):
        pace.ran(1, 3, 15.0, plain=False)
    assert (pace.count.plain_ms - before.plain_ms) / (pace.count.decode_ms - before.decode_ms) == pytest.approx(2.0)


def test_a_round_of_many_is_held_against_plain_rounds_of_as_many() -> None:
    pace = Pace()
    pace.ran(1, 1, 10.0, plain=True)
    pace.ran(4, 4, 20.0, plain=True)
    before = pace.count
    pace.ran(4, 8, 20.0, plain=False)  # two tokens each, in the time of one
    assert pace.count.plain_ms - before.plain_ms == pytest.approx(40.0)
    assert (pace.count.plain_round_ms, pace.count.plain_sequences) == (20.0, 4), "what it was held against"
    pace.ran(1, 2, 12.0, plain=False)
    assert (pace.count.plain_round_ms, pace.count.plain_sequences) == (10.0, 1)


@pytest.mark.parametrize("before", [1, 5, REMEMBERED])
def test_a_stall_among_plain_rounds_is_no_gain_of_the_drafted_ones(before: int) -> None:
    """What plain decoding would have made is not a second better for one round of 300 ms."""
    pace = Pace()
    for _ in range(before):
        pace.ran(2, 2, 10.0, plain=True)
    pace.ran(2, 2, 300.0, plain=True)
    stalled = pace.count
    for _ in range(20):
        pace.ran(2, 3, 15.0, plain=False)
    count = pace.count
    gained = (count.plain_ms - stalled.plain_ms) / (count.decode_ms - stalled.decode_ms)
    assert gained == pytest.approx(1.0), "1.5 tokens each in 1.5 times the time"


def test_where_as_many_were_never_plain_it_is_understated() -> None:
    pace = Pace()
    pace.ran(1, 1, 10.0, plain=True)
    before = pace.count
    pace.ran(8, 16, 25.0, plain=False)
    assert pace.count.plain_ms - before.plain_ms == pytest.approx(20.0), "as if a plain round of eight took 10 ms"
    assert pace.count.plain_sequences == 1, "and it says so"


def test_before_any_plain_round_nothing_is_claimed() -> None:
    pace = Pace()
    pace.ran(1, 5, 10.0, plain=False)
    pace.ran(2, 2, 10.0, plain=True)
    pace.ran(1, 5, 10.0, plain=False)
    assert pace.count.decode_ms == 10.0


def test_it_follows_a_target_that_becomes_slower() -> None:
    pace = Pace()
    pace.ran(1, 1, 10.0, plain=True)
    for _ in range(REMEMBERED):
        pace.ran(1, 1, 10.0, plain=True)
    for _ in range(REMEMBERED // 2 + 1):
        pace.ran(1, 1, 30.0, plain=True)
    assert pace.count.plain_round_ms == 30.0


def test_an_engine_counts_its_rounds() -> None:
    """Plain ones make the measure; those after them, of several tokens each, are held against it."""
    model = TableModel(vocab_size=12)
    with rig(model, {"good": GuessHost(model, 0.0)}) as made:
        made.submit([1, 2, 3], 30, speculate=False).wait()
        plain = made.engine.pace.count
        assert plain.plain_round_ms > 0
        outcome = made.submit([1, 2, 3], 60)
        outcome.wait()
        count = made.engine.pace.count
    drafted = sum(len(chunk.token_ids) for chunk in outcome.chunks[1:])
    assert count.decode_ms > plain.decode_ms
    assert count.plain_round_ms == plain.plain_round_ms, "rounds with an ask are none of it"
    assert count.plain_ms - plain.plain_ms == pytest.approx(drafted * plain.plain_round_ms)


def test_a_chunk_tells_the_weights_where_they_are_asked_for() -> None:
    model = TableModel(vocab_size=12)
    with rig(model, crowd(model)) as made:
        told, quiet = made.submit([1, 2], 12, show_weights=True), made.submit([3, 4], 12)
        told.wait()
        quiet.wait()
        assert all(chunk.weights == made.board.weights(0) for chunk in told.chunks)
        assert all(chunk.weights is None for chunk in quiet.chunks)
