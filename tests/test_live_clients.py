"""Clients that people have already, unchanged, against the running cluster: openai, LangChain, LiteLLM."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from live_cluster import ROOT, ask, model_name, prompts, text_of
from openapi_check import check_reply

from paceline.cluster.served_process import ServedProcess

pytestmark = pytest.mark.cluster
TOKENS = 24
_FENCE = re.compile(r"^```(python|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    (language, text)
    for language, text in _FENCE.findall((ROOT / "docs" / "api.md").read_text(encoding="utf-8"))
    if language == "python" or text.startswith("curl")
]


@pytest.fixture(scope="module")
def name(live: ServedProcess) -> str:
    return model_name(live)


@pytest.fixture(scope="module")
def expected(live: ServedProcess) -> str:
    """The greedy answer to the first prompt."""
    return text_of(ask(live, prompts()[0], max_tokens=TOKENS))


@pytest.fixture
def client(live: ServedProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="unused") as client:
        yield client


def question() -> list[Any]:
    return [{"role": "user", "content": prompts()[0]}]


async def test_openai_async_streaming(live: ServedProcess, name: str, expected: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="unused") as client:
        fields: dict[str, Any] = {"model": name, "messages": question(), "max_tokens": TOKENS, "temperature": 0}
        whole = await client.chat.completions.create(**fields)
        assert whole.choices[0].message.content == expected
        text = ""
        async for chunk in await client.chat.completions.create(**fields, stream=True):
            text += chunk.choices[0].delta.content or ""
        assert text == expected
        parts = await client.completions.create(model=name, prompt="1, 2, 3,", max_tokens=8, temperature=0, stream=True)
        assert "4" in "".join([part.choices[0].text async for part in parts])


def test_openai_penalties_and_biases_are_the_same_with_and_without_drafters(
    client: openai.OpenAI, name: str, expected: str
) -> None:
    texts = set()
    for speculation in ({}, {"drafter": "ngram"}, {"drafter": "suffix"}, {"max_draft": 2}, {"enabled": False}):
        reply = client.chat.completions.create(
            model=name,
            messages=question(),
            max_tokens=48,
            temperature=0,
            frequency_penalty=0.7,
            presence_penalty=0.4,
            logit_bias={"28": -3},
            extra_body={"paceline": speculation, "repetition_penalty": 1.1, "min_tokens": 48},
        )
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 48
        texts.add(reply.choices[0].message.content)
    assert len(texts) == 1
    assert not texts.pop().startswith(expected)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_openai_logprobs_are_plain_decodings(client: openai.OpenAI, name: str, temperature: float) -> None:
    def items(**speculation: Any) -> list[Any]:
        reply = client.chat.completions.create(
            model=name,
            messages=question(),
            max_tokens=TOKENS,
            temperature=temperature,
            seed=5,
            logprobs=True,
            top_logprobs=4,
            extra_body={"paceline": speculation},
        )
        logprobs = reply.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        text = b"".join(bytes(item.bytes or []) for item in logprobs.content).decode()
        assert text.removesuffix("<|im_end|>") == reply.choices[0].message.content
        return logprobs.content

    plain = items(enabled=False)
    for speculation in ({}, {"drafter": "generalist"}, {"drafter": "ngram"}):
        drafted = items(**speculation)
        assert [item.token for item in drafted] == [item.token for item in plain]
        for one, other in zip(drafted, plain, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
            assert [best.logprob for best in one.top_logprobs] == pytest.approx(
                [best.logprob for best in other.top_logprobs], abs=1e-3
            )
            assert sum(math.exp(best.logprob) for best in one.top_logprobs) <= 1 + 1e-4
    if temperature == 0:
        assert all(item.token == item.top_logprobs[0].token for item in plain)


def test_max_draft_bounds_what_is_verified(live: ServedProcess) -> None:
    for most in (0, 1, 3):
        named = {"drafter": "ngram"} if most else {}  # to name one that may not draft would be refused
        reply = ask(live, prompts()[0], max_tokens=48, paceline={**named, "max_draft": most})
        report = reply["metrics"]["speculative_decoding"]
        assert len(report["acceptance_histogram"]) <= most + 1
        assert report["draft_tokens"] <= most * report["rounds"]
        if most == 0:
            assert report["draft_tokens"] == 0


def test_a_stop_id_ends_the_text(live: ServedProcess, name: str) -> None:
    prompt = {"model": name, "prompt": "1, 2, 3, 4,", "max_tokens": 16, "temperature": 0, "return_token_ids": True}
    whole = httpx.post(f"{live.url}/v1/completions", json=prompt, timeout=60).json()["choices"][0]
    stop = whole["token_ids"][6]
    cut = httpx.post(f"{live.url}/v1/completions", json=prompt | {"stop_token_ids": [stop]}, timeout=60)
    choice = cut.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["token_ids"] == whole["token_ids"][: whole["token_ids"].index(stop) + 1]
    assert whole["text"].startswith(choice["text"])


def test_tokenize_knows_what_a_request_costs(live: ServedProcess, name: str) -> None:
    reply = httpx.post(f"{live.url}/tokenize", json={"model": name, "messages": question()})
    assert reply.json()["count"] == ask(live, prompts()[0], max_tokens=1)["usage"]["prompt_tokens"]
    there = httpx.post(f"{live.url}/tokenize", json={"prompt": "der Rhein, 莱茵河 🚢"}).json()
    back = httpx.post(f"{live.url}/detokenize", json={"tokens": there["tokens"]}).json()
    assert back == {"prompt": "der Rhein, 莱茵河 🚢"}


def test_replies_are_as_the_document_says(live: ServedProcess, name: str) -> None:
    document = httpx.get(f"{live.url}/openapi.json").json()
    base = {"model": name, "max_tokens": 8}
    for path, fields in (
        ("/v1/chat/completions", {"messages": question(), "logprobs": True, "top_logprobs": 2, "n": 2}),
        ("/v1/chat/completions", {"messages": question(), "stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/completions", {"prompt": ["a", "b"], "logprobs": 3}),
        ("/v1/completions", {"prompt": "a", "stream": True, "logprobs": 1, "return_token_ids": True}),
        ("/v1/completions", {"prompt": "a", "top_p": 0}),
    ):
        check_reply(document, httpx.post(live.url + path, json=base | fields, timeout=60))
    for path in ("/v1/models", f"/v1/models/{name}", "/v1/paceline/status", "/v1/paceline/trace?seconds=0.1", "/ready",
                 "/health"):  # fmt: skip
        check_reply(document, httpx.get(live.url + path, timeout=30))


@pytest.mark.parametrize("client", ["langchain", "litellm"])
def test_other_clients_work_unchanged(live: ServedProcess, name: str, expected: str, client: str) -> None:
    """In processes of their own: neither closes its connections, and both warn of their own parts."""
    given = {"url": f"{live.url}/v1", "model": name, "question": prompts()[0], "tokens": TOKENS, "expected": expected}
    command = [sys.executable, str(ROOT / "tests" / "other_clients.py"), client]
    ran = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[-1] == "done"


@pytest.mark.parametrize(("language", "text"), EXAMPLES, ids=lambda text: text.split("\n")[0][:40])
def test_examples_in_the_document_run(live: ServedProcess, language: str, text: str) -> None:
    here = text.replace("http://127.0.0.1:8000", live.url)
    command = [sys.executable, "-c", here] if language == "python" else ["bash", "-euo", "pipefail", "-c", here]
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
