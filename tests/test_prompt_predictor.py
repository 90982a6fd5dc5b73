"""What a prompt's words foretell: the right drafter from the first round, where prompts can be told apart at all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from paceline.actors import selector_wire
from paceline.actors.errors import ProtocolError
from paceline.actors.messages import Heartbeat, Score, SequenceOpened, SequenceRound, TargetReport
from paceline.actors.prompt_sketch import BITS, BYTES, features, sketch
from paceline.cluster.config import SelectorConfig, SpeculationConfig
from paceline.cluster.prompt_predictor import MOST, LossSums, PromptPredictor
from paceline.cluster.selector import Selector

WORDS = 300  # of a domain, and of all; the n-th is 1/n as frequent as the first (Zipf)
DOMAINS = {"math": 1_000, "code": 2_000}  # first ids
GAMMAS = {"math": {"m": 0.9, "c": 0.3}, "code": {"m": 0.3, "c": 0.9}}


def prompt(generator: np.random.Generator, domain: str) -> list[int]:
    """Half of its words are the domain's, half everybody's."""
    law = 1.0 / np.arange(1, WORDS + 1)
    words = generator.choice(WORDS, size=60, p=law / law.sum())
    words[::2] += DOMAINS[domain]
    return words.tolist()


def test_a_sketch_has_one_size_and_tells_texts_apart() -> None:
    generator = np.random.default_rng(3)
    for tokens in ([5], [5, 6], list(range(10_000))):
        assert len(sketch(tokens)) == BYTES
        assert np.linalg.norm(features(sketch(tokens))) == pytest.approx(1.0)
        assert len(features(sketch(tokens))) == BITS + 1
    assert sketch([1, 2, 3]) == sketch([1, 2, 3]) != sketch([3, 2, 1])
    assert sketch([*range(500), *range(1000, 1128)]) == sketch([*range(300, 700), *range(1000, 1128)])
    math, again, code = (features(sketch(prompt(generator, domain))) for domain in ("math", "math", "code"))
    assert math @ again > 1.2 * (math @ code)
    assert abs(features(sketch(range(60))) @ features(sketch(range(5000, 5060)))) < 0.2


def first_weights(prompt_weight: float, requests: int = 60) -> list[float]:
    """The good drafter's weight before anything of a sequence is scored, request by request."""
    generator = np.random.default_rng(11)
    config = SelectorConfig(loss="eal", prompt_weight=prompt_weight)
    selector = Selector(config, SpeculationConfig(max_draft=4, catch_up_tokens=3), 1.0, lambda: 0.0)
    for name in ("m", "c"):
        selector.register(Heartbeat(name, "lm", "h:1"))
    target = selector.connect("t")
    found = []
    for seq, domain in zip(range(1, requests + 1), itertools.cycle(DOMAINS), strict=False):
        tokens = prompt(generator, domain)
        opened = SequenceOpened(seq, len(tokens), sketch=sketch(tokens))
        selector.report(target, TargetReport("t", opened=[opened]))
        update = selector.update(target)
        assert update is not None
        weights = dict(zip(update.drafters, update.sequences[seq].tolist(), strict=True))
        found.append(weights["m" if domain == "math" else "c"])
        for number in range(10):
            start = len(tokens) + 3 * number
            for name, gamma in GAMMAS[domain].items():
                selector.scores(name, [Score(seq, start, np.full(3, gamma, dtype=np.float32))])
            selector.report(target, TargetReport("t", rounds=[SequenceRound(seq, start + 3, "m", 4, 2)]))
        selector.report(target, TargetReport("t", closed=[seq]))
    return found


def test_it_helps_from_the_first_round_of_a_prompt_that_was_never_seen() -> None:
    without, with_it = (np.mean(first_weights(weight)[30:]) for weight in (0.0, 1.0))
    assert with_it > 0.9
    assert without < 0.6, "half of the requests are of either domain, and no route tells them apart"


def test_it_predicts_advantages_and_nothing_without_a_sketch() -> None:
    generator = np.random.default_rng(5)
    model = PromptPredictor()
    for _ in range(3):
        model.join()
    for _ in range(60):
        for domain, losses in (("math", [0.1, 0.5, 0.6]), ("code", [0.5, 0.1, 0.6])):
            tokens = sketch(prompt(generator, domain))
            model.learn(tokens, 40.0 * np.array(losses), np.full(3, 40.0))
    math, code = (np.array([model.predict(sketch(prompt(generator, domain))) for _ in range(40)]) for domain in DOMAINS)
    # What a prompt's words have in common with the other domain's draws a prediction towards the mean of both.
    assert math.mean(axis=0) == pytest.approx([0.3, -0.1, -0.2], abs=0.15)
    assert code.mean(axis=0) == pytest.approx([-0.1, 0.3, -0.2], abs=0.15)
    assert (math.argmax(axis=1) == 0).mean() > 0.9
    assert (code.argmax(axis=1) == 1).mean() > 0.9
    assert model.predict(b"").tolist() == [0.0, 0.0, 0.0]


def test_a_sketch_of_another_size_is_refused() -> None:
    report = TargetReport("t", opened=[SequenceOpened(1, 5, sketch=b"short")])
    with pytest.raises(ProtocolError, match=r"opened\[0\]\.sketch: expected 64 bytes or none, got 5"):
        selector_wire.decode_report(selector_wire.encode_report(report))


def test_short_requests_and_lone_drafters_teach_nothing() -> None:
    model = PromptPredictor()
    model.join()
    model.join()
    tokens = sketch([1, 2, 3])
    model.learn(tokens, np.array([1.0, 5.0]), np.array([7.0, 7.0]))
    model.learn(tokens, np.array([1.0, 0.0]), np.array([40.0, 0.0]))
    model.learn(b"", np.array([1.0, 30.0]), np.array([40.0, 40.0]))
    assert not model.coefficients.any()
    model.learn(tokens, np.array([1.0, 30.0]), np.array([40.0, 40.0]))
    assert model.coefficients.any()


def test_its_coefficients_are_bounded_whatever_it_is_told() -> None:
    generator = np.random.default_rng(7)
    model = PromptPredictor()
    model.join()
    model.join()
    for number in range(3000):
        losses = np.array([0.0, 40.0]) if number % 2 else np.array([40.0, 0.0])
        model.learn(sketch(generator.integers(0, 50, size=number % 5 + 1).tolist()), losses, np.full(2, 40.0))
    assert np.abs(model.coefficients).max() <= MOST
    assert np.abs(model.predict(sketch([1, 2]))).max() <= 1.0


def test_sums_are_a_row_s_own_and_end_with_it() -> None:
    sums = LossSums(3)
    sums.join()
    sums.join()
    sums.add(np.array([0, 2]), np.array([[0.5, np.nan], [0.25, 1.0]]))
    sums.add(np.array([0, 0]), np.array([[0.25, 0.5], [0.25, 0.25]]))  # a row may release several at once
    losses, positions = sums.take(0)
    assert (losses.tolist(), positions.tolist()) == ([1.0, 0.75], [3.0, 2.0])
    assert sums.take(0)[1].tolist() == [0.0, 0.0]
    assert sums.take(2)[0].tolist() == [0.25, 1.0]
