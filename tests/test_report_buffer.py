"""What a target keeps for the selector while nobody listens."""

from __future__ import annotations

from paceline.actors.messages import SequenceOpened, SequenceRound
from paceline.actors.report_buffer import ReportBuffer


def test_reports_wait_within_bounds_and_live_sequences_are_announced_anew() -> None:
    buffer = ReportBuffer("t", max_rounds=3)
    buffer.opened(SequenceOpened(1, 10, "route", ("a",)))
    assert [o.seq for o in buffer.new_stream().opened] == [1]
    for committed in (12, 15, 19, 20, 24):
        buffer.played([SequenceRound(1, committed, "a", 4, 1)], [], 0.0, 5)
    assert buffer.dropped == 2
    buffer.lost_stream()
    buffer.opened(SequenceOpened(2, 30))
    buffer.opened(SequenceOpened(3, 30))
    buffer.closed(3)  # came and went unheard
    again = buffer.new_stream()
    assert [(o.seq, o.prompt_tokens, o.route, o.drafters) for o in again.opened] == [
        (1, 24, "route", ("a",)),
        (2, 30, "", ()),
    ]
    buffer.opened(SequenceOpened(4, 7))
    buffer.closed(1)
    reports = buffer.take()
    assert [o.seq for report in reports for o in report.opened] == [4]
    assert [r.committed for report in reports for r in report.rounds] == [19, 20, 24]
    assert [seq for report in reports for seq in report.closed] == [1]
    assert not buffer


def test_a_sequence_that_ran_for_a_moment_is_told_of_from_beginning_to_end() -> None:
    buffer = ReportBuffer("t")
    buffer.new_stream()
    buffer.opened(SequenceOpened(1, 10))
    buffer.played([SequenceRound(1, 12, "a", 4, 1)], [], 0.0, 5)
    buffer.closed(1)
    opened, played, closed = buffer.take()
    assert [o.seq for o in opened.opened] == [1]
    assert [r.committed for r in played.rounds] == [12]
    assert closed.closed == [1]
    assert not buffer
    buffer.closed(1)  # and no more
    assert not buffer
