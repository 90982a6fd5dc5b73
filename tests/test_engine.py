"""The engine and the round over in-process drafters: lossless, bounded, one terminal event per request.

The drafters here are unfair on purpose: good, random, lying, sometimes silent. None of that may show in the text.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random

import pytest
import torch
from engine_rig import LIMITS, EvenBoard, GuessHost, Rig, crowd, rig
from table_model import TableModel

from paceline.actors.arm_choice import SLOW_MS
from paceline.actors.causal_model import Step
from paceline.actors.engine import Engine, EngineLimits
from paceline.actors.errors import EngineError, NotReady, Overloaded, RequestError
from paceline.actors.messages import Draft, DrafterBatch, DrafterReply, Score
from paceline.actors.sampling import Sampling


def test_greedy_text_is_the_targets_own_whoever_drafts() -> None:
    model = TableModel(vocab_size=12)
    prompts = [[i % 12, (5 * i) % 12, 3] for i in range(24)]
    with rig(model, crowd(model)) as made:
        outcomes = [made.submit(prompt, 40) for prompt in prompts]
        for prompt, outcome in zip(prompts, outcomes, strict=True):
            assert outcome.wait() == model.greedy(prompt, 40)
            assert outcome.ends == 1
            assert outcome.chunks[-1].finish_reason == "length"
        played = Counter(item.drafter for item in made.board.rounds if item.accepted)
        assert played["good"] > 0
        assert played["poor"] > 0
        assert not made.board.open_sequences
        assert not made.hosts["good"].tokens, "closed sequences leave no session behind"


def test_accepted_tokens_really_save_forwards() -> None:
    model = TableModel(vocab_size=12)
    with rig(model, {"good": GuessHost(model, 0.0)}) as made:
        made.submit([1, 2, 3], 60).wait()
        drafted = model.calls
    with rig(model, {"good": GuessHost(model, 0.0)}) as made:
        before = model.calls
        made.submit([1, 2, 3], 60, speculate=False).wait()
        plain = model.calls - before
    assert plain == 60
    assert drafted < 40


def test_a_stop_id_inside_an_accepted_block_ends_the_text_there() -> None:
    model = TableModel(vocab_size=12)
    plain = model.greedy([1, 2, 3], 40)
    stop = plain[9]
    with rig(model, {"good": GuessHost(model, 0.0)}) as made:
        outcome = made.submit([1, 2, 3], 40, stop_ids=frozenset({stop}))
        assert outcome.wait() == plain[: plain.index(stop) + 1]
    assert outcome.chunks[-1].finish_reason == "stop"
    for chunk in outcome.chunks:
        assert len(chunk.token_ids) <= chunk.accepted + 1


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_a_seeded_text_does_not_depend_on_the_drafters(temperature: float) -> None:
    model = TableModel(vocab_size=12)
    sampling = Sampling(temperature=temperature, top_k=9, top_p=0.95, seed=41)
    texts = []
    for hosts in ({}, {"good": GuessHost(model, 0.3)}, crowd(model)):
        with rig(model, hosts) as made:
            texts.append(made.submit([4, 2], 60, sampling=sampling).wait())
            other = made.submit([4, 2], 60, sampling=Sampling(temperature, 9, 0.95, seed=42)).wait()
    assert texts[0] == texts[1] == texts[2]
    assert other != texts[0]


def test_a_resumed_seeded_text_goes_on_as_it_would_have() -> None:
    model = TableModel(vocab_size=12)
    sampling = Sampling(temperature=1.0, seed=5)
    with rig(model, crowd(model)) as made:
        whole = made.submit([4, 2], 50, sampling=sampling).wait()
        rest = made.submit([4, 2, *whole[:21]], 29, sampling=sampling).wait()
    assert whole[21:] == rest


def test_sampled_text_follows_the_targets_law_exactly() -> None:
    """Chi-square over all 125 three-token texts, 20,000 draws, three kinds of drafter mixed at random.

    Fixed seeds; under a correct engine the statistic exceeds the 99.99% point in one seed of 10,000.
    """
    torch.manual_seed(0)
    model = TableModel(vocab_size=5, sharpness=1.2)
    draws = 20_000
    law = model.joint([1, 3], 4, 0.9)
    # The first token of a request is never drafted: fold it in and look at the three that follow it.
    hosts = {
        "good": GuessHost(model, 0.4),
        "poor": GuessHost(model, 2.0),
        "silent": GuessHost(model, behaviour="silent"),
    }
    counts: Counter[tuple[int, ...]] = Counter()
    with rig(model, hosts, max_sequences=64, max_queue=draws, max_tokens_in_flight=10**6) as made:
        outcomes = [made.submit([1, 3], 4, sampling=Sampling(temperature=0.9)) for _ in range(draws)]
        for outcome in outcomes:
            counts[tuple(outcome.wait())] += 1
        accepted = sum(item.accepted for item in made.board.rounds)
    assert accepted > draws / 2, "the drafters must have played"
    cells = [(counts[text], mass * draws) for text, mass in law.items()]
    large = [cell for cell in cells if cell[1] >= 5]
    rest = (sum(c for c, e in cells if e < 5), sum(e for _, e in cells if e < 5))
    statistic = sum((count - expected) ** 2 / expected for count, expected in [*large, rest])
    degrees = len(large)
    # Wilson-Hilferty: the 99.99% point of chi-square with `degrees` degrees of freedom
    point = degrees * (1 - 2 / (9 * degrees) + 3.719 * (2 / (9 * degrees)) ** 0.5) ** 3
    assert statistic < point


class DearModel(TableModel):
    """Every position takes time, as on a target that many requests keep busy."""

    def forward(self, steps: Sequence[Step]) -> torch.Tensor:
        time.sleep(0.001 * sum(len(step.token_ids) for step in steps))
        return super().forward(steps)


def test_where_positions_are_dear_poor_drafts_are_no_longer_asked_for() -> None:
    drafted = {}
    for setter in ("longest", "measured"):
        model = DearModel(vocab_size=12)
        with rig(model, {"poor": GuessHost(model, 6.0)}, draft_length=setter) as made:
            assert made.submit([1, 2, 3], 150).wait() == model.greedy([1, 2, 3], 150)
            drafted[setter] = made.hosts["poor"].drafted
            assert made.engine._setup.lengths is None or not made.engine._setup.lengths._drafters["poor"].own
    assert drafted["longest"] > 300
    assert drafted["measured"] < drafted["longest"] / 3


class CountingModel(TableModel):
    """Remembers how many tokens each forward ran, by step."""

    def __init__(self) -> None:
        super().__init__(vocab_size=12)
        self.sizes: list[list[int]] = []
        self.fifth: Callable[[], object] = lambda: None

    def forward(self, steps: Sequence[Step]) -> torch.Tensor:
        self.sizes.append([len(step.token_ids) for step in steps])
        if len(self.sizes) == 5:
            self.fifth()
        return super().forward(steps)


def test_a_long_prompt_is_run_in_parts_while_others_get_their_tokens() -> None:
    model = CountingModel()
    prompts = [[1, 2], *([(i * i + k) % 12 for i in range(90 + k)] for k in range(2))]
    made = Rig(model, {"good": GuessHost(model, 0.3)}, EngineLimits(**LIMITS | {"max_prefill": 20, "max_draft": 3}))
    order: list[int] = []
    outcomes = [made.submit(prompt, 40) for prompt in prompts]
    for index, outcome in enumerate(outcomes):
        outcome.heard = lambda index=index: order.append(index)
    thread = threading.Thread(target=made.engine.run)
    thread.start()
    texts = [outcome.wait() for outcome in outcomes]
    made.engine.stop()
    thread.join(10)
    assert texts == [model.greedy(prompt, 40) for prompt in prompts]
    assert all(outcome.ends == 1 for outcome in outcomes)
    assert all(chunk.token_ids for outcome in outcomes for chunk in outcome.chunks), "a part of a prompt is no news"
    # 90 and 91 tokens by 20 a round, 18 in the first one: at least 9 rounds, in each of which the first gets tokens.
    assert order[:9].count(0) >= 4
    assert order.index(1) >= 4
    assert order.index(2) >= 8
    assert max(sum(size for size in sizes if size > 4) for sizes in model.sizes) == 20


def test_a_request_aborted_while_its_prompt_is_run_ends_once() -> None:
    model = CountingModel()
    made = Rig(model, {}, EngineLimits(**LIMITS | {"max_prefill": 1}))
    long = made.submit([1, 2] * 60, 10)
    other = made.submit([3], 150)
    model.fifth = lambda: made.engine.abort(long.request_id)
    thread = threading.Thread(target=made.engine.run)
    thread.start()
    assert long.wait() == []
    assert [chunk.finish_reason for chunk in long.chunks] == ["abort"]
    assert other.wait() == model.greedy([3], 150)
    made.engine.stop()
    thread.join(10)


def test_beyond_the_bounds_requests_wait_and_then_are_refused() -> None:
    model = TableModel()
    bounds = {"max_sequences": 2, "max_queue": 3, "max_context": 64, "max_tokens_in_flight": 60}
    made = Rig(model, {}, EngineLimits(**LIMITS | bounds))
    outcomes = [made.submit([1], 20) for _ in range(5)]
    with pytest.raises(Overloaded, match="0 requests run and 5 wait, the most"):
        made.submit([1], 20)
    assert made.engine.waiting == 5
    thread = threading.Thread(target=made.engine.run)
    thread.start()
    for outcome in outcomes:
        assert outcome.wait() == model.greedy([1], 20)
    made.engine.stop()
    thread.join(10)
    with pytest.raises(NotReady):
        made.submit([1], 20)


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "field"),
    [([], 4, "prompt"), ([99], 4, "prompt"), ([-1], 4, "prompt"), ([1], 0, "max_tokens"), ([1] * 60, 10, "max_tokens")],
)
def test_what_can_never_run_is_refused_at_once(prompt: list[int], max_tokens: int, field: str) -> None:
    made = Rig(TableModel(), {}, EngineLimits(**LIMITS | {"max_context": 64}))
    with pytest.raises(RequestError) as caught:
        made.submit(prompt, max_tokens)
    assert caught.value.param == field


def test_an_aborted_request_ends_once_and_leaves_no_session() -> None:
    model = TableModel(vocab_size=12)
    hosts = {"good": GuessHost(model, 0.5)}
    with rig(model, hosts, max_context=100_000, max_tokens_in_flight=10**6) as made:
        model.max_positions = 10**6
        outcome = made.submit([1, 2], 50_000)
        while not outcome.chunks:
            pass
        made.engine.abort(outcome.request_id)
        outcome.wait()
        made.engine.abort(outcome.request_id)
        assert outcome.chunks[-1].finish_reason == "abort"
        assert made.submit([1, 2], 5).wait() == model.greedy([1, 2], 5)
    assert outcome.ends == 1
    assert not hosts["good"].tokens


def test_a_failing_forward_ends_its_requests_and_the_next_ones_run() -> None:
    model = TableModel(max_positions=20)
    with rig(model, {}) as made:
        outcome = made.submit([1, 2], 100)
        with pytest.raises(EngineError, match="beyond max_positions"):
            outcome.wait()
        assert outcome.ends == 1
        assert made.submit([1, 2], 10).wait() == model.greedy([1, 2], 10)


def test_stopping_ends_what_runs_and_what_waits() -> None:
    model = TableModel()
    with rig(model, {}, max_sequences=1, max_context=10**6, max_tokens_in_flight=10**6) as made:
        model.max_positions = 10**6
        outcomes = [made.submit([1], 10**5) for _ in range(3)]
        while not outcomes[0].chunks:
            pass
    for outcome in outcomes:
        with pytest.raises(NotReady):
            outcome.wait()
        assert outcome.ends == 1


def test_a_request_may_name_its_drafters_and_its_draft_length() -> None:
    model = TableModel(vocab_size=12)
    with rig(model, {"a": GuessHost(model, 0.0), "b": GuessHost(model, 0.0)}) as made:
        made.submit([1, 2], 40, drafters=("b",), max_draft=2).wait()
        played = {item.drafter for item in made.board.rounds}
        assert played <= {"b", ""}
        assert "b" in played
        assert max(item.drafted for item in made.board.rounds) == 2
        assert made.hosts["a"].drafted == 0
        drafted = made.hosts["b"].drafted
        assert made.submit([1, 2], 20, max_draft=0).wait() == model.greedy([1, 2], 20)
        assert (made.hosts["a"].drafted, made.hosts["b"].drafted) == (0, drafted)


class MuteHost(GuessHost):
    """Answers at once, with nothing to offer."""

    def handle(self, batch: DrafterBatch) -> tuple[DrafterReply, list[Score]]:
        reply, scores = super().handle(batch)
        return replace(reply, drafts=[Draft(draft.seq, draft.start, []) for draft in reply.drafts]), scores


def test_the_selector_hears_a_requests_policy_and_whom_it_asked_in_vain() -> None:
    model = TableModel(vocab_size=12)
    with rig(model, {"mute": MuteHost(model, 0.0)}) as made:
        outcome = made.submit([1, 2], 6, policy="ucbspec")
        outcome.wait()
        made.submit([1, 2], 6).wait()
        assert made.board.policies == ["ucbspec", ""]
        assert {(item.drafter, item.drafted) for item in made.board.rounds} >= {("mute", 0)}
        assert {chunk.drafter for chunk in outcome.chunks} == {""}, "for the reader such a round is a plain one"


class OneSidedBoard(EvenBoard):
    """All weight on `fast`."""

    def weights(self, seq: int) -> Mapping[str, float]:
        return {"fast": 1.0, "slow": 0.0}


class NobodysBoard(EvenBoard):
    """No weight on anyone."""

    def weights(self, seq: int) -> Mapping[str, float]:
        return dict.fromkeys(("a", "b", "c"), 0.0)


class SlowHost(GuessHost):
    """Takes its time over drafts, and counts the sequences it was told of."""

    opened = 0

    def handle(self, batch: DrafterBatch) -> tuple[DrafterReply, list[Score]]:
        self.opened += len(batch.opens)
        if batch.proposes:
            time.sleep(2 * SLOW_MS / 1e3)
        return super().handle(batch)


def test_where_no_drafter_has_weight_or_is_fast_one_follows_not_all() -> None:
    model = TableModel(vocab_size=12)
    hosts = {name: SlowHost(model, 0.3) for name in ("a", "b", "c")}
    made = Rig(model, hosts, EngineLimits(**LIMITS | {"evaluation_share": 0.0}))
    made.board = NobodysBoard(list(hosts))
    made.engine = Engine(model, made.pool, made.board, made.engine._limits, Random(3))
    thread = threading.Thread(target=made.engine.run)
    thread.start()
    for _ in range(12):
        made.submit([1, 2, 3], 3).wait()
    made.engine.stop()
    thread.join(10)
    assert sum(host.opened for host in hosts.values()) == 12


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (1.0, 40, 40), (0.25, 2, 22)])
def test_a_slow_drafter_without_weight_follows_a_sample_of_sequences(share: float, least: int, most: int) -> None:
    """0.25 of 40, and the first, which need not be drawn; outside 2..22 in fewer than 1 of 10,000 seeds."""
    model = TableModel(vocab_size=12)
    hosts = {"fast": GuessHost(model, 0.3), "slow": SlowHost(model, 0.3)}
    made = Rig(model, hosts, EngineLimits(**LIMITS | {"evaluation_share": share}))
    made.board = OneSidedBoard(list(hosts))
    made.engine = Engine(model, made.pool, made.board, made.engine._limits, Random(3))
    thread = threading.Thread(target=made.engine.run)
    thread.start()
    made.submit([1, 2, 3], 60, drafters=("slow",)).wait()  # its latency is learnt
    known = hosts["slow"].opened
    assert known == 1
    for _ in range(40):
        made.submit([1, 2, 3], 3).wait()
    made.engine.stop()
    thread.join(10)
    assert least <= hosts["slow"].opened - known <= most


def test_slow_drafters_without_weight_take_turns() -> None:
    """Each is scored once before any is twice, and then the sample is shared: it does not grow with their number."""
    model = TableModel(vocab_size=12)
    slow = {f"slow{i}": SlowHost(model, 0.3) for i in range(6)}
    hosts: dict[str, GuessHost] = {"fast": GuessHost(model, 0.3), **slow}
    made = Rig(model, hosts, EngineLimits(**LIMITS | {"evaluation_share": 0.25}))
    made.board = OneSidedBoard(list(hosts))
    made.engine = Engine(model, made.pool, made.board, made.engine._limits, Random(3))
    thread = threading.Thread(target=made.engine.run)
    thread.start()
    for _ in range(6):
        made.submit([1, 2, 3], 3).wait()
    assert [host.opened for host in slow.values()] == [1] * 6
    for _ in range(60):
        made.submit([1, 2, 3], 3).wait()
    made.engine.stop()
    thread.join(10)
    again = [host.opened - 1 for host in slow.values()]
    assert max(again) - min(again) <= 1
    assert 3 <= sum(again) <= 30  # 15 of 60 expected; outside in fewer than 1 of 10,000 seeds


def test_a_policy_that_a_request_names_chooses_among_all() -> None:
    model = TableModel(vocab_size=12)
    hosts = {"fast": GuessHost(model, 0.3), "slow": SlowHost(model, 0.3)}
    made = Rig(model, hosts, EngineLimits(**LIMITS | {"evaluation_share": 0.0}))
    made.board = OneSidedBoard(list(hosts))
    made.engine = Engine(model, made.pool, made.board, made.engine._limits, Random(3))
    thread = threading.Thread(target=made.engine.run)
    thread.start()
    made.submit([1, 2, 3], 3).wait()
    assert hosts["slow"].opened == 0
    made.submit([1, 2, 3], 3, policy="uniform").wait()
    made.engine.stop()
    thread.join(10)
    assert hosts["slow"].opened == 1
