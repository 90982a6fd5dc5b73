"""The live page in a real browser, over a scripted cluster: what a reader sees and clicks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from browser import Browser
from dashboard_rig import TEXT, answered, ask, columns, opened, painted, says
from fake_backend import MODEL, FakeBackend, make_tokenizer

from paceline.actors.messages import RoundContext, SequenceOpened, SequenceRound, TargetReport, WeightsUpdate
from paceline.cluster.backend import ActorStatus
from paceline.cluster.request_log import RequestLog
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


def test_latencies_are_drawn_over_time_as_the_server_tells_them(
    chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer
) -> None:
    """First tokens of streams alone; whole answers of all; of the queue what the target counted meanwhile."""

    def drawn(chart: str) -> str:
        return f"{painted(f'#{chart}-chart canvas', ['--accent', '--warm'])}"

    with opened(chromium, backend, tokenizer) as url:
        chromium.wait("document.querySelector('#tile-running').textContent === '0'", "the target was asked before")
        assert chromium.text("#wait-chart .empty").startswith("No request came")
        ask(url)
        chromium.wait(drawn("answer-time"), "the answer's time")
        chromium.wait(drawn("wait"), "the time in the queue")
        assert chromium.evaluate("!document.querySelector('#first-chart .empty').hidden"), "nobody read along"
        streamed = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": True}
        assert "[DONE]" in httpx.post(f"{url}/v1/chat/completions", json=streamed).text
        chromium.wait(drawn("first"), "the time to the first token")
        chromium.wait("document.querySelector('#tile-ttft-note').textContent.startsWith('median; p95')", "and its tile")


def test_the_switches_choose_what_the_share_shows_and_of_how_long(
    chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer
) -> None:
    canvas = "#share-chart canvas"
    width = f"{columns(canvas, ['--d-0'])}[0]"
    with opened(chromium, backend, tokenizer) as url:
        ask(url)
        chromium.wait(painted(canvas, ["--d-0", "--d-1", "--d-plain"]), "who pulled")
        assert chromium.text("#share-title") == "Who pulls now"
        chromium.click("input[name=kind][value=weights]")
        chromium.wait(
            f"{painted(canvas, ['--d-0', '--d-1'])} && !{painted(canvas, ['--d-plain'])}",
            "the weights, which leave nothing to plain decoding",
        )
        assert chromium.text("#share-title") == "What the selector thinks"
        assert "Weights" in chromium.evaluate("document.querySelector('#share-chart').getAttribute('aria-label')")
        chromium.click("input[name=kind][value=share]")
        chromium.wait(painted(canvas, ["--d-plain"]), "who pulled, again")
        assert chromium.text("#share-title") == "Who pulls now"
        chromium.click("input[name=range][value='300']")
        chromium.wait("document.querySelector('input[name=range]:checked').value === '300'", "five minutes are chosen")
        narrow = chromium.wait(width, "the rounds, of five minutes")
        chromium.click("input[name=range][value='60']")
        chromium.wait(f"{width} > {3 * narrow}", "the same rounds are five times as wide in one minute")


def test_the_view_that_is_shown_has_a_mark_that_pointing_does_not_give(
    chromium: Browser, backend: FakeBackend, tokenizer: ChatTokenizer
) -> None:
    def marks() -> list[str]:
        found: list[str] = chromium.evaluate(
            "[...document.querySelectorAll('nav a')].map(e => getComputedStyle(e).boxShadow)"
        )
        return found

    with opened(chromium, backend, tokenizer):
        chromium.hover("nav a[data-view=playground]")
        live, playground = marks()
        assert live != "none"
        assert playground == "none"
        chromium.click("nav a[data-view=playground]")
        chromium.wait("!document.querySelector('#playground').hidden", "the playground")
        chromium.hover("nav a[data-view=live]")
        assert marks() == ["none", live]


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
