"""`/tokenize` and `/detokenize`, against the tokenizer itself; stop ids and least lengths as requests give them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_backend import CONTEXT, EOS, MODEL, FakeBackend, make_api, make_tokenizer, rounds, served

from paceline.actors.sampling import LogitsProcessing
from paceline.cluster.tokenizer import ChatTokenizer

TEXT = "the 自行车 🚴 stops; the stop stops"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def backend(tokenizer: ChatTokenizer) -> FakeBackend:
    return FakeBackend(lambda _: rounds(tokenizer.encode(TEXT), [3, 1, 2], "length"))


@pytest.fixture(scope="module")
def client(backend: FakeBackend, tokenizer: ChatTokenizer) -> Iterator[httpx.Client]:
    with served(make_api(backend, tokenizer)) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


def post(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    reply = client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    document: dict[str, Any] = reply.json()
    return document


def test_a_text_to_ids_and_back(client: httpx.Client, tokenizer: ChatTokenizer) -> None:
    there = post(client, "/tokenize", model=MODEL, prompt=TEXT + EOS)
    ids = tokenizer.encode(TEXT + EOS)
    assert there == {"count": len(ids), "max_model_len": CONTEXT, "tokens": ids, "token_strs": None}
    assert post(client, "/detokenize", model=MODEL, tokens=ids) == {"prompt": TEXT + EOS}
    assert post(client, "/detokenize", tokens=[]) == {"prompt": ""}
    named = post(client, "/tokenize", prompt="the fox", return_token_strs=True)
    assert "".join(named["token_strs"]) == "the\u0120fox"
    assert post(client, "/tokenize", prompt="")["count"] == 0


def test_a_conversation_to_the_ids_that_chat_would_run(
    client: httpx.Client, backend: FakeBackend, tokenizer: ChatTokenizer
) -> None:
    messages = [{"role": "user", "content": "hello"}]
    ids = post(client, "/tokenize", model=MODEL, messages=messages)["tokens"]
    post(client, "/v1/chat/completions", model=MODEL, messages=messages)
    assert tuple(ids) == backend.asked[-1].prompt
    ended = post(client, "/tokenize", messages=messages, add_generation_prompt=False)["tokens"]
    assert ids[: len(ended)] == ended
    assert tokenizer.decode(ids[len(ended) :]) == "[assistant]"


def test_a_long_text_is_tokenised_whole(client: httpx.Client, tokenizer: ChatTokenizer) -> None:
    text = "the quick fox " * 3000
    assert post(client, "/tokenize", prompt=text)["tokens"] == tokenizer.encode(text)


def test_stop_ids_are_the_models_and_the_requests(
    client: httpx.Client, backend: FakeBackend, tokenizer: ChatTokenizer
) -> None:
    eos = tokenizer.encode(EOS)[0]
    for fields, expected in (
        ({}, {eos}),
        ({"stop_token_ids": [5, 7, 5]}, {eos, 5, 7}),
        ({"ignore_eos": True}, set()),
        ({"ignore_eos": True, "stop_token_ids": [eos]}, {eos}),
    ):
        post(client, "/v1/completions", model=MODEL, prompt="a", **fields)
        assert backend.asked[-1].stop_ids == frozenset(expected), fields


def test_fields_become_what_the_engine_is_asked_for(client: httpx.Client, backend: FakeBackend) -> None:
    fields = {
        "frequency_penalty": 0.5,
        "presence_penalty": -1,
        "repetition_penalty": 1.1,
        "logit_bias": {"7": -100, "3": 2.5},
        "min_tokens": 4,
        "logprobs": 3,
        "paceline": {"max_draft": 0},
    }
    post(client, "/v1/completions", model=MODEL, prompt="a", **fields)
    asked = backend.asked[-1]
    assert asked.processing == LogitsProcessing(0.5, -1.0, 1.1, ((3, 2.5), (7, -100.0)), 4)
    assert (asked.logprobs, asked.max_draft, asked.speculate) == (3, 0, True)
    post(client, "/v1/completions", model=MODEL, prompt="a", frequency_penalty=0, logit_bias={})
    assert backend.asked[-1].processing is None, "what asks for nothing costs nothing"


def test_min_tokens_alone_makes_room_for_itself(client: httpx.Client, backend: FakeBackend) -> None:
    post(client, "/v1/completions", model=MODEL, prompt="a", min_tokens=40)
    assert backend.asked[-1].max_tokens == 40


def test_a_stop_string_counts_only_after_min_tokens(client: httpx.Client, tokenizer: ChatTokenizer) -> None:
    def text(**fields: Any) -> str:
        reply = post(client, "/v1/completions", model=MODEL, prompt="a", stop="stop", max_tokens=60, **fields)
        answer: str = reply["choices"][0]["text"]
        return answer

    assert text() == TEXT[: TEXT.index("stop")]
    before = len(tokenizer.encode(TEXT[: TEXT.index("stops;") + 6]))
    assert text(min_tokens=before) == TEXT[: TEXT.index("stop stops")]
    assert text(min_tokens=len(tokenizer.encode(TEXT))) == TEXT
