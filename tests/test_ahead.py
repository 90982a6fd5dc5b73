"""Drafts that nobody waits for: what comes of them in the next round, when they are asked for, and what that costs."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from engine_rig import GuessHost, rig
from fake_drafter import FakeSequence, Road
from table_model import TableModel

from paceline.actors.ahead import take_arrived, worth_waiting
from paceline.actors.draft_length import START_ROUNDS, Ask, DraftLength
from paceline.actors.messages import Draft, DraftTiming, SequenceRound, TargetReport
from paceline.actors.ports import Arrived
from paceline.actors.sampling import Sampling
from paceline.cluster.arm_cost import ArmCost
from paceline.cluster.round_cost import RoundCost


class RightHost(GuessHost):
    """The target's own table."""

    def draft(self, seq: int, start: int, length: int) -> Draft:
        tokens = list(self.tokens[seq])
        for _ in range(length):
            tokens.append(int(self.model.row(tokens).argmax()))
        return Draft(seq, start, tokens[start:])


@pytest.mark.parametrize("host", [RightHost, GuessHost])
def test_texts_are_the_targets_own_and_no_round_waits(host: type[GuessHost], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.actors.round.worth_waiting", lambda asks, setup: not asks)
    model = TableModel(vocab_size=12)
    prompts = [[1, 2], [3, 4, 5], [6], [7, 8]]
    with rig(model, {"a": host(model), "b": host(model)}) as made:
        plain = [made.submit(prompt, 60, speculate=False) for prompt in prompts]
        texts = [outcome.wait() for outcome in plain]
        assert [o.wait() for o in [made.submit(prompt, 60) for prompt in prompts]] == texts
        drafting = [each for each in made.board.rounds if each.drafted]
        assert drafting
        assert all(each.carried for each in drafting)
        assert sum(each.accepted for each in drafting) > 20
        assert not any(each.drafter for each in made.board.rounds if not each.drafted), "who asks ahead plays plainly"
        if host is RightHost:
            assert all(each.accepted == each.drafted for each in drafting)
        before = len(made.board.rounds)
        assert len(made.submit([1, 2], 60, sampling=Sampling(temperature=1.0)).wait()) == 60
        if host is GuessHost:
            assert not any(each.drafted for each in made.board.rounds[before:]), "drawn tokens are not carried"
        assert not any(counts.get("late") for counts in made.pool.counters().values())


def _sequence(seq: int, tokens: list[int], **sampling: float) -> SimpleNamespace:
    return SimpleNamespace(seq=seq, tokens=tokens, sampling=Sampling(**sampling), carried=None)


@pytest.mark.parametrize(
    ("tokens", "left", "judged"),
    [
        ([1, 2, 5], [6, 7], (1, 1)),  # one token came meanwhile, and it was the first
        ([1, 2, 5, 6], [7], (1, 1)),
        ([1, 2, 9], None, (1, 0)),
        ([1, 2, 5, 6, 7], None, (1, 1)),  # nothing is left
        ([1, 2], [5, 6, 7], None),  # no round was played meanwhile
    ],
)
def test_what_came_is_at_hand_where_the_text_went_as_it_begins(
    tokens: list[int], left: list[int] | None, judged: tuple[int, int] | None
) -> None:
    heard = []
    lengths = SimpleNamespace(drafted=lambda seq, drafter, drafted, accepted: heard.append((drafted, accepted)))
    pool = SimpleNamespace(arrived=lambda: Arrived({4: ("a", Draft(4, 2, [5, 6, 7]))}, {9}))
    sequence = _sequence(4, tokens)
    assert take_arrived([sequence], SimpleNamespace(pool=pool, lengths=lengths)) == {9}  # type: ignore[arg-type,list-item]
    assert (sequence.carried.draft.tokens if sequence.carried is not None else None) == left
    assert heard == ([judged] if judged else [])


def _rule(alpha: float) -> DraftLength:
    """A rule that has seen rounds of ten milliseconds and eight tokens, and drafts accepted with this chance."""
    rule = DraftLength()
    for _ in range(START_ROUNDS + 1):
        rule.timed([], 9.0, 8, 8, 10.0)
    for number in range(2000):
        rule.drafted(1, "a", 1, int(number * 7 % 10 < 10 * alpha))
    return rule


@pytest.mark.parametrize(
    ("alpha", "wait_ms", "temperature", "waits"),
    [
        (0.9, 1.0, 0.0, True),
        (0.9, 2.9, 0.0, False),  # eight sequences would make 2.3 tokens meanwhile
        (0.3, 1.0, 0.0, False),
        (0.3, 0.1, 0.0, True),
        (0.3, 4.0, 0.0, True),  # a slow drafter
        (0.3, 1.0, 0.8, True),  # drawn tokens would be of no use later
        (0.3, None, 0.0, True),  # nobody knows
    ],
)
def test_a_round_waits_where_the_draft_is_worth_it_to_all(
    alpha: float, wait_ms: float | None, temperature: float, waits: bool
) -> None:
    rule = _rule(alpha)
    setup = SimpleNamespace(lengths=rule, pool=SimpleNamespace(draft_ms=lambda drafter: wait_ms))
    asks = {"a": [(_sequence(1, [1], temperature=temperature), 4)]}
    assert worth_waiting(asks, setup) == waits  # type: ignore[arg-type]


def test_nothing_is_asked_ahead_before_times_are_known_or_where_drafts_are_always_longest() -> None:
    pool = SimpleNamespace(draft_ms=lambda drafter: 1.0)
    asks = {"a": [(_sequence(1, [1]), 4)]}
    for lengths in (None, DraftLength()):
        assert worth_waiting(asks, SimpleNamespace(lengths=lengths, pool=pool))  # type: ignore[arg-type]


def test_what_a_delay_loses_is_counted_by_chains() -> None:
    """Played out: a chain that waits for each draft, and one that has it a round later, 200,000 rounds each; the mean
    gain of a round is known to 0.01 (five standard errors)."""
    alpha, length, chance = 0.7, 3, Random(5)
    rule = _rule(alpha)

    def accepted() -> int:
        count = 0
        while count < length and chance.random() < alpha:
            count += 1
        return count

    rounds, late, asked = 200_000, 0, False
    for _ in range(rounds):
        if asked and chance.random() < alpha:
            late, asked = late + accepted(), False
        else:
            asked = True
    waited = sum(alpha**count for count in range(1, length + 1))
    assert rule.lost_by_delay([Ask(2, "a", length)]) == pytest.approx(waited - late / rounds, abs=0.05)


def test_what_comes_is_told_once_and_no_wait_is_counted() -> None:
    road = Road("a")
    sequence = FakeSequence(1, [10])
    timings = road.pool.ask_ahead({"a": [(sequence, 4)]})
    assert timings == [DraftTiming("a", 1, 4, 0.0, ahead=True)]
    came = road.pool.arrived()
    assert came.drafts[1][0] == "a"
    assert came.drafts[1][1].tokens == [11, 12, 13, 14]
    assert not road.pool.arrived().drafts, "told once"
    assert road.pool.counters()["a"]["answered"] == 1
    assert road.pool.waits()["a"].total == 0, "nobody waited"


def test_at_which_load_drafts_are_asked_ahead_is_learnt() -> None:
    cost = ArmCost(4, np.array([1, 4]))
    times = RoundCost()
    cost.join()
    times.join()

    def played(sequences: int, timing: DraftTiming, times_over: int) -> None:
        rounds = [SequenceRound(1, 100, "", 0, 0)]
        report = TargetReport("t", rounds=rounds, verify_ms=10.0, verify_tokens=sequences)
        for _ in range(times_over):
            cost.measured([(0, timing)], report)
            times.measured([(0, timing)], 10.0)

    played(1, DraftTiming("a", 1, 4, 2.0), 8)
    played(8, DraftTiming("a", 1, 4, 0.0, ahead=True), 50)

    def wait_ms(sequences: int) -> float:
        prices = cost.prices(sequences, 1)
        assert prices is not None
        return float(prices.wait_ms[0, 1])

    assert wait_ms(1) == pytest.approx(2.0)
    assert wait_ms(8) == pytest.approx(0.0, abs=0.02)
    assert times.draft_ms()[0] == pytest.approx(2.0), "what nobody waited for says nothing of a drafter's time"
    played(8, DraftTiming("a", 1, 4, 2.0), 50)
    assert wait_ms(8) == pytest.approx(2.0, abs=0.02)
