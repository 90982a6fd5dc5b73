"""The dashboard's link to its server in a real browser: until it answers, while it is lost, where it wants a key."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from dashboard_rig import TEXT, answered, ask, opened, says
from fake_backend import FakeBackend, make_api, make_tokenizer, served
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from paceline.actors.errors import NotReady, Unauthorized
from paceline.cluster.http_errors import error_reply
from paceline.cluster.served_process import free_port
from paceline.cluster.tokenizer import ChatTokenizer

WAITS = """[...document.querySelectorAll('#live .panel')]
    .filter(e => e.innerText.includes('Waiting for the server…')).length"""
PANELS = "document.querySelectorAll('#live .panel').length"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def backend(tokenizer: ChatTokenizer) -> FakeBackend:
    backend = FakeBackend(lambda _: says(tokenizer, TEXT))
    backend.delay_s = 0.01
    return backend


class Gate:
    """Holds the feed back until it is opened, or refuses it."""

    def __init__(self, api: ASGIApp, *, refuses: bool) -> None:
        self.api = api
        self.refuses = refuses
        self.opened = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/v1/paceline/live":
            if self.refuses and not self.opened.is_set():
                await error_reply(NotReady("it is still asleep"))(scope, receive, send)
                return
            await asyncio.to_thread(self.opened.wait, 20)
        await self.api(scope, receive, send)


def test_until_the_server_has_told_anything_every_panel_says_that_it_waits(
    chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer
) -> None:
    gate = Gate(make_api(backend, tokenizer), refuses=False)
    chromium.resize(1440, 900)
    with served(gate) as url:
        chromium.goto(f"{url}/dashboard")
        chromium.wait(f"{WAITS} === {PANELS}", "all of them")
        assert chromium.text("#state-text") == "connecting"
        assert chromium.text("#tile-rate-note") == "waiting for the server"
        assert chromium.evaluate("document.querySelector('#banner').hidden"), "nothing is wrong yet"
        gate.opened.set()
        chromium.wait("document.querySelector('#state').dataset.state === 'ready'", "connected")
        chromium.wait(f"{WAITS} === 0", "nobody waits any more")
        assert chromium.text("#requests").startswith("No requests yet")
        chromium.goto("about:blank")
    assert chromium.problems == []


def test_a_server_that_does_not_answer_at_first_is_said_and_asked_again(
    chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer
) -> None:
    gate = Gate(make_api(backend, tokenizer), refuses=True)
    chromium.resize(1440, 900)
    with served(gate) as url:
        chromium.goto(f"{url}/dashboard")
        chromium.wait("!document.querySelector('#banner').hidden", "the failure is said")
        assert chromium.text("#banner-text") == "The server does not answer (it is still asleep)."
        assert chromium.evaluate(f"{WAITS} === {PANELS}"), "there is nothing else to show"
        chromium.wait("document.querySelector('#state').dataset.state === 'lost'", "in the header, too")
        chromium.wait("document.querySelector('#retry').textContent === 'Try now (by itself in 4 s)'", "the third time")
        gate.opened.set()
        chromium.click("#retry")
        chromium.wait("document.querySelector('#state').dataset.state === 'ready'", "connected")
        assert "in 1 s" not in chromium.text("#retry"), "asked before its own time"
        assert chromium.evaluate("document.querySelector('#banner').hidden")
        chromium.goto("about:blank")
    chromium.problems.clear()  # the browser itself reports the 503s


def test_a_restart_of_the_server_is_said_and_mended(
    chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer
) -> None:
    port = free_port()
    chromium.resize(1440, 900)
    with served(make_api(backend, tokenizer), port=port) as url:
        chromium.goto(f"{url}/dashboard")
        chromium.wait("document.querySelector('#state').dataset.state === 'ready'", "connected")
        ask(url)
        chromium.wait("document.querySelectorAll('#requests tbody tr').length === 1", "the request is listed")
    chromium.wait("document.querySelector('#state').dataset.state === 'lost'", "the loss is said")
    assert "The connection is lost" in chromium.text("#banner")
    assert chromium.evaluate("document.body.classList.contains('stale')")
    with served(make_api(backend, tokenizer), port=port):
        chromium.wait("document.querySelector('#state').dataset.state === 'ready'", "connected again", 30)
        assert chromium.evaluate("document.querySelector('#banner').hidden")
        assert not chromium.evaluate("document.body.classList.contains('stale')")
        assert chromium.text("#requests").startswith("No requests yet"), "the new server's own"
        chromium.goto("about:blank")
    chromium.problems.clear()  # what the browser says of refused connections


def test_a_lost_target_and_plain_decoding_are_said(
    chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer
) -> None:
    with opened(chromium, backend, tokenizer):
        backend.ready = False
        chromium.wait("document.querySelector('#state-text').textContent === 'no target'", "no target")
        backend.ready, backend.usable = True, ()
        chromium.wait("document.querySelector('#state-text').textContent === 'plain decoding'", "plain decoding")
        backend.usable = ("ngram",)
        chromium.wait("document.querySelector('#state-text').textContent === 'ready'", "ready")


class Guard:
    """Lets the page itself through, and to everything else only those who have the key."""

    def __init__(self, api: ASGIApp) -> None:
        self.api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = scope["type"] == "http" and not scope["path"].startswith("/dashboard")
        if guarded and Headers(scope=scope).get("authorization") != "Bearer sesame":
            await error_reply(Unauthorized("no key"))(scope, receive, send)
        else:
            await self.api(scope, receive, send)


def test_a_key_is_asked_for_once(chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer) -> None:
    chromium.resize(1440, 900)
    with served(Guard(make_api(backend, tokenizer))) as url:
        chromium.goto(f"{url}/dashboard#playground")
        chromium.wait("!document.querySelector('#key-form').hidden", "a key is asked for")
        chromium.click("#key")
        chromium.type("sesame")
        chromium.press("Enter")
        chromium.wait("document.querySelector('#state').dataset.state === 'ready'", "connected")
        assert chromium.evaluate("document.querySelector('#key-form').hidden")
        chromium.click("#prompt")
        chromium.type("hello")
        chromium.press("Enter")
        answered(chromium)
        chromium.goto("about:blank")
    chromium.problems.clear()  # the browser itself reports the 401
