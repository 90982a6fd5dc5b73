"""The live page in a real browser, over a scripted cluster: what a reader sees and clicks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from dashboard_rig import TEXT, answered, ask, opened, painted, says
from fake_backend import MODEL, FakeBackend, make_api, make_tokenizer, served
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from paceline.actors.errors import Unauthorized
from paceline.actors.messages import RoundContext, SequenceOpened, SequenceRound, TargetReport, WeightsUpdate
from paceline.cluster.backend import ActorStatus
from paceline.cluster.http_errors import error_reply
from paceline.cluster.request_log import RequestLog
from paceline.cluster.served_process import free_port
from paceline.cluster.tokenizer import ChatTokenizer


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


def test_a_fresh_page_says_that_it_is_empty_and_fills_while_requests_run(
    chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer
) -> None:
    with opened(chromium, backend, tokenizer) as url:
        visible = "[...document.querySelectorAll('#live .empty')].filter(e => e.offsetParent).length"
        chromium.wait(f"{visible} >= 4", "empty charts and tables say so")
        assert chromium.text("#requests").startswith("No requests yet")
        assert chromium.text("#model") == MODEL
        assert "target" in chromium.text("#actors")
        assert "10.0.0.1" in chromium.text("#actors")
        reply = ask(url)
        chromium.wait("document.querySelectorAll('#requests tbody tr').length === 1", "the request is listed")
        chromium.wait("document.querySelector('#share-chart > .empty').hidden", "the share has data")
        # ngram, suffix and plain have pulled: the canvas shows all three colours.
        chromium.wait(painted("#share-chart canvas", ["--d-0", "--d-1", "--d-plain"]), "three bands are drawn")
        chromium.wait(painted("#rate-chart canvas", ["--accent"]), "the rate is drawn")
        row = chromium.text("#requests tbody tr")
        assert str(reply["usage"]["completion_tokens"]) in row
        assert "finished" in row
        rounds = reply["metrics"]["speculative_decoding"]["rounds_by_drafter"]
        said = chromium.evaluate("document.querySelector('.stack').getAttribute('aria-label')")
        for name, share in rounds.items():
            assert f"{name} {round(100 * share)} %" in said
        heat = chromium.text("#acceptance")
        assert "ngram" in heat
        assert "suffix" in heat
        assert "plain" not in heat
        drafters = chromium.text("#drafters tbody")
        assert "75 %" in drafters, "ngram's weight"
        assert "suffixdown" in drafters
        chromium.wait(
            "document.querySelector('#tile-speed-up-note').textContent === 'plain round of 2: 10.0 ms'",
            "the plain round is one of as many as run",
        )


def test_actors_stand_under_their_hosts_with_what_is_down(
    chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer
) -> None:
    """As the fleet tells of them: who is down has no process or address, but the node where it answered last."""
    backend.actors += [
        ActorStatus("math", "head", "10.0.0.2", "cpu", "up", 8, "10.0.0.2:8101", sessions=2),
        ActorStatus("ngram", "ngram", "10.0.0.2", "cpu", "down", detail="The actor is dead: its process was killed"),
        ActorStatus("code", "head", "", "cuda:0", "starting", detail="needs num_gpus 0.25; free: none"),
    ]
    with opened(chromium, backend, tokenizer):
        chromium.wait("document.querySelectorAll('#actors .node').length === 3", "two hosts, and nowhere")
        hosts = "[...document.querySelectorAll('#actors .node')]"
        shown = chromium.evaluate(f"{hosts}.map(e => e.innerText.split(/\\s*\\n\\s*/))")
        assert shown == [
            ["nowhere yet", "0 of 1 up", "code", "head", "starting", "cuda:0 · needs num_gpus 0.25; free: none"],
            ["10.0.0.1", "1 up", "target", "up", "cpu · pid 7"],
            [
                "10.0.0.2",
                "1 of 2 up",
                "math",
                "head",
                "up",
                "cpu · pid 8 · :8101",
                "2 sequences",
                "ngram",
                "down",
                "last on 10.0.0.2 · The actor is dead: its process was killed",
            ],
        ]
        tops = chromium.evaluate(f"{hosts}.map(e => e.getBoundingClientRect().top)")
        assert len(set(tops)) == 1, "side by side on a wide screen"


def test_the_theme_is_the_systems_until_one_is_chosen_and_then_kept(
    chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer
) -> None:
    with opened(chromium, backend, tokenizer):
        theme = "document.documentElement.dataset.theme"
        background = "getComputedStyle(document.body).backgroundColor"
        assert chromium.evaluate(theme) == "light"
        light = chromium.evaluate(background)
        chromium.prefer(prefers_color_scheme="dark")
        chromium.wait(f"{theme} === 'dark'", "the system's choice is followed")
        assert chromium.evaluate(background) != light
        chromium.click("#theme")
        assert chromium.evaluate(theme) == "light"
        chromium.call("Page.reload")
        chromium.wait(
            "document.readyState === 'complete' && document.querySelector('#theme').textContent", "loaded again"
        )
        assert chromium.evaluate(theme) == "light", "chosen against the system's"
        chromium.evaluate("localStorage.clear()")


@pytest.mark.parametrize("width", [360, 390, 768, 1440])
@pytest.mark.parametrize("view", ["#live", "#playground"])
def test_no_width_scrolls_sideways(
    chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer, width: int, view: str
) -> None:
    with opened(chromium, backend, tokenizer, view) as url:
        chromium.resize(width, 800)
        if view == "#playground":
            backend.script = lambda _: says(tokenizer, "y" * 400)  # no place to break a line
            chromium.click("#prompt")
            chromium.type("x" * 40)
            chromium.press("Enter")
            answered(chromium)
        else:
            ask(url)
            chromium.wait("document.querySelectorAll('#requests tbody tr').length === 1", "the request is listed")
        assert chromium.evaluate("document.documentElement.scrollWidth") <= width


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


def test_a_drafter_that_comes_is_shown_and_one_that_goes_is_not(
    chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer
) -> None:
    rows = "[...document.querySelectorAll('#drafters tbody th')].map(e => e.textContent.replace('down', ''))"
    colours = "[...document.querySelectorAll('#drafters tbody .swatch')].map(e => e.className)"
    offered = "[...document.querySelectorAll('#drafter option')].map(e => e.value)"
    with opened(chromium, backend, tokenizer) as url:
        ask(url)
        chromium.wait(f"{rows}.join() === 'plain,ngram,suffix'", "the first ones are listed")
        chromium.evaluate("document.querySelector('#drafter').value = 'only suffix'")
        backend.kinds = {"ngram": "ngram", "suffix": "suffix", "math": "head"}
        chromium.wait(f"{rows}.join() === 'plain,ngram,suffix,math'", "the new one is listed")
        assert chromium.evaluate(offered) == ["auto", "off", "only ngram", "only suffix", "only math"]
        assert chromium.evaluate("document.querySelector('#drafter').value") == "only suffix", "the choice is kept"
        assert "kind: head" in chromium.evaluate("document.querySelector('#drafters tbody tr:last-child th').title")
        backend.kinds = {"suffix": "suffix", "math": "head"}
        chromium.wait(f"{rows}.join() === 'plain,suffix,math'", "the one that went is not")
        assert chromium.evaluate(offered) == ["auto", "off", "only suffix", "only math"]
        assert chromium.evaluate(colours) == ["swatch d-plain", "swatch d-1", "swatch d-2"], "each keeps its own"
        said = chromium.evaluate("document.querySelector('#requests .stack').getAttribute('aria-label')")
        assert "ngram" in said, "what it did is still shown"
        backend.kinds = {"math": "head"}
        chromium.wait(f"{rows}.join() === 'plain,math'", "the chosen one went")
        assert chromium.evaluate("document.querySelector('#drafter').value") == "auto"
        # A page that never saw them shows what they did, and offers them as little.
        chromium.call("Page.reload")
        chromium.wait(f"{rows}.join() === 'plain,math'", "loaded again")
        said = chromium.evaluate("document.querySelector('#requests .stack').getAttribute('aria-label')")
        assert "ngram" in said
        assert "suffix" in said
        chromium.wait(painted("#share-chart canvas", ["--d-1", "--d-2"]), "their bands")
        assert chromium.evaluate(offered) == ["auto", "off", "only math"]


def test_a_request_opens_on_its_rounds(chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer) -> None:
    with opened(chromium, backend, tokenizer) as url:
        name = ask(url)["id"]
        log = backend.log = RequestLog(8, 8, lambda: 5.0)
        log.opened("t", SequenceOpened(1, 10, request=f"{name}-0"))
        log.sent(WeightsUpdate(1, ("ngram", "suffix"), np.array([0.25, 0.75], dtype=np.float32)))
        rounds = [SequenceRound(1, 13, "suffix", 4, 2, length=4), SequenceRound(1, 14, "", 0, 0)]
        log.reported(TargetReport("t", rounds=rounds, verify_ms=8.0, context=RoundContext(2.5, 12.0, 1)))
        chromium.wait("document.querySelectorAll('#requests tbody tr').length === 1", "the request is listed")
        chromium.click("#requests button")
        chromium.wait("document.querySelectorAll('#request-ribbon g').length === 2", "its rounds are drawn")
        assert chromium.text("#request-name") == name
        assert chromium.text("#request-note") == "2 rounds, 4 tokens"
        card = chromium.text("#request-round")
        assert "Drafted 4 tokens; 2 accepted, and the target added one of its own." in card
        assert "verified in 8.0 ms; waited 2.5 ms for the draft" in card
        assert "suffix75 %" in card
        chromium.evaluate("document.querySelector('#request-ribbon').focus()")
        chromium.press("End")
        assert "round 2 of 2" in chromium.text("#request-round")
        chromium.click("#request-close")
        assert not chromium.evaluate("document.querySelector('#request-window').open")
        backend.log = None
        chromium.click("#requests button")
        chromium.wait("document.querySelector('#request-note').textContent.includes('selector does not')", "an error")
        chromium.problems.clear()  # the browser itself reports the 503


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
