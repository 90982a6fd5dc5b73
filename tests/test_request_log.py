"""What is kept of requests: the weights that the target held, gammas that come later, and the bounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from score_tables import NAMES, table

from paceline.actors.messages import (
    DraftTiming,
    Heartbeat,
    RoundContext,
    Score,
    SequenceOpened,
    SequenceRound,
    TargetReport,
    WeightsUpdate,
)
from paceline.cluster.config import SelectorConfig, SpeculationConfig
from paceline.cluster.explanation import ExplainedSequence
from paceline.cluster.gamma_pages import PAGE
from paceline.cluster.request_log import TOKENS_PER_ROUND, RequestLog
from paceline.cluster.selector import Selector


def weights(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, dtype=np.float32)


def report(*rounds: SequenceRound, number: int = 0, closed: tuple[int, ...] = (), **fields: object) -> TargetReport:
    context = RoundContext(wait_ms=3.0, round_ms=20.0, weights_number=number)
    return TargetReport("t", rounds=list(rounds), closed=list(closed), context=context, **fields)  # type: ignore[arg-type]


def opened(seq: int, request: str, prompt: int = 10, drafters: tuple[str, ...] = (), **fields: bool) -> SequenceOpened:
    return SequenceOpened(seq, prompt, drafters=drafters, request=request, **fields)  # type: ignore[arg-type]


@pytest.fixture
def log() -> RequestLog:
    return RequestLog(max_requests=3, max_rounds=4, clock=lambda: 1.0)


def only(log: RequestLog, request: str) -> ExplainedSequence:
    found = log.explain(request)
    assert found is not None
    (choice,) = found.choices
    return choice


def test_a_round_shows_the_weights_that_its_choice_went_by(log: RequestLog) -> None:
    log.opened("t", opened(1, "r-0"))
    names = ("a", "b")
    log.sent(WeightsUpdate(7, names, weights(0.5, 0.5)))
    log.sent(WeightsUpdate(8, names, weights(0.6, 0.4), {1: weights(0.9, 0.1)}))
    log.sent(WeightsUpdate(9, names, weights(0.6, 0.4), {1: weights(0.2, 0.8)}))
    for committed, number in ((12, 0), (14, 7), (16, 8), (18, 9)):
        log.reported(report(SequenceRound(1, committed, "a", 4, 1, length=4), number=number))
    shown = [entry.weights for entry in only(log, "r").rounds]
    assert shown == [None, {"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.1}, {"a": 0.2, "b": 0.8}]


def test_the_prior_is_narrowed_to_the_drafters_that_a_request_names(log: RequestLog) -> None:
    log.opened("t", opened(1, "r-0", drafters=("b", "c")))
    log.opened("t", opened(2, "s-0", drafters=("d",)))
    log.sent(WeightsUpdate(1, ("a", "b", "c", "d"), weights(0.5, 0.3, 0.2, 0.0)))
    rounds = [SequenceRound(seq, 12, "", 0, 0) for seq in (1, 2)]
    log.reported(report(*rounds, number=1))
    assert only(log, "r").rounds[0].weights == {"a": 0.0, "b": 0.6, "c": 0.4, "d": 0.0}
    assert only(log, "s").rounds[0].weights == {"d": 1.0}


def test_plain_decoding_has_a_share_among_followers_but_none_among_drafters_that_a_request_names(
    log: RequestLog,
) -> None:
    """What weights leave to 1 is what the dashboard's card shows as plain decoding's."""
    for seq, name in ((1, "follows"), (2, "named")):
        log.opened("t", opened(seq, name, drafters=("b",), named=name == "named"))
    own = weights(0.0, 0.2)
    log.sent(WeightsUpdate(1, ("a", "b"), weights(0.5, 0.25), prior_lengths=(2, 3)))
    log.reported(report(SequenceRound(1, 11, "", 0, 0), SequenceRound(2, 13, "b", 3, 2, length=3), number=1))
    log.sent(WeightsUpdate(2, ("a", "b"), own, {1: own, 2: own}, None, (2, 3), {1: (4, 5), 2: (4, 5)}))
    log.reported(report(SequenceRound(1, 12, "", 0, 0), SequenceRound(2, 15, "b", 3, 1, length=5), number=2))
    assert [entry.weights for entry in only(log, "follows").rounds] == [{"a": 0.0, "b": 0.5}, {"a": 0.0, "b": 0.2}]
    assert [entry.weights for entry in only(log, "named").rounds] == [{"a": 0.0, "b": 1.0}] * 2
    assert [entry.lengths["b"] for entry in only(log, "named").rounds] == [3, 5]


def test_gammas_come_before_or_after_their_round_and_after_the_end(log: RequestLog) -> None:
    log.opened("t", opened(1, "r-0"))
    log.scores(table("a", Score(1, 10, weights(1.0, 0.5, 0.25))))
    log.reported(report(SequenceRound(1, 12, "a", 4, 1), number=0))
    assert only(log, "r").rounds[0].gammas == {"a": [1.0, 0.5]}
    log.reported(report(SequenceRound(1, 15, "a", 4, 2), closed=(1,)))
    log.scores(table("b", Score(1, 8, weights(0.1, 0.2, 0.3, 0.4, 0.5))))  # its first two lie in the prompt
    choice = only(log, "r")
    assert choice.finished
    assert choice.rounds[0].gammas == {"a": [1.0, 0.5], "b": [0.3, 0.4]}
    assert choice.rounds[1].gammas == {"a": [0.25, None, None], "b": [0.5, None, None]}


def test_times_and_the_arm_are_told_as_they_were(log: RequestLog) -> None:
    log.opened("t", opened(1, "r-0"))
    asked = SequenceRound(1, 13, "a", 4, 2, length=5)
    late = SequenceRound(1, 14, "b", 0, 0, length=3)
    at_hand = SequenceRound(1, 16, "a", 2, 1, length=2, carried=True)
    timing = [DraftTiming("a", 1, 5, 2.5)]
    log.reported(report(asked, drafts=timing, verify_ms=11.0, verify_tokens=5))
    log.reported(report(late, verify_tokens=1))
    log.reported(report(at_hand, drafts=timing, verify_ms=9.0, verify_tokens=3))
    first, second, third = only(log, "r").rounds
    assert (first.drafter, first.length, first.drafted, first.accepted, first.carried) == ("a", 5, 4, 2, False)
    assert (first.draft_ms, first.wait_ms, first.verify_ms, first.round_ms) == (2.5, 3.0, 11.0, 20.0)
    assert (first.start, first.committed, first.verify_tokens, first.sequences) == (10, 13, 5, 1)
    assert (second.drafter, second.drafted, second.draft_ms, second.verify_ms) == ("b", 0, None, None)
    assert (third.carried, third.draft_ms) == (True, None)


def test_choices_by_index_and_a_lost_replica_s_rest_beside_its_beginning(log: RequestLog) -> None:
    for seq, request in ((1, "r-1"), (2, "r-0"), (3, "r-0"), (4, "bench")):
        log.opened("t", opened(seq, request))
    log.reported(report(closed=(1, 2)))
    found = log.explain("r")
    assert found is not None
    assert [(choice.index, choice.seq, choice.finished) for choice in found.choices] == [
        (0, 2, True),
        (0, 3, False),
        (1, 1, True),
    ]
    assert not found.finished
    assert only(log, "bench").index == 0
    newest = log.newest(10)
    assert [(item.id, item.number, item.choices) for item in newest.requests] == [("bench", 2, 1), ("r", 1, 2)]


def test_only_the_newest_requests_and_the_first_rounds_are_kept(log: RequestLog) -> None:
    for seq in range(1, 6):
        log.opened("t", opened(seq, f"r{seq}-0"))
    assert log.explain("r2") is None
    newest = log.newest(2)
    assert ([item.id for item in newest.requests], newest.kept, newest.seen) == (["r5", "r4"], 3, 5)
    log.reported(report(SequenceRound(1, 12, "a", 4, 1)))  # of one that is no longer kept
    log.scores(table("a", Score(1, 10, weights(1.0))))
    for committed in range(11, 18):
        log.reported(report(SequenceRound(5, committed, "", 0, 0)))
    choice = only(log, "r5")
    assert [entry.committed for entry in choice.rounds] == [11, 12, 13, 14]
    assert choice.rounds_left_out == 3
    log.scores(table("a", Score(5, 10, np.ones(10_000, dtype=np.float32))))
    most = TOKENS_PER_ROUND * 4
    held = log._gammas.read(log._sequences[5].row, 0, 10_000)
    assert np.flatnonzero(~np.isnan(held[:, 0])).tolist() == list(range(most))
    assert log._gammas._pages.size <= 8 * PAGE * len(NAMES), "no more room than a page for each"


def test_holes_and_repeats_are_seen(log: RequestLog) -> None:
    log.opened("t", opened(1, "r-0"))
    log.reported(report(SequenceRound(1, 12, "a", 4, 1)))
    log.reported(report(SequenceRound(1, 12, "a", 4, 1)))
    log.reported(report(SequenceRound(1, 20, "a", 4, 3)))
    choice = only(log, "r")
    assert [(entry.start, entry.committed) for entry in choice.rounds] == [(10, 12), (16, 20)]
    assert choice.rounds_lost == 1


def test_with_no_requests_to_keep_nothing_is_kept() -> None:
    log = RequestLog(max_requests=0, max_rounds=4, clock=lambda: 1.0)
    log.opened("t", opened(1, "r-0"))
    log.sent(WeightsUpdate(1, ("a",), weights(1.0), {1: weights(1.0)}))
    log.reported(report(SequenceRound(1, 12, "a", 4, 1)))
    log.scores(table("a", Score(1, 10, weights(1.0))))
    assert log.explain("r") is None
    assert log.newest(5).seen == 0


@pytest.fixture
def selector() -> Callable[..., Selector]:
    def make(**settings: object) -> Selector:
        config = SelectorConfig.model_validate(settings)
        return Selector(config, SpeculationConfig(max_draft=4, catch_up_tokens=3), 1.0, lambda: 0.0)

    return make


def test_the_selector_keeps_what_it_sent_and_scores_that_come_after_the_end(
    selector: Callable[..., Selector],
) -> None:
    made = selector()
    for name in ("a", "b"):
        made.register(Heartbeat(name, "ngram", "h:1"))
    target = made.connect("t")
    made.report(target, TargetReport("t", opened=[opened(1, "r-0")]))
    update = made.update(target)
    assert update is not None
    made.report(target, report(SequenceRound(1, 12, "a", 4, 1), number=update.number))
    made.scores("b", [Score(1, 10, weights(1.0005, 0.5))])
    made.report(target, report(closed=(1,)))
    made.scores("a", [Score(1, 10, weights(0.25, np.nan)), Score(1, 11, weights(0.75))])
    (entry,) = only(made.requests, "r").rounds
    assert entry.weights == {"a": 0.5, "b": 0.5}
    assert entry.gammas == {"b": [1.0, 0.5], "a": [None, 0.75]}, "scores that are no probabilities are not shown"


def test_the_settings_bound_the_selector_s_log(selector: Callable[..., Selector]) -> None:
    made = selector(explain_requests=1, explain_rounds=1)
    target = made.connect("t")
    made.report(target, TargetReport("t", opened=[opened(1, "r-0"), opened(2, "s-0")]))
    made.report(target, report(SequenceRound(2, 12, "a", 4, 1), SequenceRound(2, 13, "a", 4, 1)))
    assert made.requests.explain("r") is None
    assert (len(only(made.requests, "s").rounds), only(made.requests, "s").rounds_left_out) == (1, 1)
