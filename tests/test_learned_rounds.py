"""The target where the selector sets lengths: text stays the target's own, rounds have arms, nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from engine_rig import LIMITS, EvenBoard, GuessHost, Outcome
from table_model import TableModel

from paceline.actors.arm_choice import PLAIN, Arm, choose_arms, draw_drafter
from paceline.actors.causal_model import Step
from paceline.actors.draft_length import START_ROUNDS, Ask, DraftLength
from paceline.actors.engine import Engine, EngineLimits
from paceline.actors.engine_counts import EngineCounts
from paceline.actors.generation import Generation
from paceline.actors.held_weights import HeldWeights
from paceline.actors.learned_length import PROBE, STRETCH, LearnedLength
from paceline.actors.local_link import LocalLink
from paceline.actors.messages import DrafterBatch, DrafterReply, Heartbeat, Score, TargetReport, WeightsUpdate
from paceline.actors.score_link import ScoreLink
from paceline.actors.session_pool import SessionPool
from paceline.actors.tracer import TRACER
from paceline.actors.weights_link import WeightsLink
from paceline.cluster.config import SelectorConfig, SpeculationConfig
from paceline.cluster.selector import Selector
from paceline.cluster.selector_server import SelectorServer

DELAY_S = 0.05
OURS = {"choose", "draft", "ask", "verify", "judge", "tell"}


def until(condition: Callable[[], bool], what: str, deadline_s: float = 20.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.005)


class SetBoard(EvenBoard):
    """Weights and lengths that a test sets."""

    given: Mapping[str, float]
    set_lengths: Mapping[str, int]

    def weights(self, seq: int) -> Mapping[str, float]:
        return self.given

    def lengths(self, seq: int) -> Mapping[str, int]:
        return self.set_lengths


@pytest.mark.parametrize("ready", [0, 1, 2, 5])
def test_what_is_at_hand_is_played_where_it_is_half_of_what_is_wanted(ready: int) -> None:
    assert LearnedLength().of(4, ready, 7) == {0: 4, 1: 4, 2: 2, 5: 4}[ready]


def test_now_and_then_a_draft_is_of_another_length_and_never_beyond_the_bounds() -> None:
    learned = LearnedLength()
    lengths = [learned.of(4, 0, 6) for _ in range(4 * STRETCH)]
    assert {length: lengths.count(length) for length in set(lengths)} == {4: 4 * STRETCH - 4, 2: 2, 6: 2}
    assert {LearnedLength().of(1, 0, 1) for _ in range(3 * STRETCH)} == {1}


def test_after_many_plain_rounds_somebody_drafts() -> None:
    learned = LearnedLength()
    asked = [learned.resting(True) for _ in range(3 * (PROBE + 1))]
    assert sum(asked) == 3
    assert not learned.resting(False)


class EverywherePool:
    def serves(self, drafter: str, seq: int) -> bool:
        return True


def set_board(weights: Mapping[str, float], lengths: Mapping[str, int]) -> SetBoard:
    board = SetBoard(list(weights))
    board.given, board.set_lengths = weights, lengths
    return board


def running(seq: int = 1, most: int = 7, named: tuple[str, ...] = ()) -> Any:
    """A sequence that may draft so many tokens."""
    generation = Generation(f"r{seq}", (1, 2), 400, frozenset(), drafters=named)
    return SimpleNamespace(
        seq=seq, drafters=named, carried=None, generation=generation, draft_limit=lambda max_draft: min(most, max_draft)
    )


def chosen(sequences: list[Any], board: SetBoard, setup: Any = None) -> dict[int, Arm]:
    """The arms of one round."""
    return choose_arms(sequences, setup or set_up(board), board.names)


def set_up(board: SetBoard, rule: DraftLength | None = None, seed: int = 1) -> Any:
    return SimpleNamespace(
        board=board,
        pool=EverywherePool(),
        lengths=rule,
        learned=LearnedLength(),
        max_draft=7,
        chance=Random(seed),
        counts=EngineCounts(),
    )


def test_a_drafter_that_the_request_names_is_played_whatever_is_thought_of_it() -> None:
    """With its length, or as the target's rule says where the selector does not know it."""
    for weight in (0.0, 0.01):
        board = set_board({"a": weight, "b": 0.0}, {"a": 4, "b": 2})
        for name, length in (("a", 4), ("b", 2)):
            assert chosen([running(named=(name,))], board) == {1: Arm(name, length)}
    assert chosen([running()], set_board({"a": 0.0, "b": 0.0}, {"a": 4, "b": 2})) == {}
    new = set_board({"a": 0.0}, {"a": 4})
    new.names = ["a", "new"]
    assert chosen([running(named=("new",))], new) == {1: Arm("new", 7)}


class OneTokenRule(DraftLength):
    """Remembers what it was asked."""

    starting = False

    def __init__(self) -> None:
        super().__init__()
        self.asks: list[Ask] = []

    def choose(self, asks: Sequence[Ask], batch: int) -> list[int]:
        self.asks += asks
        return [0 if ask.most == 1 else 1 for ask in asks]


def test_where_the_selectors_length_is_too_long_the_targets_rule_decides() -> None:
    """The request's own bound, or the end of its answer: a slow drafter may not be worth its wait any more."""
    board, rule = set_board({"a": 1.0}, {"a": 5}), OneTokenRule()
    arms = chosen([running(1), running(2, most=5), running(3, most=4), running(4, most=1)], board, set_up(board, rule))
    assert arms == {1: Arm("a", 5), 2: Arm("a", 5), 3: Arm("a", 1)}
    assert rule.asks == [Ask(3, "a", 4, 0), Ask(4, "a", 1, 0)]


def test_after_many_plain_rounds_every_drafter_gets_its_turn_where_nobody_is_thought_well_of() -> None:
    nobody, somebody = ({"a": 0.0, "b": weight, "c": 0.0} for weight in (0.0, 1e-6))
    for weights, expected in ((nobody, {"a", "b", "c"}), (somebody, {"b"})):
        board = set_board(weights, {"a": 1, "b": 1, "c": 1})
        setup = set_up(board)
        probed = [chosen([running()], board, setup) for _ in range(20 * (PROBE + 1))]
        assert {arms[1].drafter for arms in probed if arms} == expected


def test_what_weights_leave_to_one_is_plain_decoding() -> None:
    board = set_board({"a": 0.25, "b": 0.25}, {"a": 2, "b": 3})

    def drawn(luck: float | None) -> str | None:
        return draw_drafter(running(), board, EverywherePool(), ["a", "b"], Random(1), luck)  # type: ignore[arg-type]

    assert [drawn(luck) for luck in (0.0, 0.24, 0.26, 0.49, 0.51, 0.999)] == ["a", "a", "b", "b", PLAIN, PLAIN]
    assert {drawn(None) for _ in range(20)} <= {"a", "b"}, "elsewhere weights are among drafters alone"
    board.given = {"a": 0.0, "b": 0.0}
    assert drawn(0.5) == PLAIN
    board.given = {"a": 0.5, "b": 0.4999999}
    assert drawn(0.9999999) == "b", "rounding is not plain decoding's"


def test_lengths_are_held_with_the_weights_that_they_belong_to() -> None:
    held = HeldWeights(None, 5.0, lambda: 0.0)
    half = np.array([0.5, 0.25], dtype=np.float32)
    held.apply(WeightsUpdate(1, ("a", "b"), half, {1: half}, None, (2, 3), {1: (4, 5)}), lambda _: True)
    assert held.lengths(1) == {"a": 4, "b": 5}
    assert held.lengths(2) == {"a": 2, "b": 3}
    held.opened(3, ("b",))
    assert held.weights(3) == {"b": pytest.approx(0.5)}, "of b's quarter and plain decoding's"
    held.opened(4, ("b",), named=True)
    assert held.weights(4) == {"b": 1.0}, "plain decoding has no share where a request names its drafters"
    fifth = np.array([0.0, 0.2], dtype=np.float32)
    held.apply(WeightsUpdate(2, ("a", "b"), half, {4: fifth}, None, (2, 3), {4: (4, 5)}), lambda _: True)
    assert (held.weights(4), held.lengths(4)) == ({"b": 1.0}, {"a": 4, "b": 5})
    held.apply(WeightsUpdate(3, ("a", "b"), half, {4: 0 * half}, None, (2, 3), {4: (4, 5)}), lambda _: True)
    assert held.weights(4) == {"b": 1.0}, "nor where nothing is thought of them"
    held.apply(WeightsUpdate(4, ("a", "b"), half, {1: half}), lambda _: True)
    assert held.lengths(1) == {}, "its policy leaves them to the target"
    assert held.lengths(2) == {}


class ScoredHost(GuessHost):
    """Scores itself on greedy text, as a real drafter does."""

    def handle(self, batch: DrafterBatch) -> tuple[DrafterReply, list[Score]]:
        reply, _ = super().handle(batch)
        scores = []
        for commit in batch.commits:
            held = self.tokens.get(commit.seq, [*[0] * commit.start, *commit.tokens])
            guesses = [self.table[held[at - 2], held[at - 1]].argmax() for at in range(commit.start, len(held))]
            hits = np.array([guess == token for guess, token in zip(guesses, commit.tokens, strict=True)])
            scores.append(Score(commit.seq, commit.start, hits.astype(np.float32)))
        return reply, scores


class SlowSelector(Selector):
    """Each batch of a target's news takes it 50 ms."""

    def report(self, connection: int, *reports: TargetReport) -> None:
        time.sleep(DELAY_S)
        super().report(connection, *reports)


class PacedModel(TableModel):
    """A forward takes 3 ms, however many positions it has: drafts pay."""

    def forward(self, steps: Sequence[Step]) -> torch.Tensor:
        time.sleep(0.003)
        return super().forward(steps)


def test_nobody_waits_for_a_slow_selector_and_text_stays_the_targets_own() -> None:
    """All over real links. While the selector sits on a batch of news for 50 ms the target plays whole rounds, and on
    its thread nothing is done but what a round is made of."""
    model = PacedModel(vocab_size=24)
    speculation = SpeculationConfig(max_draft=5, catch_up_tokens=4, draft_length="learned")
    selector = SlowSelector(SelectorConfig(), speculation, 1.0, time.monotonic)
    server = SelectorServer(selector, host="127.0.0.1", token=None, max_message_bytes=1 << 20, heartbeat_s=0.1)
    address = server.start()
    host = ScoredHost(model, 0.0)
    scores = ScoreLink(
        lambda: address,
        lambda: Heartbeat("good", "guess", "local:0"),
        token=None,
        max_message_bytes=1 << 20,
        interval_s=0.1,
    )
    scores.start()
    board = WeightsLink(
        lambda: address, "target", default_drafter=None, token=None, max_message_bytes=1 << 20, grace_s=2.0
    )
    pool = SessionPool(
        board.members, lambda _: LocalLink(host, scores.put), vocab_size=24, catch_up_tokens=4, deadline_s=1.0
    )
    limits = EngineLimits(**(LIMITS | {"draft_length": "learned", "max_context": 1024}))
    engine = Engine(model, pool, board, limits, Random(3))
    thread = threading.Thread(target=engine.run, name="engine-under-test")
    began = time.time_ns()
    thread.start()
    try:
        until(lambda: bool(pool.usable()), "the drafter is known")
        for name, named in (("r0-0", ()), ("r1-0", ()), ("r2-0", ()), ("named-0", ("good",))):
            outcome = Outcome(name)
            asked = Generation(name, (1, 2, 3), 400, frozenset(), drafters=named, show_weights=bool(named))
            engine.submit(asked, outcome.put)
            assert outcome.wait() == model.greedy([1, 2, 3], 400)
    finally:
        engine.stop()
        thread.join(10)
        board.close()
        scores.close()
        server.stop()
    spans = TRACER.since(began)
    ours = [span for span in spans if span.thread == thread.name]
    assert {span.name for span in ours} <= OURS | {"round"}
    learning = [span for span in spans if span.name == "learn"]
    during = [
        sum(
            busy.start_ns < item.start_ns and item.start_ns + item.duration_ns < busy.start_ns + busy.duration_ns
            for item in ours
            if item.name == "round"
        )
        for busy in learning
    ]
    assert max(during) >= 3, "rounds go on while the selector is busy"
    explained = selector.requests.explain("r2")
    assert explained is not None
    rounds = explained.choices[0].rounds
    assert any(entry.lengths for entry in rounds), "the selector had set lengths"
    assert sum(entry.drafter == "good" and entry.accepted > 0 for entry in rounds) > len(rounds) / 2
    assert len(rounds) > START_ROUNDS / 3
    # A request that names its drafter leaves nothing to plain decoding, where it is played and where it is told.
    assert [chunk.weights for chunk in outcome.chunks] == [{"good": 1.0}] * len(outcome.chunks)
    explained = selector.requests.explain("named")
    assert explained is not None
    shown = [entry.weights for entry in explained.choices[0].rounds if entry.weights is not None]
    assert shown == [{"good": 1.0}] * len(shown) != []
