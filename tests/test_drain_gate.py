"""A server that is stopped: what runs may end, what is left ends with an error, and nothing new begins."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fake_backend import MODEL, FakeBackend, make_api, make_tokenizer, rounds, served, wait_until

from paceline.actors.generation import Chunk, Generation
from paceline.cluster.drain_gate import Drain
from paceline.cluster.tokenizer import ChatTokenizer

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}


class SlowBackend(FakeBackend):
    """Ten rounds of one token. It knows its event loop, and can be told to go on."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        super().__init__(lambda _: rounds(tokenizer.encode("the quick brown fox jumps")[:10], [1], "length"))
        self.loop: asyncio.AbstractEventLoop | None = None
        self.waits = True
        self._go_on = asyncio.Event()

    def go_on(self) -> None:
        self.waits = False
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._go_on.set)

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk]:
        self.loop = asyncio.get_running_loop()
        async for chunk in super().generate(generation):
            yield chunk
            if self.waits:
                await self._go_on.wait()


class Server:
    """The endpoint, and the way to its end."""

    def __init__(self, backend: SlowBackend, drain: Drain, finished: Counter[str], url: str) -> None:
        self.backend, self.drain, self.finished, self.url = backend, drain, finished, url

    def end(self, within_s: float) -> Future[tuple[int, int]]:
        assert self.backend.loop is not None
        return asyncio.run_coroutine_threadsafe(self.drain.end(within_s), self.backend.loop)

    def told(self) -> tuple[str, dict[str, int]]:
        """What the dashboard says of the newest request, and how many answers ended by each reason."""
        with httpx.stream("GET", f"{self.url}/v1/paceline/live", timeout=30) as reply:
            hello = json.loads(next(reply.iter_lines()).removeprefix("data: "))
        return hello["requests"]["ended"][0]["state"], {reason: n for reason, n in self.finished.items() if n}

    def post(self, **fields: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/chat/completions", json=BODY | fields, timeout=30)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    tokenizer = make_tokenizer(tmp_path)
    backend = SlowBackend(tokenizer)
    api = make_api(backend, tokenizer)
    with served(api) as url:
        yield Server(backend, api.state.drain, api.state.requests.finished, url)


def test_a_stream_that_is_cut_ends_with_an_error_event(server: Server) -> None:
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=BODY | {"stream": True}, timeout=30) as reply:
        lines = (line.removeprefix("data: ") for line in reply.iter_lines() if line)
        assert "choices" in json.loads(next(lines))
        ended = server.end(0.1)
        *_, error, done = lines
    assert done == "[DONE]"
    assert json.loads(error) == {
        "error": {
            "message": "the server is being stopped; the answer ends here",
            "type": "service_unavailable_error",
            "param": None,
            "code": "not_ready",
        }
    }
    assert ended.result(20) == (1, 1)
    assert not server.backend.running, "the sequence was let go"
    assert server.told() == ("server stopped", {"shutdown": 1})


def test_openai_s_client_raises_what_ends_a_stream(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True)
        next(stream)
        server.end(0.0)
        with pytest.raises(openai.APIError, match="being stopped"):
            list(stream)


def test_a_whole_answer_that_is_cut_is_a_503(server: Server) -> None:
    replies: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: replies.append(server.post()))
    asking.start()
    wait_until(lambda: bool(server.backend.running), 20, "it runs")
    assert server.end(0.1).result(20) == (1, 1)
    asking.join(20)
    assert replies[0].status_code == 503
    assert replies[0].headers["Retry-After"]
    assert "being stopped" in replies[0].json()["error"]["message"]
    assert not server.backend.running
    assert server.told() == ("server stopped", {"shutdown": 1})


def test_what_ends_in_time_is_whole_and_nothing_new_begins(server: Server) -> None:
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=BODY | {"stream": True}, timeout=30) as reply:
        lines = (line.removeprefix("data: ") for line in reply.iter_lines() if line)
        next(lines)
        ended = server.end(30.0)
        wait_until(lambda: httpx.get(f"{server.url}/ready").status_code == 503, 20, "it is not ready any more")
        refused = server.post()
        assert refused.status_code == 503
        assert refused.json()["error"]["message"] == "the server is being stopped"
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert not ended.done()
        server.backend.go_on()
        *_, last, done = lines
    assert json.loads(last)["choices"][0]["finish_reason"] == "length"
    assert done == "[DONE]"
    assert ended.result(20) == (1, 0)


def test_an_idle_server_ends_at_once(server: Server) -> None:
    server.backend.go_on()
    assert server.post().status_code == 200
    assert server.end(60.0).result(20)[1] == 0


def test_a_client_that_leaves_is_not_waited_for(server: Server) -> None:
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=BODY | {"stream": True}, timeout=30) as reply:
        next(reply.iter_lines())
    wait_until(lambda: not server.backend.running, 20, "its sequence was let go")
    assert server.end(60.0).result(20)[1] == 0
    assert server.told() == ("client left", {"abort": 1})
