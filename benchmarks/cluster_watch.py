"""A cluster watched from outside while something happens to it: requests without a pause, and who is up and where.

Used by `check_three_hosts.py`, over HTTP alone.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx

TOKENS = 48  # of an answer


class Place(NamedTuple):
    """Where an actor runs: its host, and its process there. Neither is known of one that does not answer."""

    node: str
    pid: int


class Ride:
    """Asks one prompt after the other until it is told to stop, and keeps what came back."""

    def __init__(self, url: str, expected: dict[str, str]) -> None:
        self._url, self._expected = url, expected
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.asked = 0
        self.wrong: list[str] = []
        self.slowest_s = 0.0

    def __enter__(self) -> Ride:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def wait_for(self, more: int) -> None:
        """Until so many more requests were answered."""
        wanted = self.asked + more
        wait_until(lambda: self.asked >= wanted, 120, f"{more} more answers")

    def _run(self) -> None:
        while not self._done.is_set():
            for prompt, text in self._expected.items():
                started = time.monotonic()
                try:
                    got = text_of(ask(self._url, prompt))
                except httpx.HTTPError as error:
                    got = f"{type(error).__name__}: {error}"
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                self.asked += 1
                if got != text:
                    self.wrong.append(f"{prompt!r:.60}: expected {text!r:.80}, got {got!r:.80}")


class Board:
    """Watches who is up and where, and prints every change: `/v1/paceline/status`, twice a second."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.places: dict[str, Place] = {}  # of the drafters that are not known to be down

    def __enter__(self) -> Board:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def wait_for(self, what: str, condition: Callable[[dict[str, Place]], bool], within_s: float) -> float:
        """Seconds until the drafters that are up, with their places, are as they should be."""
        started = time.monotonic()
        wait_until(lambda: condition(self.places), within_s, what)
        return time.monotonic() - started

    def _run(self) -> None:
        while not self._done.wait(0.5):
            try:
                status = httpx.get(f"{self._url}/v1/paceline/status", timeout=10).json()
                usable = {drafter["name"] for drafter in status["drafters"] if drafter["up"]}
                actors = (actor for actor in status["actors"] if actor["name"] in usable)
                # One that does not answer is told on its last node, without a process: it is nowhere.
                answers = {actor["name"]: (actor["node"], actor["pid"]) for actor in actors}
                places = {name: Place(node if pid else "", pid) for name, (node, pid) in answers.items()}
            except (httpx.HTTPError, ValueError, KeyError):
                continue
            if places != self.places:
                self.places = places
                seen = (f"{name} on {place.node or '?'}" for name, place in places.items())
                say("drafters: " + (", ".join(seen) or "none"))


def ask(url: str, prompt: str, **fields: Any) -> dict[str, Any]:
    """One greedy answer."""
    body = {"model": "SmolLM2-135M-Instruct", "messages": [{"role": "user", "content": prompt}], "temperature": 0}
    reply = httpx.post(f"{url}/v1/chat/completions", json={**body, "max_tokens": TOKENS, **fields}, timeout=120)
    reply.raise_for_status()
    document: dict[str, Any] = reply.json()
    return document


def text_of(reply: dict[str, Any]) -> str:
    """The first choice's text."""
    text: str = reply["choices"][0]["message"]["content"]
    return text


def is_up(url: str, drafters: int) -> bool:
    """Whether the target and so many drafters are."""
    try:
        status = httpx.get(f"{url}/v1/paceline/status", timeout=10).json()
    except (httpx.HTTPError, ValueError):
        return False
    return "drafters" in status and sum(drafter["up"] for drafter in status["drafters"]) == drafters


def wait_until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Poll until it holds.

    Raises:
        SystemExit: it did not in time.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"not within {within_s:.0f} s: {what}")
        time.sleep(0.2)


def say(text: str) -> None:
    """A line of the log."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)
