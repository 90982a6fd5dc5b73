"""How long news is gathered: longer beside other sequences, never for long, and never for many tokens of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from paceline.actors.gathering import ALONE_S, LONGEST_S, MOST_TOKENS, gather_s
from paceline.actors.messages import Heartbeat, Score, SequenceOpened, SequenceRound
from paceline.actors.score_link import ScoreLink
from paceline.actors.weights_link import WeightsLink
from paceline.cluster.config import SelectorConfig, SpeculationConfig
from paceline.cluster.selector import Selector
from paceline.cluster.selector_server import SelectorServer

LIMIT = 1 << 20


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


@pytest.fixture
def server() -> Iterator[SelectorServer]:
    core = Selector(SelectorConfig(), SpeculationConfig(), 1.0, time.monotonic)
    made = SelectorServer(core, host="127.0.0.1", token=None, max_message_bytes=LIMIT, heartbeat_s=1.0)
    made.address = made.start()  # type: ignore[attr-defined]
    yield made
    made.stop()


@pytest.mark.parametrize(("sequences", "seconds"), [(0, ALONE_S), (1, ALONE_S), (4, 2 * ALONE_S), (400, LONGEST_S)])
def test_the_more_sequences_the_longer_and_never_beyond_the_bound(sequences: int, seconds: float) -> None:
    assert gather_s(sequences) == pytest.approx(seconds)


def test_scores_of_many_positions_of_one_sequence_do_not_wait(
    server: SelectorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paceline.actors.score_link.gather_s", lambda sequences: 60.0)
    link = ScoreLink(
        lambda: server.address,  # type: ignore[attr-defined]
        lambda: Heartbeat("a", "ngram", "127.0.0.1:1"),
        token=None,
        max_message_bytes=LIMIT,
        interval_s=1.0,
    )

    def arrived() -> int:
        return server.counts().get("scores_of_unknown_sequence", 0)

    link.start()
    half = np.ones(MOST_TOKENS // 2, dtype=np.float32)
    link.put([Score(1, 0, half)])
    until(lambda: arrived() == 1, "the first goes at once")
    for other in (2, 3, 4):
        link.put([Score(other, 0, half)])
    time.sleep(0.3)
    assert arrived() == 1, "a little of each sequence waits"
    link.put([Score(4, len(half), half)])
    until(lambda: arrived() == 5, "much of one does not")
    link.close()


def test_rounds_of_many_tokens_of_one_sequence_do_not_wait(
    server: SelectorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paceline.actors.weights_link.gather_s", lambda sequences: 60.0)
    board = WeightsLink(
        lambda: server.address,  # type: ignore[attr-defined]
        "t",
        default_drafter=None,
        token=None,
        max_message_bytes=LIMIT,
    )

    def heard() -> int:
        return server.snapshot().plain_rounds

    for seq in (1, 2):
        board.opened(SequenceOpened(seq, 10))
    until(lambda: server.snapshot().sequences == 2, "openings are told at once")
    committed = 10
    while heard() == 0:  # the first go with what is told at once
        committed += 1
        board.played([SequenceRound(1, committed, "", 0, 0), SequenceRound(2, committed, "", 0, 0)], [], 5.0, 2)
        time.sleep(0.01)
        assert committed < 10 + MOST_TOKENS + 10
    before, at = heard(), committed
    board.played([SequenceRound(1, at + MOST_TOKENS - 2, "", 0, 0), SequenceRound(2, at + 1, "", 0, 0)], [], 5.0, 2)
    time.sleep(0.3)
    assert heard() == before, "what is little of each waits"
    board.played([SequenceRound(1, at + MOST_TOKENS, "", 0, 0)], [], 5.0, 1)
    until(lambda: heard() == before + 3, "what is much of one does not")
    board.close()
