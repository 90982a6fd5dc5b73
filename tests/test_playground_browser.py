"""The playground in a real browser, over a scripted cluster: what is typed, seen and pointed at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from dashboard_rig import TEXT, answered, opened, says
from fake_backend import FakeBackend, make_tokenizer, wait_until

from paceline.actors.errors import EngineError, Overloaded
from paceline.actors.generation import Chunk, Generation
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


@pytest.fixture
def page(chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer) -> Iterator[Browser]:
    with opened(chromium, backend, tokenizer, "#playground"):
        yield chromium


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
    wait_until(lambda: not backend.running, 5, "the generation is closed")


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
