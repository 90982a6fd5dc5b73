"""The endpoint over a scripted cluster: replies, streams, counts, errors, and clients that go away."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from fake_backend import CONTEXT, EOS, MODEL, FakeBackend, make_api, make_tokenizer, rounds, served, wait_until

from paceline.actors.errors import EngineError, NotReady, Overloaded, RequestError
from paceline.actors.generation import Chunk, Generation
from paceline.cluster.tokenizer import ChatTokenizer

TEXT = "the 自行车 🚴 stops here; the end"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def shared(tokenizer: ChatTokenizer) -> Iterator[tuple[FakeBackend, str]]:
    """One server for all tests; each gives its backend a fresh script."""
    backend = FakeBackend(lambda _: [])
    with served(make_api(backend, tokenizer)) as url:
        yield backend, url


@pytest.fixture
def backend(shared: tuple[FakeBackend, str], says: Callable[[str], list[Chunk]]) -> FakeBackend:
    backend = shared[0]
    backend.script = lambda _: says(TEXT)
    backend.delay_s, backend.ready = 0.0, True
    backend.asked.clear()
    backend.ended.clear()
    return backend


@pytest.fixture
def says(tokenizer: ChatTokenizer) -> Callable[[str], list[Chunk]]:
    """The chunks of a text that ends by itself."""
    return lambda text: rounds(tokenizer.encode(text + EOS), [3, 1, 2])


@pytest.fixture
def url(shared: tuple[FakeBackend, str]) -> str:
    return shared[1]


@pytest.fixture
def client(url: str, backend: FakeBackend) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=20) as client:
        yield client
    wait_until(lambda: not backend.running, 5, "every generation has been closed")


def events_of(client: httpx.Client, path: str = "/v1/chat/completions", **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream, `[DONE]` checked and left out."""
    body = {**(CHAT if "chat" in path else {"model": MODEL, "prompt": "hello"}), "stream": True, **fields}
    reply = client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in reply.text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def streamed_text(events: list[dict[str, Any]], index: int = 0) -> str:
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["delta"]["content"] if "delta" in choice else choice["text"] for choice in choices)


def ask(client: httpx.Client, path: str = "/v1/chat/completions", **fields: Any) -> dict[str, Any]:
    reply = client.post(path, json={**(CHAT if "chat" in path else {"model": MODEL, "prompt": "hello"}), **fields})
    assert reply.status_code == 200, reply.text
    document: dict[str, Any] = reply.json()
    return document


def test_a_whole_reply(client: httpx.Client, backend: FakeBackend, tokenizer: ChatTokenizer) -> None:
    reply = ask(client, return_token_ids=True)
    ids = tokenizer.encode(TEXT + EOS)
    assert reply["object"] == "chat.completion"
    assert reply["id"].startswith("chatcmpl-")
    assert reply["model"] == MODEL
    choice = reply["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": TEXT}
    assert (choice["index"], choice["finish_reason"], choice["token_ids"]) == (0, "stop", ids)
    prompt = len(backend.asked[0].prompt)
    assert reply["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": len(ids),
        "total_tokens": prompt + len(ids),
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert "token_ids" not in ask(client)["choices"][0]


def test_a_stream_is_the_whole_reply_in_rounds(client: httpx.Client, says: Callable[[str], list[Chunk]]) -> None:
    whole = ask(client)
    events = events_of(client, return_token_ids=True)
    chunks = says(TEXT)
    assert len(events) == len(chunks)
    assert streamed_text(events) == TEXT
    assert [event["choices"][0]["token_ids"] for event in events] == [chunk.token_ids for chunk in chunks]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * (len(events) - 1) + ["stop"]
    assert [event["choices"][0]["delta"].get("role") for event in events] == ["assistant"] + [None] * (len(events) - 1)
    assert not any("\ufffd" in event["choices"][0]["delta"]["content"] for event in events)
    assert len({event["id"] for event in events}) == 1
    assert events[0]["paceline"] == {"drafter": "ngram", "accepted": 2, "drafted": 4}
    assert events[1]["paceline"] == {"drafter": None, "accepted": 0, "drafted": 0}
    assert events[-1]["metrics"] == whole["metrics"]
    assert not any("metrics" in event for event in events[:-1])
    assert not any("usage" in event for event in events)


def test_usage_at_the_end_of_a_stream(client: httpx.Client) -> None:
    whole = ask(client)
    events = events_of(client, stream_options={"include_usage": True})
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == whole["usage"]
    assert events[-1]["metrics"] == whole["metrics"]
    assert all(event["usage"] is None and "metrics" not in event for event in events[:-1])


def test_the_figures_of_speculation(client: httpx.Client, backend: FakeBackend) -> None:
    backend.script = lambda _: [
        Chunk([65, 66, 67], None, "ngram", 4, 2),
        Chunk([65], None),
        Chunk([65], None, "suffix", 3, 0),
        Chunk([65, 66], "length", "ngram", 1, 1),
    ]
    assert ask(client)["metrics"] == {
        "speculative_decoding": {
            "mean_acceptance_length": 2.0,
            "draft_acceptance_rate": 0.375,
            "acceptance_histogram": [1, 1, 1],
            "rounds": 4,
            "draft_tokens": 8,
            "accepted_tokens": 3,
            "rounds_by_drafter": {"ngram": 0.5, "plain": 0.25, "suffix": 0.25},
        }
    }
    backend.script = lambda _: [Chunk([65], "length")]
    plain = ask(client)["metrics"]["speculative_decoding"]
    assert (plain["mean_acceptance_length"], plain["draft_acceptance_rate"]) == (1.0, None)
    assert plain["rounds_by_drafter"] == {"plain": 1.0}


@pytest.mark.parametrize("sizes", [[1], [2], [3, 5], [100]], ids=str)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_stop_string_ends_the_generation_early(
    client: httpx.Client, backend: FakeBackend, tokenizer: ChatTokenizer, sizes: list[int], stream: bool
) -> None:
    """Usage counts up to the token that completes the stop, however rounds cut it."""
    ids = tokenizer.encode(TEXT + EOS)
    needed = next(end for end in range(len(ids)) if "ops he" in tokenizer.decode(ids[:end]))
    backend.script = lambda _: [*rounds(ids, sizes, None), EngineError("read beyond the stop")]
    fields = {"stop": ["nowhere", "ops he"], "return_token_ids": True}
    if stream:
        events = events_of(client, stream_options={"include_usage": True}, **fields)
        text, reason, usage = streamed_text(events), events[-2]["choices"][0]["finish_reason"], events[-1]["usage"]
        got = [token for event in events for choice in event["choices"] for token in choice["token_ids"]]
    else:
        reply = ask(client, **fields)
        choice, usage = reply["choices"][0], reply["usage"]
        text, reason, got = choice["message"]["content"], choice["finish_reason"], choice["token_ids"]
    assert (text, reason) == (TEXT[: TEXT.index("ops he")], "stop")
    assert usage["completion_tokens"] == needed
    assert got == ids[:needed]
    assert backend.ended == [backend.asked[0].request_id]


def test_what_might_have_begun_a_stop_comes_at_the_end(client: httpx.Client) -> None:
    assert ask(client, stop="end of it")["choices"][0]["message"]["content"] == TEXT
    assert streamed_text(events_of(client, stop="end of it")) == TEXT


def test_choices_run_at_once_with_seeds_of_their_own(
    client: httpx.Client, backend: FakeBackend, says: Callable[[str], list[Chunk]]
) -> None:
    backend.script = lambda generation: says(
        f"seed {generation.sampling.seed} " * ((generation.sampling.seed or 0) - 6)
    )
    reply = ask(client, n=3, seed=7)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["seed 7 ", "seed 8 " * 2, "seed 9 " * 3]
    assert len({generation.request_id for generation in backend.asked}) == 3
    assert reply["usage"]["prompt_tokens"] == len(backend.asked[0].prompt)
    events = events_of(client, n=3, seed=7)
    assert [streamed_text(events, index) for index in range(3)] == ["seed 7 ", "seed 8 " * 2, "seed 9 " * 3]
    order = [event["choices"][0]["index"] for event in events]
    assert order[:6] == [0, 1, 2, 0, 1, 2], "choices must not wait for one another"
    assert [event["choices"][0]["index"] for event in events if "role" in event["choices"][0]["delta"]] == [0, 1, 2]
    assert "metrics" in events[-1]
    assert not any("metrics" in event for event in events[:-1])


def test_fields_reach_the_cluster(client: httpx.Client, backend: FakeBackend, tokenizer: ChatTokenizer) -> None:
    ask(
        client, temperature=0.5, top_p=0.9, top_k=40, seed=-3, user="billing", max_completion_tokens=9,
        paceline={"drafter": "suffix", "max_draft": 3},
    )  # fmt: skip
    got = backend.asked[0]
    assert asdict(got.sampling) == {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": -3}
    assert (got.route, got.max_tokens, got.drafters, got.max_draft, got.speculate) == (
        "billing", 9, ("suffix",), 3, True,
    )  # fmt: skip
    assert got.stop_ids == frozenset(tokenizer.encode(EOS))
    assert list(got.prompt) == tokenizer.encode(f"[user]hello{EOS}[assistant]")
    ask(client, paceline={"enabled": False}, temperature=1e-300, top_k=-1, top_p=1e-300)
    plain = backend.asked[1]
    assert not plain.speculate
    assert plain.drafters == ()
    assert plain.sampling.greedy, "a temperature that float32 rounds to 0 would fail the whole batch"
    assert plain.sampling.top_p > 0
    assert (plain.sampling.top_k, plain.sampling.seed) == (0, None)
    assert plain.max_tokens == CONTEXT - len(plain.prompt)
    ask(client, paceline={"policy": "ucbspec"})
    assert [generation.policy for generation in backend.asked] == ["", "", "ucbspec"]


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [("the fox", 1), ([70, 71, 72], 1), (["the", "a fox"], 2), ([[70], [71, 72]], 2)],
    ids=["text", "ids", "texts", "lists of ids"],
)
def test_every_form_of_prompt(
    client: httpx.Client, backend: FakeBackend, tokenizer: ChatTokenizer, prompt: Any, choices: int
) -> None:
    reply = ask(client, "/v1/completions", prompt=prompt)
    assert reply["object"] == "text_completion"
    assert reply["id"].startswith("cmpl-")
    assert [choice["text"] for choice in reply["choices"]] == [TEXT] * choices
    forms = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    expected = [tuple(tokenizer.encode(form) if isinstance(form, str) else form) for form in forms]
    assert sorted(generation.prompt for generation in backend.asked) == sorted(expected)
    assert reply["usage"]["prompt_tokens"] == sum(map(len, expected))
    assert {generation.max_tokens for generation in backend.asked} == {16}
    assert streamed_text(events_of(client, "/v1/completions", prompt=prompt), choices - 1) == TEXT


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (Overloaded("64 requests are waiting", 2.5), 429, "overloaded", "3"),
        (NotReady("no target"), 503, "not_ready", "2"),
        (RequestError("prompt: too long", "prompt"), 400, None, None),
        (EngineError("a round failed"), 500, "internal_error", None),
        (ZeroDivisionError("secret"), 500, "internal_error", None),
        (Chunk([], "abort"), 500, "internal_error", None),
    ],
    ids=["overloaded", "not ready", "bad request", "engine", "bug", "abort"],
)
def test_an_error_before_the_first_chunk_has_its_status(
    client: httpx.Client, backend: FakeBackend, error: Any, status: int, code: str | None, retry_after: str | None,
    stream: bool,
) -> None:  # fmt: skip
    backend.script = lambda _: [error]
    reply = client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
    assert (reply.status_code, reply.headers.get("retry-after")) == (status, retry_after)
    assert reply.json()["error"]["code"] == code
    assert "secret" not in reply.text


@pytest.mark.parametrize("error", [EngineError("it broke"), ZeroDivisionError("secret"), Chunk([], "abort")])
def test_an_error_in_a_stream_is_an_event(client: httpx.Client, backend: FakeBackend, error: Any) -> None:
    backend.script = lambda _: [Chunk([70, 71]), Chunk([72]), error]
    events = events_of(client)
    assert len(events) == 3
    assert events[-1]["error"]["type"] == "server_error"
    assert "secret" not in events[-1]["error"]["message"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_when_one_choice_fails_the_others_are_closed(client: httpx.Client, backend: FakeBackend, stream: bool) -> None:
    def script(generation: Generation) -> list[Any]:
        fails = generation.request_id.endswith("-1")
        return [Chunk([70])] * 3 + ([Overloaded("full")] if fails else [Chunk([70])] * 10_000)

    backend.script, backend.delay_s = script, 0.005
    reply = client.post("/v1/chat/completions", json={**CHAT, "n": 3, "stream": stream})
    assert reply.status_code == (200 if stream else 429)
    assert "overloaded" in reply.text
    assert len(backend.asked) == 3
    wait_until(lambda: not backend.running, 2, "all three are closed")


def test_a_generation_without_an_end_is_an_error(client: httpx.Client, backend: FakeBackend) -> None:
    backend.script = lambda _: [Chunk([70])]
    assert client.post("/v1/chat/completions", json=CHAT).status_code == 500


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("started", [False, True], ids=["before the first chunk", "midway"])
def test_a_client_that_leaves_frees_everything(
    url: str, backend: FakeBackend, stream: bool, n: int, started: bool
) -> None:
    backend.script = lambda _: [Chunk([70])] * 10_000
    backend.delay_s = 0.01 if started else 30.0
    body = json.dumps({**CHAT, "stream": stream, "n": n}).encode()
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: paceline\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: len(backend.running) == n, 5, "every choice runs")
        if started and stream:
            assert connection.recv(1024).startswith(b"HTTP/1.1 200")
    wait_until(lambda: not backend.running, 2, "every generation has been closed")


def test_models_health_ready_and_status(client: httpx.Client, backend: FakeBackend) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [MODEL]
    assert client.get(f"/v1/models/{MODEL}").json() == listed["data"][0]
    ready = client.get("/ready")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ready", "mode": "speculation", "drafters": ["ngram"]}
    status = client.get("/v1/paceline/status").json()
    assert (status["model"], status["actors"][0]["pid"], status["drafters"][1]["up"]) == (MODEL, 7, False)
    backend.ready = False
    gone = client.get("/ready")
    assert (gone.status_code, gone.headers["retry-after"], gone.json()["error"]["code"]) == (503, "2", "not_ready")
    assert client.get("/health").status_code == 200


def test_the_official_client(url: str, backend: FakeBackend) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        messages = [{"role": "user", "content": "hello"}]
        assert client.models.list().data[0].id == MODEL
        whole = client.chat.completions.create(model=MODEL, messages=messages)
        assert whole.choices[0].message.content == TEXT
        parts = list(
            client.chat.completions.create(
                model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True}
            )
        )
        assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == TEXT
        assert parts[-1].usage == whole.usage
        assert client.completions.create(model=MODEL, prompt="hello").choices[0].text == TEXT
        texts = [part.choices[0].text for part in client.completions.create(model=MODEL, prompt="hello", stream=True)]
        assert "".join(texts) == TEXT
        with pytest.raises(openai.NotFoundError) as refused:
            client.chat.completions.create(model="other", messages=messages)
        assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
        backend.script = lambda _: [Chunk([70]), EngineError("it broke")]
        with pytest.raises(openai.APIError, match="it broke"):
            list(client.chat.completions.create(model=MODEL, messages=messages, stream=True))


async def test_the_official_async_client(url: str, backend: FakeBackend) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        messages = [{"role": "user", "content": "hello"}]
        whole = await client.chat.completions.create(model=MODEL, messages=messages)
        assert whole.choices[0].message.content == TEXT
        stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        assert "".join([part.choices[0].delta.content or "" async for part in stream]) == TEXT
        completion = await client.completions.create(model=MODEL, prompt="hello")
        assert completion.choices[0].text == TEXT
        parts = await client.completions.create(model=MODEL, prompt="hello", stream=True)
        assert "".join([part.choices[0].text async for part in parts]) == TEXT
    assert not backend.running
