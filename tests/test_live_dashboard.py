"""The dashboard in a real browser, over the running cluster: real drafters, real weights, real times."""

from __future__ import annotations

import pytest
from browser import Browser
from live_cluster import DRAFTERS, ask, prompts, text_of

from paceline.cluster.served_process import ServedProcess

pytestmark = pytest.mark.cluster


def test_the_playground_and_the_live_page(live: ServedProcess) -> None:
    live.wait_for_drafters(set(DRAFTERS), 60)
    prompt = prompts()[0]
    wanted = text_of(ask(live, prompt, max_tokens=48))  # greedy in float32: a function of the prompt alone
    with Browser() as browser:
        browser.resize(1440, 900)
        browser.goto(f"{live.url}/dashboard#playground")
        browser.wait("document.querySelector('#state-text').textContent === 'ready'", "the page is connected")
        browser.evaluate("document.querySelector('#max-tokens').value = '48'")
        browser.click("#prompt")
        browser.type(prompt)
        browser.press("Enter")
        done = "document.querySelector('#play-status').textContent.includes('per round')"
        browser.wait(done, "the answer is there", 60)
        assert browser.text("#answer") == wanted
        browser.evaluate("document.querySelector('.round').focus()")
        shown = browser.text("#round")
        assert "round 1 of" in shown
        assert "Weights when it was chosen" in shown
        assert any(name in shown for name in DRAFTERS)
        browser.click("nav a[data-view=live]")
        browser.wait("document.querySelectorAll('#requests tbody tr').length >= 2", "both requests are listed")
        browser.click("#requests button")
        browser.wait("document.querySelectorAll('#request-ribbon g').length", "the newest one's rounds")
        browser.evaluate("document.querySelector('#request-ribbon').focus()")
        browser.press("End")  # the first one ran the prompt, whose time says nothing of verification
        assert "verified in" in browser.text("#request-round")
        browser.click("#request-close")
        browser.wait("document.querySelector('#share-chart > .empty').hidden", "somebody pulled")
        browser.wait("document.querySelector('#tile-speed-up-note').textContent.includes('plain round:')", "pace")
        actors = browser.text("#actors")
        assert all(name in actors for name in ("ingress", "target", "selector", *DRAFTERS))
        assert browser.evaluate("document.querySelectorAll('.actor.is-up').length") == 3 + len(DRAFTERS)
        cells = "[...document.querySelectorAll('#drafters tbody tr')].map(row => row.cells[2].innerText)"
        weights = browser.evaluate(cells)
        shares = [float(text.split()[0]) for text in weights if text.strip() != "–"]
        assert sum(shares) == pytest.approx(100, abs=3), "weights of a new sequence"
        assert browser.problems == []
