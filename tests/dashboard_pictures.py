"""Makes the pictures of docs/dashboard.md from a running cluster that nobody else uses: a few minutes.

PYTHONPATH=tests python tests/dashboard_pictures.py http://127.0.0.1:8000 docs/img
PYTHONPATH=tests python tests/dashboard_pictures.py http://127.0.0.1:8000 docs/img --watch NAME    # the live page alone

First the playground answers a few prompts, and the answer in which most drafters had a part is kept; then clients
stream the prompts of the first ride, one domain for a while and then the next, sampled so that no answer is an earlier
one's, while the live page watches. With `--watch` whoever uses the cluster makes the traffic.
"""

from __future__ import annotations

import argparse
import itertools
import json
import threading
import time
from pathlib import Path

import httpx
from browser import Browser
from live_cluster import PROMPTS
from PIL import Image

PLAYGROUND = (
    "Write a Python function that returns the n-th Fibonacci number, with a docstring and three examples.",
    "Write an SQL query that lists each customer's name and the number of orders they placed, most orders first.",
    "A train travels 60 miles per hour for 3 hours, then 40 miles per hour for 2 hours. How far is that? Step by step.",
    "Translate to French: The library is open every day except Sunday, and children can borrow five books.",
)
DOMAIN_S = 24.0  # of a domain's prompts before the next one's
_DRAFTERS = "new Set([...document.querySelectorAll('#legend li')].map(e => e.dataset.name)).size"
_LONGEST = """[...document.querySelectorAll('.round')]
    .map((round, place) => [round.children.length, place]).sort((a, b) => b[0] - a[0])[0][1]"""


def main() -> None:
    """Read the arguments, and make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=130.0, help="of traffic before the live page's pictures")
    parser.add_argument("--clients", type=int, default=1, help="that stream side by side")
    parser.add_argument("--temperature", type=float, default=0.8, help="of what they ask for")
    parser.add_argument(
        "--watch", metavar="NAME", help="only the live page, light and wide, without traffic of its own"
    )
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with Browser() as browser:
        if given.watch:
            watch(browser, given.url, given.folder / f"{given.watch}.png", given.seconds)
            return
        playground(browser, given.url, given.folder)
        live(browser, given)


def playground(browser: Browser, url: str, folder: Path) -> None:
    """The answer that shows most drafters, its longest round pointed at."""
    browser.resize(1440, 900)
    browser.prefer(prefers_color_scheme="light")
    browser.goto(f"{url}/dashboard#playground")
    browser.wait("document.querySelector('#state').dataset.state === 'ready'", "the cluster is ready", 60)
    most = 0
    for prompt in PLAYGROUND:
        browser.evaluate("document.querySelector('#prompt').value = ''")
        browser.evaluate("document.querySelector('#play-status').textContent = ''")
        browser.click("#prompt")
        browser.type(prompt)
        browser.press("Enter")
        browser.wait("document.querySelector('#play-status').textContent.includes('per round')", "an answer", 120)
        if (count := browser.evaluate(_DRAFTERS)) > most:
            most = count
            browser.evaluate("document.activeElement.blur()")
            # As high as the page: where it is scrolled, its header would stand in the picture's middle.
            browser.resize(1440, max(900, browser.evaluate("document.documentElement.scrollHeight")))
            browser.hover(f".round:nth-child({browser.evaluate(_LONGEST) + 1}) .token")
            keep(browser, folder / "playground.png", whole=True)
            browser.resize(1440, 900)


def watch(browser: Browser, url: str, path: Path, seconds: float) -> None:
    """The live page as it is."""
    browser.resize(1440, 900)
    browser.prefer(prefers_color_scheme="light")
    browser.goto(f"{url}/dashboard")
    browser.wait("document.querySelector('#state').dataset.state === 'ready'", "the cluster is ready", 60)
    time.sleep(seconds)
    keep(browser, path, whole=True)


def keep(browser: Browser, path: Path, *, whole: bool = False) -> None:
    """A picture of what is seen, or of the whole page, in all its colours: fewer would leave out a drafter's."""
    browser.screenshot(path, whole=whole)
    Image.open(path).convert("RGB").save(path, optimize=True)


def live(browser: Browser, given: argparse.Namespace) -> None:
    """The live page under a mixed stream, wide and on a phone in both themes; and the playground on a phone."""
    stopping = threading.Event()
    began_s = time.monotonic()
    clients = [
        threading.Thread(target=stream, args=(given.url, given.temperature, number, began_s, stopping))
        for number in range(given.clients)
    ]
    folder = given.folder
    browser.resize(1440, 900)
    browser.click("nav a[data-view=live]")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=0, y=0)  # it points at nothing
    for client in clients:
        client.start()
    try:
        time.sleep(given.seconds)
        keep(browser, folder / "dashboard-light.png", whole=True)
        browser.prefer(prefers_color_scheme="dark")
        time.sleep(1.5)
        keep(browser, folder / "dashboard-dark.png", whole=True)
        browser.resize(390, 844, scale=2)
        time.sleep(1.5)
        keep(browser, folder / "dashboard-phone.png")
        browser.prefer(prefers_color_scheme="light")
        time.sleep(1.5)
        keep(browser, folder / "dashboard-phone-light.png")
        browser.click("nav a[data-view=playground]")
        time.sleep(1.5)
        browser.evaluate("scrollBy(0, document.querySelector('#answer').getBoundingClientRect().top - 60)")
        keep(browser, folder / "playground-phone.png")
    finally:
        stopping.set()
        for client in clients:
            client.join()


def stream(url: str, temperature: float, number: int, began_s: float, stopping: threading.Event) -> None:
    """One client's requests until it is told to stop, all of the domain whose turn it is; each client has its place."""
    by_domain: dict[str, list[str]] = {}
    for line in PROMPTS.read_text().splitlines():
        held = json.loads(line)
        by_domain.setdefault(held["domain"], []).append(held["prompt"])
    domains = list(by_domain.values())
    with httpx.Client(base_url=url, timeout=120) as client:
        model = client.get("/v1/models").json()["data"][0]["id"]
        for place in itertools.count(number):
            if stopping.is_set():
                return
            texts = domains[int((time.monotonic() - began_s) / DOMAIN_S) % len(domains)]
            message = {"role": "user", "content": texts[place % len(texts)]}
            body = {"model": model, "messages": [message], "max_tokens": 96, "temperature": temperature}
            client.post("/v1/chat/completions", json={**body, "stream": True}).raise_for_status()


if __name__ == "__main__":
    main()
