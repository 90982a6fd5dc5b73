"""Admission by memory: answers that are only allowed keep nobody out, and where memory runs out nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_rig import LIMITS, Outcome, Rig, crowd, rig, running
from table_model import TableModel
from tiny_models import make_tiny_gpt2, make_tiny_llama

from paceline.actors import engine as engine_module
from paceline.actors.causal_model import CausalModel
from paceline.actors.engine import EngineLimits
from paceline.actors.errors import NotReady
from paceline.actors.logits_processing import LogitsProcessing
from paceline.actors.model_loader import load_model
from paceline.actors.sampling import Sampling
from paceline.actors.sequence import Sequence
from paceline.kernels.decoder_ops import BLOCK

PROMPTS = [[(7 * i + j * j + 3) % 97 for j in range(9 + 5 * i)] for i in range(6)]
ANSWER = 90
TIGHT = {"max_sequences": 6, "max_tokens_in_flight": 160, "max_prefill": 16}  # all six would come to 669 tokens
ROOMY = TIGHT | {"max_tokens_in_flight": 10_000}
LAWS = {
    "greedy": Sampling(),
    "seeded": Sampling(temperature=0.8, seed=5),
    "sampled": Sampling(temperature=0.8),
}


class Foreseeable(Sequence):
    """Its random numbers follow from its prompt."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.noise.manual_seed(sum(self.tokens))


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Products this small are faster on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def kv_positions(limits: Mapping[str, int]) -> int:
    return EngineLimits(**(LIMITS | limits)).kv_tokens


def llama(folder: Path, limits: Mapping[str, int]) -> CausalModel:
    """Its pool has not one block more than the limits ask for."""
    return load_model(make_tiny_llama(folder), dtype="float32", kv_tokens=kv_positions(limits))


def unbounded_llama(folder: Path, limits: Mapping[str, int]) -> CausalModel:
    return load_model(make_tiny_llama(folder), dtype="float32")


def gpt2(folder: Path, limits: Mapping[str, int]) -> CausalModel:
    return load_model(make_tiny_gpt2(folder), dtype="float32")


def answers(made: Rig, **fields: Any) -> list[Outcome]:
    outcomes = [made.submit(prompt, ANSWER, **fields) for prompt in PROMPTS]
    for outcome in outcomes:
        outcome.wait()
    return outcomes


def text(outcome: Outcome) -> list[int]:
    return [token for chunk in outcome.chunks for token in chunk.token_ids]


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize("load", [llama, unbounded_llama, gpt2])
def test_preempted_answers_are_those_of_an_engine_with_room(
    load: Callable[[Path, Mapping[str, int]], CausalModel], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "Sequence", Foreseeable)
    processing = LogitsProcessing(frequency_penalty=0.5)
    with rig(load(tmp_path, ROOMY), {}, **ROOMY) as made:
        expected = [text(outcome) for outcome in answers(made, sampling=LAWS[kind], processing=processing)]
        assert made.engine.counts.preemptions == 0
    model = load(tmp_path, TIGHT)
    most = 0
    with rig(model, {}, **TIGHT) as made:

        def look() -> None:
            nonlocal most
            most = max(most, model.positions_held([s.cache for s in made.engine._running]))

        outcomes = [made.submit(prompt, ANSWER, sampling=LAWS[kind], processing=processing) for prompt in PROMPTS]
        for outcome in outcomes:
            outcome.heard = look
        for outcome in outcomes:
            outcome.wait()
        assert made.engine.counts.preemptions > 0
        assert not made.board.open_sequences
    assert [text(outcome) for outcome in outcomes] == expected
    assert [outcome.ends for outcome in outcomes] == [1] * len(PROMPTS)
    assert {outcome.chunks[-1].finish_reason for outcome in outcomes} == {"length"}
    assert 0 < most <= kv_positions(TIGHT)
    assert model.positions_held([]) == 0, "all memory is back"


def test_preempted_sequences_keep_their_drafters_sessions_and_are_drafted_for_again() -> None:
    model = TableModel(vocab_size=97)
    hosts = crowd(model)
    with rig(model, hosts, **TIGHT) as made:
        outcomes = answers(made)
        assert made.engine.counts.preemptions > 0
    for prompt, outcome in zip(PROMPTS, outcomes, strict=True):
        assert text(outcome) == model.greedy(prompt, ANSWER)
        assert any(chunk.accepted for chunk in outcome.chunks[-20:])
    assert not hosts["good"].tokens


def test_answers_that_may_be_long_run_together() -> None:
    """Eight may come to eight times the bound, and all run at once."""
    model = TableModel(vocab_size=12)
    prompts = [[i, 3] for i in range(8)]
    bounds = {"max_context": 1000, "max_tokens_in_flight": 1000}
    most = 0
    made = Rig(model, {}, EngineLimits(**(LIMITS | bounds)))

    def look() -> None:
        nonlocal most
        most = max(most, made.engine.running)

    texts = [model.greedy(prompt, 60) for prompt in prompts]
    outcomes = [
        made.submit(prompt, 998, stop_ids=frozenset({plain[-1]})) for prompt, plain in zip(prompts, texts, strict=True)
    ]
    for outcome in outcomes:
        outcome.heard = look
    with running(made):
        for outcome, plain in zip(outcomes, texts, strict=True):
            assert outcome.wait() == plain[: plain.index(plain[-1]) + 1]
    assert most == 8
    assert made.engine.counts.preemptions == 0


def test_each_alone_fits_exactly() -> None:
    """Requests of the very size of the bound take turns, and none waits for ever."""
    model = TableModel(vocab_size=12)
    with rig(model, {}, max_sequences=5, max_context=96, max_tokens_in_flight=96) as made:
        outcomes = [made.submit([i, 1], 94) for i in range(5)]
        for i, outcome in enumerate(outcomes):
            assert outcome.wait() == model.greedy([i, 1], 94)
        assert made.engine.counts.preemptions > 0


def play(made: Rig) -> Iterator[list[str]]:
    """Round by round, on this thread: the requests that run in each, the oldest first."""
    engine = made.engine
    while engine.running or engine.waiting:
        engine._admit()
        yield sorted(sequence.generation.request_id for sequence in engine._running)
        engine._round()


def test_a_few_that_fit_pass_one_that_does_not_and_no_more_until_it_goes_on() -> None:
    """r0 and r1 fill the memory, and r1 waits for the end of r0; of ten small ones three pass it, as many as may run at
    once, however many come."""
    model = TableModel(vocab_size=12)
    bounds = {"max_sequences": 3, "max_tokens_in_flight": 256, "max_queue": 20}
    made = Rig(model, {}, EngineLimits(**LIMITS | bounds))
    prompts = [[i % 12 for i in range(40)], [i % 11 for i in range(90)], *([number, 1] for number in range(10))]
    answers = [160, 100, *[4] * 10]
    outcomes = [made.submit(*asked) for asked in zip(prompts[:2], answers, strict=False)]
    passed: list[str] = []
    waited = False
    for running_now in play(made):
        if made.engine._preempted and not waited:
            waited = True
            outcomes += [made.submit(*asked) for asked in zip(prompts[2:], answers[2:], strict=True)]
        if made.engine._preempted:
            assert "r0" in running_now
            passed += [name for name in running_now if name != "r0" and name not in passed]
    assert passed == ["r2", "r3", "r4"]
    assert made.engine.counts.preemptions == 1
    for outcome, prompt, tokens in zip(outcomes, prompts, answers, strict=True):
        assert outcome.wait() == model.greedy(prompt, tokens)


def test_who_came_last_is_preempted_not_an_older_one_that_it_passed() -> None:
    """r2 passes r1, which goes on once r0 has ended; where memory runs out again r2 yields, and so r1 is never the
    victim of those that came later."""
    model = TableModel(vocab_size=12)
    bounds = {"max_sequences": 2, "max_tokens_in_flight": 400, "max_context": 400}
    made = Rig(model, {}, EngineLimits(**LIMITS | bounds))
    asked = [([i % 12 for i in range(150)], 100), ([i % 11 for i in range(100)], 250), ([7, 1, 2, 3], 300)]
    outcomes = [made.submit(*request) for request in asked]
    seen: list[tuple[list[str], list[str]]] = []
    for running_now in play(made):
        now = running_now, [sequence.generation.request_id for sequence in made.engine._preempted]
        if not seen or seen[-1] != now:
            seen.append(now)
    assert seen == [
        (["r0", "r1"], []),
        (["r0", "r2"], ["r1"]),
        (["r1", "r2"], []),
        (["r1"], ["r2"]),
        (["r2"], []),
    ]
    for outcome, (prompt, tokens) in zip(outcomes, asked, strict=True):
        assert outcome.wait() == model.greedy(prompt, tokens)


def until_preempted(made: Rig, outcomes: list[Outcome], then: Callable[[str], None]) -> None:
    """Calls once, on the engine's thread, with the id of a request that waits for its memory."""
    called: list[str] = []

    def look() -> None:
        if made.engine._preempted and not called:
            called.append(made.engine._preempted[0].generation.request_id)
            then(called[0])

    for outcome in outcomes:
        outcome.heard = look


def test_an_abort_reaches_a_preempted_sequence() -> None:
    model = TableModel(vocab_size=97)
    hosts = crowd(model)
    made = Rig(model, hosts, EngineLimits(**(LIMITS | TIGHT)))
    outcomes = [made.submit(prompt, ANSWER) for prompt in PROMPTS]
    gone: list[str] = []

    def abort(request_id: str) -> None:
        gone.append(request_id)
        made.engine.abort(request_id)

    until_preempted(made, outcomes, abort)
    with running(made):
        for prompt, outcome in zip(PROMPTS, outcomes, strict=True):
            plain = model.greedy(prompt, ANSWER)
            if outcome.request_id in gone:
                heard = outcome.wait()
                assert outcome.chunks[-1].finish_reason == "abort"
                assert heard == plain[: len(heard)]
                assert len(heard) < ANSWER
            else:
                assert outcome.wait() == plain
            assert outcome.ends == 1
    assert len(gone) == 1
    assert not made.board.open_sequences
    assert not hosts["good"].tokens


def test_stopping_ends_preempted_sequences() -> None:
    model = TableModel(vocab_size=97)
    made = Rig(model, {}, EngineLimits(**(LIMITS | TIGHT)))
    outcomes = [made.submit(prompt, ANSWER) for prompt in PROMPTS]
    until_preempted(made, outcomes, lambda _: made.engine.stop())
    with running(made):
        for outcome in outcomes:
            with pytest.raises(NotReady):
                outcome.wait()
            assert outcome.ends == 1
    assert not made.board.open_sequences


def test_what_a_prompt_shares_counts_once(tmp_path: Path) -> None:
    """Three answers to one prompt run together where two would fill the memory if each held all of it."""
    limits = {"max_sequences": 5, "max_context": 300, "max_tokens_in_flight": 360, "max_prefill": 400}
    prompt = [(i * i + 3) % 97 for i in range(9 * BLOCK + 1)]
    most = 0
    with rig(llama(tmp_path, limits), {}, **limits) as made:
        expected = made.submit(prompt, 40).wait()

        def look() -> None:
            nonlocal most
            most = max(most, made.engine.running)

        outcomes = [made.submit(prompt, 40) for _ in range(5)]
        for outcome in outcomes:
            outcome.heard = look
        assert [outcome.wait() for outcome in outcomes] == [expected] * 5
        assert made.engine.counts.preemptions == 0
    assert most == 3
