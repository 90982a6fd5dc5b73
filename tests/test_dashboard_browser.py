"""The dashboard in a real browser, over a scripted cluster: what a reader sees, clicks and types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from browser import Browser
from fake_backend import EOS, MODEL, FakeBackend, make_api, make_tokenizer, served

from paceline.actors.errors import EngineError, Overloaded
from paceline.actors.generation import Chunk, Generation
from paceline.actors.messages import RoundContext, SequenceOpened, SequenceRound, TargetReport, WeightsUpdate
from paceline.cluster.request_log import RequestLog
from paceline.cluster.served_process import free_port
from paceline.cluster.tokenizer import ChatTokenizer

TEXT = "the 自行车 🚴 stops here;\n\n<b>not bold</b> & the end"
WEIGHTS = {"ngram": 0.8, "suffix": 0.2}
SIZES = (3, 1, 2, 4)


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


def says(tokenizer: ChatTokenizer, text: str) -> list[Chunk]:
    """Rounds by ngram and suffix in turn, with plain ones between."""
    ids, chunks, at = tokenizer.encode(text + EOS), [], 0
    while at < len(ids):
        size = SIZES[len(chunks) % len(SIZES)]
        part = ids[at : at + size]
        drafter = "" if size == 1 else ("ngram" if len(chunks) % 2 else "suffix")
        accepted = min(size - 1, len(part))
        chunks.append(Chunk(part, None, drafter, 5 if drafter else 0, accepted, 0, WEIGHTS))
        at += size
    last = chunks[-1]
    chunks[-1] = Chunk(last.token_ids, "stop", last.drafter, last.drafted, last.accepted, 0, WEIGHTS)
    return chunks


@contextmanager
def opened(browser: Browser, backend: FakeBackend, tokenizer: ChatTokenizer, view: str = "") -> Iterator[str]:
    """The page over a fresh server, at its size and theme of a desk, with no complaint at the end."""
    browser.resize(1440, 900)
    browser.prefer(prefers_color_scheme="light", prefers_reduced_motion="reduce")
    browser.problems.clear()
    with served(make_api(backend, tokenizer)) as url:
        try:
            browser.goto(f"{url}/dashboard{view}")
            browser.wait("document.querySelector('#state').dataset.state === 'ready'", "the page is connected")
            yield url
            assert browser.problems == []
        finally:
            browser.goto("about:blank")


@pytest.fixture
def page(chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer) -> Iterator[Browser]:
    with opened(chromium, backend, tokenizer, "#playground"):
        yield chromium


def answered(browser: Browser) -> None:
    browser.wait("document.querySelector('#play-status').textContent.includes('per round')", "the answer is there")


def ask(url: str, **fields: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], **fields}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body)
    document: dict[str, Any] = reply.json()
    return document


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


def painted(canvas: str, variables: list[str]) -> str:
    """An expression: whether a canvas has pixels of each of these colours of the palette."""
    return f"""(() => {{
      const drawn = document.querySelector({json.dumps(canvas)});
      if (!drawn) return false;
      const copy = new OffscreenCanvas(drawn.width, drawn.height).getContext("2d", {{ willReadFrequently: true }});
      copy.drawImage(drawn, 0, 0);
      const data = copy.getImageData(0, 0, drawn.width, drawn.height).data;
      const seen = new Set();
      for (let i = 0; i < data.length; i += 4) seen.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
      return {json.dumps(variables)}.every((name) => {{
        const value = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
        return seen.has(parseInt(value.slice(1), 16));
      }});
    }})()"""


def test_the_playground_shows_the_apis_text_in_the_drafters_colours(
    page: Browser, backend: FakeBackend, tokenizer: ChatTokenizer
) -> None:
    page.click("#prompt")
    page.type("what now?")
    page.press("Enter", shift=True)
    page.type("a second line")
    assert page.evaluate("document.querySelector('#prompt').value") == "what now?\na second line"
    assert not backend.asked, "Shift+Enter sends nothing"
    page.press("Enter")
    answered(page)
    asked = backend.asked[0]
    assert "what now?\na second line" in tokenizer.decode(list(asked.prompt))
    assert (asked.sampling.temperature, asked.drafters, asked.speculate) == (0.0, (), True)
    tokens = page.evaluate("[...document.querySelectorAll('#answer .token')].map(t => [t.textContent, t.className])")
    assert "".join(text for text, _ in tokens) == TEXT
    assert page.evaluate("document.querySelectorAll('#answer b').length") == 0, "no HTML of the model's"
    wanted = []
    for chunk in says(tokenizer, TEXT):
        drafted = {"ngram": "token d-0", "suffix": "token d-1", "": ""}[chunk.drafter]
        own = len(chunk.token_ids) - chunk.accepted
        wanted += [drafted] * chunk.accepted + ["token d-plain"] * own
    assert [name for _, name in tokens] == wanted
    legend = page.text("#legend")
    assert f"the target{wanted.count('token d-plain')}" in legend
    assert page.evaluate("document.querySelectorAll('#ribbon g').length") == len(says(tokenizer, TEXT))
    background = "getComputedStyle(document.querySelector('.token.d-0')).backgroundColor"
    assert page.evaluate(background) != page.evaluate(background.replace("d-0", "d-1"))


def test_a_round_tells_who_drafted_and_by_which_weights(page: Browser) -> None:
    page.click("#prompt")
    page.type("hello")
    page.press("Enter")
    answered(page)
    page.hover(".round:nth-child(1) .token")
    page.wait("document.querySelector('#round').textContent.includes('round 1 of')", "the first round's card")
    card = page.text("#round")
    assert "suffix" in card
    assert "Drafted 5 tokens; 2 accepted, and the target added one of its own." in card
    assert "ngram80 %" in card
    assert page.evaluate("document.querySelector('#ribbon g:nth-child(1)').classList.contains('picked')")
    plain = page.evaluate(
        "[...document.querySelectorAll('.round')].findIndex("
        "r => r.children.length === 1 && r.querySelector('.d-plain') && r.textContent.trim())"
    )
    page.hover(f".round:nth-child({plain + 1}) .token")
    page.wait("document.querySelector('#round').textContent.includes('made one token by itself')", "a plain round")


def test_by_keyboard_alone(chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer) -> None:
    with opened(chromium, backend, tokenizer):
        type_and_read(chromium)
    (asked,) = backend.asked
    assert asked.drafters == ("ngram",)


def type_and_read(page: Browser) -> None:
    """From a fresh page to the last round of an answer, without the mouse."""

    def focused() -> str:
        active = "document.activeElement"
        return str(page.evaluate(f"{active}.id || {active}.className || {active}.dataset.view"))

    def tab_to(name: str) -> None:
        for _ in range(40):
            if focused() == name:
                break
            page.press("Tab")
        assert focused() == name
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(outline) != "none", "the focus is seen"

    page.press("Tab")
    assert focused() == "skip"
    tab_to("playground")
    page.press("Enter")
    tab_to("prompt")
    page.type("hello")
    tab_to("drafter")
    for _ in range(2):  # past "the selector chooses" and plain decoding
        page.press("ArrowDown")
    tab_to("send")
    page.press("Space")
    answered(page)
    assert focused() == "send", "the focus is where it was"
    tab_to("round picked")
    place = "document.activeElement.dataset.place"
    page.press("Home")
    assert page.evaluate(place) == "0"
    page.press("ArrowRight")
    assert page.evaluate(place) == "1"
    assert "round 2 of" in page.text("#round")
    page.press("End")
    assert int(page.evaluate(place)) == page.evaluate("document.querySelectorAll('.round').length - 1")
    assert page.evaluate("document.querySelectorAll('.round[tabindex=\"0\"]').length") == 1


@pytest.mark.parametrize(
    ("choice", "drafters", "speculate"), [("only suffix", ("suffix",), True), ("off", (), False), ("auto", (), True)]
)
def test_the_options_are_asked_for(
    page: Browser, backend: FakeBackend, choice: str, drafters: tuple[str, ...], speculate: bool
) -> None:
    page.evaluate(f"document.querySelector('#drafter').value = '{choice}'")
    page.evaluate("document.querySelector('#temperature').value = '0.7'")
    page.evaluate("document.querySelector('#max-tokens').value = '33'")
    page.click("#prompt")
    page.type("hello")
    page.click("#send")
    answered(page)
    (asked,) = backend.asked
    assert (asked.drafters, asked.speculate, asked.max_tokens) == (drafters, speculate, 33)
    assert asked.sampling.temperature == pytest.approx(0.7)
    page.evaluate("document.querySelector('#max-tokens').value = '0'")
    page.click("#send")
    assert len(backend.asked) == 1, "a value out of range is not sent"


def test_stop_frees_the_target(page: Browser, backend: FakeBackend) -> None:
    backend.delay_s = 0.2
    page.click("#prompt")
    page.type("hello")
    page.press("Enter")
    page.wait("document.querySelectorAll('.round').length >= 2", "the answer has begun")
    page.click("#stop")
    page.wait("document.querySelector('#play-status').textContent.startsWith('stopped')", "it says so")
    page.wait("!document.querySelector('#send').hidden", "a new prompt can be sent")
    assert TEXT.startswith(page.text("#answer"))
    page.wait("1", "")
    deadline = [backend.running]
    while backend.running and len(deadline) < 200:
        page.evaluate("new Promise(done => setTimeout(done, 20))")
        deadline.append(backend.running)
    assert not backend.running


@pytest.mark.parametrize("when", ["at once", "inside"])
def test_a_refusal_is_shown(chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer, when: str) -> None:
    def script(_: Generation) -> list[Chunk | Exception]:
        if when == "at once":
            return [Overloaded("8 requests run and 64 wait")]
        return [*says(tokenizer, TEXT)[:2], EngineError("a decoding round failed")]

    backend.script = script
    with opened(chromium, backend, tokenizer, "#playground"):
        chromium.click("#prompt")
        chromium.type("hello")
        chromium.press("Enter")
        chromium.wait("document.querySelector('#play-status').classList.contains('bad')", "the error is shown")
        wanted = "8 requests run and 64 wait" if when == "at once" else "a decoding round failed"
        assert wanted in chromium.text("#play-status")
        if when == "at once":
            chromium.problems.clear()  # the browser itself reports the 429


def test_the_theme_is_the_systems_until_one_is_chosen_and_then_kept(page: Browser) -> None:
    theme = "document.documentElement.dataset.theme"
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(theme) == "light"
    light = page.evaluate(background)
    page.prefer(prefers_color_scheme="dark")
    page.wait(f"{theme} === 'dark'", "the system's choice is followed")
    assert page.evaluate(background) != light
    page.click("#theme")
    assert page.evaluate(theme) == "light"
    page.call("Page.reload")
    page.wait("document.readyState === 'complete' && document.querySelector('#theme').textContent", "loaded again")
    assert page.evaluate(theme) == "light", "chosen against the system's"
    page.evaluate("localStorage.clear()")


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
