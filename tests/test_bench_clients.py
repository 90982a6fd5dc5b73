"""The benchmark's clients: they come back when they are told to, and what goes wrong is counted."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from bench_clients import Run, measure, percentile
from fake_backend import EOS, FakeBackend, make_api, make_tokenizer, rounds, served

from paceline.actors.errors import EngineError, Overloaded
from paceline.actors.generation import Chunk, Generation
from paceline.cluster.tokenizer import ChatTokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


async def run(tokenizer: ChatTokenizer, failures: Sequence[Exception], give_up_s: float = 30.0) -> tuple[Run, int]:
    """Two clients with two answers each; the first requests fail so, one after another."""
    waiting = list(failures)
    ids = tokenizer.encode("the fox" + EOS)

    def script(_: Generation) -> list[Chunk | Exception]:
        return [waiting.pop(0)] if waiting else [*rounds(ids, [2])]

    options = argparse.Namespace(api_key="any", clients=2, answers=2, tokens=16, give_up_s=give_up_s)
    with served(make_api(FakeBackend(script), tokenizer)) as url:
        return await measure(url, ["hello", "there"], options, None), len(ids)


async def test_a_client_that_is_refused_comes_back(tokenizer: ChatTokenizer) -> None:
    seen, tokens = await run(tokenizer, [Overloaded("full"), Overloaded("full")])
    assert [answer.error for answer in seen.answers] == [""] * 4
    assert [answer.tokens for answer in seen.answers] == [tokens] * 4
    assert sum(answer.refusals for answer in seen.answers) == 2
    for answer in seen.answers:
        assert 0 < answer.taken_first_token_s <= answer.first_token_s <= answer.total_s
        if answer.refusals:
            assert answer.first_token_s >= answer.refusals, "it waited a second each time, as it was told"


async def test_other_failures_are_errors(tokenizer: ChatTokenizer) -> None:
    seen, _ = await run(tokenizer, [EngineError("broken")])
    assert Counter(bool(answer.error) for answer in seen.answers) == {False: 3, True: 1}
    assert "broken" in next(answer.error for answer in seen.answers if answer.error)
    seen, _ = await run(tokenizer, [Overloaded("full")], give_up_s=0.0)
    assert "still refused" in next(answer.error for answer in seen.answers if answer.error)


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [float(value) for value in range(1, 201)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [100.0, 198.0, 200.0]
    assert percentile([7.0], 0.5) == 7.0
