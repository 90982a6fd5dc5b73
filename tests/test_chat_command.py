"""`paceline chat` and `paceline status` against a small server that speaks as our endpoint does."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from rich.console import Console

from paceline.actors.errors import EngineError, NotReady, ProtocolError, RequestError
from paceline.cluster.backend import ActorStatus, ClusterStatus, DrafterState
from paceline.cluster.chat_command import Chat, chat
from paceline.cluster.client import Client, Ending, Piece
from paceline.cluster.status_command import status

STATUS = ClusterStatus(
    ready=True,
    mode="speculation",
    model="tiny",
    policy="normalhedge",
    selector_up=True,
    actors=[
        ActorStatus("target", "target", "10.0.0.1", "cpu", "up", 41),
        ActorStatus("ngram", "ngram", "10.0.0.2", "cpu", "down", detail="it fell"),
    ],
    drafters=[
        DrafterState("ngram", "ngram", False, 0.25, 0.5, 1.5, 30, 100, 40, 0.31),
        DrafterState("suffix", "suffix", True, 0.75, 0.6, 2.5, 10, 0, 0, 0.42),
    ],
)
# (text, drafter, drafted, accepted) by round.
ROUNDS = [("Hello", "ngram", 7, 1), (" wide", "suffix", 7, 2), (" world", None, 0, 0), ("!\x1b[31m\n", "ngram", 7, 3)]


class Fake:
    """The server: what it was asked, and what it answers."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.dropped = threading.Event()  # a client left in the middle
        self.app = FastAPI()
        self.app.add_api_route("/v1/models", self.models)
        self.app.add_api_route("/v1/paceline/status", self.status)
        self.app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"])

    def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "tiny", "object": "model"}]}

    def status(self) -> dict[str, Any]:
        return asdict(STATUS)

    async def chat(self, request: Request) -> Any:
        body = await request.json()
        self.asked.append(body)
        said = body["messages"][-1]["content"]
        if said == "refuse":
            error = {"message": "max_tokens: too many", "type": "invalid_request_error", "param": "max_tokens"}
            return JSONResponse({"error": error}, 400)
        return StreamingResponse(self.stream(said), media_type="text/event-stream")

    async def stream(self, said: str) -> AsyncIterator[str]:
        yield event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        try:
            for text, drafter, drafted, accepted in ROUNDS:
                vendor = {"drafter": drafter, "drafted": drafted, "accepted": accepted}
                yield event({"choices": [{"index": 0, "delta": {"content": text}}], "paceline": vendor})
                if said == "break":
                    yield event({"error": {"message": "the engine failed"}})
                    return
                if said == "interrupt":
                    while True:
                        yield ": still here\n\n"
                        await asyncio.sleep(0.01)
        except BaseException:
            self.dropped.set()
            raise
        yield event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}})
        yield "data: [DONE]\n\n"


def event(document: dict[str, Any]) -> str:
    return f"data: {json.dumps(document)}\n\n"


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def url(fake: Fake) -> Iterator[str]:
    config = uvicorn.Config(fake.app, port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def plain() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, highlight=False, width=120), out


def coloured() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, highlight=False, width=120, force_terminal=True, color_system="standard"), out


def test_a_stream_is_pieces_and_one_ending(url: str) -> None:
    with Client(url + "/v1/") as client:
        events = list(client.chat("tiny", [{"role": "user", "content": "hi"}], temperature=0.0, max_tokens=9))
    assert events[:-1] == [Piece(text, drafter, drafted, accepted) for text, drafter, drafted, accepted in ROUNDS]
    assert events[-1] == Ending("stop", 5, 9)


def test_once_is_bare_text_without_a_terminal(url: str, fake: Fake) -> None:
    console, out = plain()
    assert chat(url, temperature=0.5, max_tokens=9, once="hi", console=console) == 0
    assert out.getvalue() == "Hello wide world![31m\n\n"  # the model's escape character is gone
    asked = fake.asked[0]
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("tiny", 0.5, 9)
    assert asked["stream_options"] == {"include_usage": True}


def test_what_is_not_given_is_left_to_the_server(url: str, fake: Fake) -> None:
    chat(url, once="hi", console=plain()[0])
    assert set(fake.asked[0]) == {"model", "messages", "stream", "stream_options"}


def test_pieces_take_their_drafters_colours(url: str) -> None:
    console, out = coloured()
    with Client(url) as client:
        session = Chat(client, model=None, temperature=None, max_tokens=None, console=console)
        session.introduce()
        session.ask("hi")
    shown = out.getvalue()
    assert "\x1b[32mngram\x1b[0m" in shown  # the legend
    assert "\x1b[36msuffix\x1b[0m" in shown
    assert "\x1b[32mHello\x1b[0m" in shown
    assert "\x1b[36m wide\x1b[0m" in shown
    assert "\x1b[31m" not in shown  # what the model wrote
    assert "2.25 tokens per round; rounds: ngram 50%, suffix 25%, plain 25%" in shown


def lines(monkeypatch: pytest.MonkeyPatch, *given: str) -> None:
    """What the user types; then the input ends."""
    left = iter(given)

    def read() -> str:
        line = next(left, None)
        if line is None:
            raise EOFError
        if line == "^C":
            raise KeyboardInterrupt
        return line

    monkeypatch.setattr("builtins.input", read)


def test_a_conversation_remembers_until_reset(url: str, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    lines(monkeypatch, "one", "^C", "", "two", "/reset", "three", "/quit", "never asked")
    assert chat(url, console=plain()[0]) == 0
    texts = [[message["content"] for message in body["messages"]] for body in fake.asked]
    answer = "".join(text for text, *_ in ROUNDS)
    assert texts == [["one"], ["one", answer, "two"], ["three"]]


def test_a_refusal_does_not_end_the_conversation(url: str, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    lines(monkeypatch, "refuse", "/fly", "hi")
    console, out = plain()
    assert chat(url, console=console) == 0
    assert "error: max_tokens: too many" in out.getvalue()
    assert "unknown command /fly" in out.getvalue()
    assert [len(body["messages"]) for body in fake.asked] == [1, 1]  # the refused question is forgotten


@pytest.mark.parametrize("url", ["http://127.0.0.1:abc", "http://[::1", "http://host:0", "ftp://host", "http://"])
def test_a_url_that_cannot_be_one_is_named(url: str) -> None:
    with pytest.raises(RequestError, match="--url"):
        Client(url)


def test_what_cannot_be_sent_does_not_end_the_conversation(
    url: str, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines(monkeypatch, "caf\udce9", "hi")  # a byte that is not UTF-8, as Python reads it from a terminal
    console, out = plain()
    assert chat(url, console=console) == 0
    assert "error: the request cannot be written as JSON" in out.getvalue()
    assert [body["messages"][-1]["content"] for body in fake.asked] == ["hi"]
    with Client(url) as client, pytest.raises(RequestError, match="cannot be written"):
        list(client.chat("m", [], temperature=float("nan"), max_tokens=None))


def test_errors_of_the_server_are_ours(url: str) -> None:
    with pytest.raises(RequestError, match="max_tokens: too many") as refused:
        chat(url, once="refuse", console=plain()[0])
    assert refused.value.param == "max_tokens"
    with pytest.raises(EngineError, match="the engine failed"):
        chat(url, once="break", console=plain()[0])
    with pytest.raises(NotReady, match=r"nothing answers at http://127\.0\.0\.1:1"):
        chat("http://127.0.0.1:1", once="hi", console=plain()[0])


def test_ctrl_c_ends_the_answer_and_frees_the_server(url: str, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    console, out = coloured()
    with Client(url) as client:
        session = Chat(client, model="tiny", temperature=None, max_tokens=None, console=console)
        shown = console.print

        def interrupting(*items: Any, **options: Any) -> None:
            shown(*items, **options)
            if items and str(items[0]) == "Hello":
                raise KeyboardInterrupt

        monkeypatch.setattr(console, "print", interrupting)
        session.ask("interrupt")
        assert fake.dropped.wait(10)
        monkeypatch.setattr(console, "print", shown)
        session.ask("go on")
    assert "interrupted; " in out.getvalue()
    assert [message["content"] for message in fake.asked[1]["messages"]] == ["interrupt", "Hello", "go on"]


def test_status_shows_actors_and_statistics(url: str) -> None:
    console, out = plain()
    assert status(url, console) == 0
    shown = [line.split() for line in out.getvalue().splitlines() if line]
    assert shown[0] == "tiny: ready, speculation, policy normalhedge, 0 running, 0 waiting".split()  # noqa: SIM905
    assert ["target", "target", "10.0.0.1", "cpu", "up", "41"] in shown
    assert ["ngram", "ngram", "10.0.0.2", "cpu", "down", "-", "it", "fell"] in shown
    assert ["ngram", "down", "0.25", "0.50", "1.50", "30", "75%", "40%", "0.3"] in shown
    assert ["suffix", "0.75", "0.60", "2.50", "10", "25%", "-", "0.4"] in shown


def test_something_else_at_that_address_is_named(url: str, fake: Fake) -> None:
    fake.app.router.routes.clear()
    fake.app.add_api_route("/v1/paceline/status", lambda: {"hello": "world"})
    with pytest.raises(ProtocolError, match="not what this version of paceline expects"):
        status(url, plain()[0])
