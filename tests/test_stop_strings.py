"""Stop strings: found across pieces, cut before, and nothing held that can be no stop."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.cluster.stop_strings import StopStrings


def cut(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """The text let through, and whether a stop was met."""
    strings = StopStrings(stops)
    text = "".join(strings.push(piece) for piece in pieces)
    return text + strings.flush(), strings.matched


def plain_cut(stops: list[str], text: str) -> tuple[str, bool]:
    """The definition: read character by character until what was read ends in a stop; the longest such goes."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4),
    pieces=st.lists(st.text("abc", max_size=5), max_size=8),
)
@settings(max_examples=400, deadline=None)
def test_equals_reading_character_by_character(stops: list[str], pieces: list[str]) -> None:
    assert cut(stops, pieces) == plain_cut(stops, "".join(pieces))


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["say END now"], "say "),
        (["say E", "N", "D now"], "say "),
        (["say EN", "DING"], "say "),
        (["EN", "EN", "END"], "ENEN"),
        (["never EN"], "never EN"),
    ],
)
def test_across_pieces(pieces: list[str], text: str) -> None:
    assert cut(["END"], pieces)[0] == text


def test_only_what_may_begin_a_stop_is_held() -> None:
    strings = StopStrings(["\n\n", "END"])
    assert strings.push("one\n") == "one"
    assert strings.push("two E") == "\ntwo "
    assert strings.push("nd") == "End"
    assert not strings.matched


def test_the_stop_that_is_complete_first_wins_whatever_the_pieces() -> None:
    assert cut(["abcd", "bc"], ["xabcd"]) == cut(["abcd", "bc"], list("xabcd")) == ("xa", True)


def test_nothing_comes_after_a_match() -> None:
    strings = StopStrings(["."])
    assert strings.push("a.b") == "a"
    assert strings.matched
    assert strings.push("c") == strings.flush() == ""


def test_no_stops_hold_nothing() -> None:
    assert StopStrings([]).push("anything") == "anything"
