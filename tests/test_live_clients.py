"""Clients that people have already, unchanged, against the running cluster: openai, LangChain, LiteLLM."""

from __future__ import annotations

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
        reply = ask(live, prompts()[0], max_tokens=48, paceline={"drafter": "ngram", "max_draft": most})
        report = reply["metrics"]["speculative_decoding"]
        assert len(report["acceptance_histogram"]) <= most + 1
        assert report["draft_tokens"] <= most * report["rounds"]
        assert (report["draft_tokens"] == 0) == (most == 0)


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


async def test_langchain(live: ServedProcess, name: str, expected: str) -> None:
    from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_openai import ChatOpenAI, OpenAI

    fields: dict[str, Any] = {"base_url": f"{live.url}/v1", "api_key": "unused", "model": name, "temperature": 0}
    chat = ChatOpenAI(**fields, max_tokens=TOKENS)
    answer = chat.invoke([HumanMessage(prompts()[0])])
    assert answer.content == expected
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == TOKENS
    assert "".join(str(chunk.content) for chunk in chat.stream(prompts()[0])) == expected
    assert (await chat.ainvoke(prompts()[0])).content == expected
    gathered: Any = AIMessageChunk("")
    async for chunk in chat.astream(prompts()[0], stream_usage=True):
        gathered += chunk
    assert gathered.content == expected
    assert gathered.usage_metadata["output_tokens"] == TOKENS
    chain = (
        ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{question}")]) | chat | StrOutputParser()
    )
    whole = chat.invoke([SystemMessage("Be brief."), HumanMessage("What is a library?")])
    assert chain.invoke({"question": "What is a library?"}) == whole.content
    assert list(chain.batch([{"question": "What is a library?"}] * 2)) == [whole.content] * 2
    chosen = ChatOpenAI(**fields, max_tokens=TOKENS, extra_body={"paceline": {"enabled": False}}, logprobs=True)
    plain = chosen.invoke(prompts()[0])
    assert plain.content == expected
    assert len(plain.response_metadata["logprobs"]["content"]) == TOKENS
    assert "4" in OpenAI(**fields, max_tokens=8).invoke("1, 2, 3,")


async def test_litellm(live: ServedProcess, name: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else the import asks the internet for prices
    import litellm

    fields: dict[str, Any] = {
        "model": f"openai/{name}",
        "api_base": f"{live.url}/v1",
        "api_key": "unused",
        "messages": question(),
        "temperature": 0,
        "max_tokens": TOKENS,
    }
    whole = litellm.completion(**fields)
    assert whole.choices[0].message.content == expected
    assert whole.usage.completion_tokens == TOKENS
    text = "".join(part.choices[0].delta.content or "" for part in litellm.completion(**fields, stream=True))
    assert text == expected
    assert (await litellm.acompletion(**fields)).choices[0].message.content == expected
    text = ""
    async for part in await litellm.acompletion(**fields, stream=True, stream_options={"include_usage": True}):
        text += part.choices[0].delta.content or ""
    assert text == expected
    plain = litellm.completion(**fields, extra_body={"paceline": {"enabled": False}})
    assert plain.choices[0].message.content == expected
    with pytest.raises(litellm.BadRequestError, match="nonesuch"):
        litellm.completion(**fields, extra_body={"paceline": {"drafter": "nonesuch"}})
    kept = fields | {"model": f"text-completion-openai/{name}", "prompt": "1, 2, 3,"}
    del kept["messages"]
    assert "4" in litellm.text_completion(**kept).choices[0].text


@pytest.mark.parametrize(("language", "text"), EXAMPLES, ids=lambda text: text.split("\n")[0][:40])
def test_examples_in_the_document_run(live: ServedProcess, language: str, text: str) -> None:
    here = text.replace("http://127.0.0.1:8000", live.url)
    command = [sys.executable, "-c", here] if language == "python" else ["bash", "-euo", "pipefail", "-c", here]
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
