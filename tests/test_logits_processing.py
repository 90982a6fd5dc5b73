"""Penalties, biases and a least length through the real engine: drafts may not be seen in the text, nor in its law.

The reference is written anew here, one token at a time and with dictionaries, as OpenAI's and vLLM's documents say it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_rig import GuessHost, crowd, rig
from table_model import TableModel
from tiny_models import make_tiny_llama

from paceline.actors.causal_model import CausalModel, Step
from paceline.actors.drafter_host import DrafterHost
from paceline.actors.drafter_options import NgramOptions
from paceline.actors.errors import RequestError
from paceline.actors.messages import DrafterBatch, DrafterReply, Score
from paceline.actors.model_loader import load_model
from paceline.actors.ngram import Ngram
from paceline.actors.sampling import LogitsProcessing, Sampling

KINDS = {
    "frequency": LogitsProcessing(frequency_penalty=0.8),
    "presence": LogitsProcessing(presence_penalty=1.3),
    "negative": LogitsProcessing(frequency_penalty=-0.3, presence_penalty=-0.4),
    "repetition": LogitsProcessing(repetition_penalty=1.7),
    "repetition below 1": LogitsProcessing(repetition_penalty=0.8),
    "bias": LogitsProcessing(logit_bias=((2, 3.0), (5, -100.0), (7, 1.5))),
    "all": LogitsProcessing(0.4, 0.3, 1.2, ((1, 2.0), (3, -2.0)), 12),
}
STOP = 4


def processed(
    logits: torch.Tensor, rules: LogitsProcessing, prompt: Sequence[int], answer: Sequence[int], stops: Sequence[int]
) -> torch.Tensor:
    """The reference: one position's logits [vocab] after everything in `rules`."""
    values = {token: float(logit) for token, logit in enumerate(logits)}
    for token, bias in rules.logit_bias:
        values[token] += bias
    if len(answer) < rules.min_tokens:
        for token in stops:
            values[token] = float("-inf")
    for token in {*prompt, *answer}:
        r = rules.repetition_penalty
        values[token] = values[token] / r if values[token] > 0 else values[token] * r
    for token, count in Counter(answer).items():
        values[token] -= rules.frequency_penalty * count + rules.presence_penalty
    return torch.tensor([values[token] for token in range(len(logits))])


def plain(
    row: Callable[[list[int]], torch.Tensor], rules: LogitsProcessing, prompt: list[int], count: int
) -> list[int]:
    """Greedy decoding, one token at a time."""
    answer: list[int] = []
    while len(answer) < count and STOP not in answer:
        logits = processed(row([*prompt, *answer]), rules, prompt, answer, [STOP])
        answer.append(int(logits.argmax()))
    return answer


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_with_any_drafter_is_plain_decodings(kind: str) -> None:
    model = TableModel(vocab_size=12)
    rules = KINDS[kind]
    prompts = [[i % 12, (5 * i) % 12, 3] for i in range(12)]
    texts = [plain(model.row, rules, prompt, 40) for prompt in prompts]
    assert texts != [model.greedy(prompt, 40)[: len(text)] for prompt, text in zip(prompts, texts, strict=True)]
    fields: dict[str, Any] = {"processing": rules, "stop_ids": frozenset({STOP})}
    with rig(model, crowd(model) | {"exact": GuessHost(model, 0.0)}) as made:
        outcomes = [made.submit(prompt, 40, **fields) for prompt in prompts]
        others = [made.submit(prompt, 40) for prompt in prompts]  # in the same rounds, without any of it
        assert [outcome.wait() for outcome in outcomes] == texts
        assert [other.wait() for other in others] == [model.greedy(prompt, 40) for prompt in prompts]
        alone = [made.submit(prompt, 40, speculate=False, **fields) for prompt in prompts]
        assert [outcome.wait() for outcome in alone] == texts
        assert sum(chunk.accepted for outcome in outcomes for chunk in outcome.chunks) > 0


@pytest.mark.parametrize("kind", ["frequency", "repetition", "all"])
def test_a_real_model_and_drafter_give_plain_decodings_text(kind: str, tmp_path: Path) -> None:
    """A tiny Llama, whose greedy text soon runs in circles: an n-gram drafter is then right, until penalties count."""
    model: CausalModel = load_model(make_tiny_llama(tmp_path), dtype="float32")
    rules = replace(KINDS[kind], frequency_penalty=KINDS[kind].frequency_penalty / 8)
    prompts = [[5, 9, 5, 9, 5], [11, 12, 13, 11, 12], [60]]

    def row(tokens: list[int]) -> torch.Tensor:
        return model.forward([Step(model.new_cache(), tokens, -1)])[0]

    hosts = {"ngram": DrafterHost(Ngram(NgramOptions(min_ngram=1), model.vocab_size), max_sessions=8)}
    with rig(model, hosts) as made:
        outcomes = [made.submit(prompt, 60, processing=rules, stop_ids=frozenset({STOP})) for prompt in prompts]
        assert [outcome.wait() for outcome in outcomes] == [plain(row, rules, prompt, 60) for prompt in prompts]
        assert sum(chunk.accepted for outcome in outcomes for chunk in outcome.chunks) > 0


@pytest.mark.parametrize("kind", ["frequency", "all"])
def test_a_seeded_text_does_not_depend_on_drafters_nor_on_a_resumption(kind: str) -> None:
    model = TableModel(vocab_size=12)
    fields: dict[str, Any] = {"processing": KINDS[kind], "sampling": Sampling(temperature=1.0, top_k=9, seed=41)}
    texts = []
    for hosts in ({}, {"good": GuessHost(model, 0.3)}, crowd(model)):
        with rig(model, hosts) as made:
            texts.append(made.submit([4, 2], 60, **fields).wait())
            resumed = made.submit([4, 2, *texts[0][:21]], 39, answered=21, **fields).wait()
            other = made.submit([4, 2], 60, sampling=fields["sampling"]).wait()
        assert texts[-1] == texts[0] == texts[0][:21] + resumed
    assert other != texts[0]


def test_sampled_text_follows_the_processed_law_exactly() -> None:
    """Chi-square over all four-token texts of five ids, 20,000 draws, as in `test_engine`, with penalties that count.

    The penalties are strong, so that a law which forgot the draft's own tokens would be far off.
    """
    torch.manual_seed(0)
    model = TableModel(vocab_size=5, sharpness=1.2)
    draws, prompt, temperature = 20_000, [1, 3], 0.9
    rules = LogitsProcessing(frequency_penalty=0.9, presence_penalty=0.7, repetition_penalty=1.3)
    law = {}
    for text in itertools.product(range(5), repeat=4):
        mass = 1.0
        for place, token in enumerate(text):
            answer = text[:place]
            logits = processed(model.row([*prompt, *answer]), rules, prompt, answer, [])
            mass *= float(torch.softmax(logits.double() / temperature, dim=-1)[token])
        law[text] = mass
    hosts = {"good": GuessHost(model, 0.4), "poor": GuessHost(model, 2.0)}
    with rig(model, hosts, max_sequences=64, max_queue=draws, max_tokens_in_flight=10**6) as made:
        sampling = Sampling(temperature=temperature)
        outcomes = [made.submit(prompt, 4, sampling=sampling, processing=rules) for _ in range(draws)]
        counts = Counter(tuple(outcome.wait()) for outcome in outcomes)
        accepted = sum(item.accepted for item in made.board.rounds)
    assert accepted > draws / 4, "the drafters must have played"
    cells = [(counts[text], mass * draws) for text, mass in law.items()]
    large = [cell for cell in cells if cell[1] >= 5]
    rest = (sum(c for c, e in cells if e < 5), sum(e for _, e in cells if e < 5))
    statistic = sum((count - expected) ** 2 / expected for count, expected in [*large, rest])
    degrees = len(large)
    # Wilson-Hilferty: the 99.99% point of chi-square with `degrees` degrees of freedom
    point = degrees * (1 - 2 / (9 * degrees) + 3.719 * (2 / (9 * degrees)) ** 0.5) ** 3
    assert statistic < point


@pytest.mark.parametrize("temperature", [0.0, 1.0])
class ListeningHost(GuessHost):
    """Keeps what it hears of the target's laws."""

    def handle(self, batch: DrafterBatch) -> tuple[DrafterReply, list[Score]]:
        self.heard = [*getattr(self, "heard", []), *batch.commits]
        return super().handle(batch)


def test_drafters_are_scored_by_the_processed_law() -> None:
    model = TableModel(vocab_size=12)
    host, prompt, rules = ListeningHost(model, 0.3), [1, 2, 3], replace(KINDS["all"], min_tokens=25)
    with rig(model, {"good": host}) as made:
        text = made.submit(prompt, 30, processing=rules, sampling=Sampling(1.0), stop_ids=frozenset({STOP})).wait()
    checked = 0
    for commit in host.heard:
        assert commit.p is not None
        for at in range(len(commit.tokens)):
            answer = text[: commit.start + at - len(prompt)]
            law = torch.softmax(processed(model.row([*prompt, *answer]), rules, prompt, answer, [STOP]), dim=-1)
            told = torch.zeros(12)
            kept = commit.p.ids[at] >= 0
            told[commit.p.ids[at][kept]] = torch.from_numpy(commit.p.probs[at][kept])
            torch.testing.assert_close(told, law)
            checked += 1
    assert checked >= 15


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_no_stop_comes_before_min_tokens_and_one_may_right_after(temperature: float) -> None:
    model = TableModel(vocab_size=12)
    likely = LogitsProcessing(logit_bias=((STOP, 100.0),), min_tokens=7)  # else it would be the first token
    with rig(model, {"good": GuessHost(model, 0.3)}) as made:
        fields: dict[str, Any] = {"sampling": Sampling(temperature), "stop_ids": frozenset({STOP, 10**6})}
        text = made.submit([1, 2, 3], 40, processing=likely, **fields).wait()
        assert made.submit([1, 2, 3], 40, processing=replace(likely, min_tokens=0), **fields).wait() == [STOP]
    assert len(text) == 8
    assert text.index(STOP) == 7


def test_a_bias_outside_the_vocabulary_is_refused_before_it_can_break_a_round() -> None:
    model = TableModel(vocab_size=12)
    with rig(model, {}) as made, pytest.raises(RequestError) as caught:
        made.submit([1], 4, processing=LogitsProcessing(logit_bias=((12, 1.0),)))
    assert caught.value.param == "logit_bias"
