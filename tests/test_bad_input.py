"""The table of bad input against the endpoint, over a real server; what is refused never reaches the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from bad_input_cases import CASES, Case, check_case
from fake_backend import MODEL, FakeBackend, make_api, make_tokenizer, rounds, served

from paceline.cluster.tokenizer import ChatTokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def backend(tokenizer: ChatTokenizer) -> FakeBackend:
    return FakeBackend(lambda _: rounds(tokenizer.encode("hello there"), [2], "length"))


@pytest.fixture(scope="module")
def client(backend: FakeBackend, tokenizer: ChatTokenizer) -> Iterator[httpx.Client]:
    with served(make_api(backend, tokenizer)) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_is_refused_and_named(client: httpx.Client, backend: FakeBackend, case: Case) -> None:
    before = len(backend.asked)
    check_case(client, MODEL, case)
    assert len(backend.asked) == before
    assert answer(client) == "hello there", "the server must go on"


def answer(client: httpx.Client) -> str:
    """What a good request gets."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
    reply = client.post("/v1/chat/completions", json=body)
    text: str = reply.json()["choices"][0]["message"]["content"]
    return text


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_with_parameters_is_json(client: httpx.Client, kind: str) -> None:
    body = f'{{"model": "{MODEL}", "prompt": "hello"}}'
    assert client.post("/v1/completions", content=body, headers={"Content-Type": kind}).status_code == 200


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": [{"type": "text", "text": part} for part in ("hel", "lo")]}],
                "logprobs": False,
                "top_logprobs": 0,
                "tools": None,
                "tool_choice": "none",
                "response_format": {"type": "text"},
                "max_completion_tokens": 7,
                "max_tokens": 7,
                "stream_options": None,
            },
        ),
        ("/v1/completions", {"prompt": "hello", "logprobs": None, "echo": False, "best_of": 1, "suffix": None}),
    ],
    ids=["chat", "completions"],
)  # fmt: skip
def test_neutral_values_are_let_through(client: httpx.Client, path: str, fields: dict[str, object]) -> None:
    neutral = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1,
        "min_p": 0,
        "min_tokens": 0,
        "stop_token_ids": [],
        "ignore_eos": False,
        "logit_bias": {},
        "store": False,
        "metadata": None,
        "service_tier": "auto",
        "temperature": 1,
        "top_k": -1,
        "seed": None,
        "unheard_of": None,
    }
    reply = client.post(path, json={"model": MODEL, **neutral, **fields})
    assert reply.status_code == 200, reply.text


def test_a_template_that_refuses_is_a_bad_request(client: httpx.Client) -> None:
    check_case(
        client, MODEL, Case("refused", "messages", {"messages": [{"role": "user", "content": "REFUSE"}]},
                            mentions="not this")
    )  # fmt: skip
