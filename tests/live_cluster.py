"""What the end-to-end tests share: the cluster's settings, the prompts, and small ways to ask it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from paceline.cluster.served_process import ServedProcess

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ROOT / "benchmarks" / "prompts" / "first_ride.jsonl"
DRAFTERS = ("ngram", "suffix", "early_exit", "generalist")
PORTS = (21000, 21999)
# float32: greedy text is then a function of the prompt alone, whatever the shape of the batch.
DOCUMENT: dict[str, Any] = {
    "target": {"model": "embedded", "dtype": "float32", "max_queue": 8},
    "drafters": [
        {"name": "ngram", "kind": "ngram", "options": {"min_ngram": 1}},
        {"name": "suffix", "kind": "suffix"},
        {"name": "early_exit", "kind": "early_exit", "options": {"layers": 6}},
        {"name": "generalist", "kind": "head", "options": {"model": str(ROOT / "zoo" / "generalist")}},
    ],
    "selector": {"state_file": "selector-state.json", "state_interval_s": 0.5},  # beside the settings
    "network": {"host": "127.0.0.1", "ports": list(PORTS)},
    "metrics": {"interval_s": 0.5},
}


def prompts() -> list[str]:
    """The 20 prompts of the first ride."""
    return [json.loads(line)["prompt"] for line in PROMPTS.read_text().splitlines()]


def model_name(served: ServedProcess) -> str:
    """The one model that it serves."""
    name: str = httpx.get(f"{served.url}/v1/models").json()["data"][0]["id"]
    return name


def body(served: ServedProcess, prompt: str, **fields: Any) -> dict[str, Any]:
    """A greedy chat request."""
    return {
        "model": model_name(served),
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": 32,
        **fields,
    }


def ask(served: ServedProcess, prompt: str, **fields: Any) -> dict[str, Any]:
    """One whole reply."""
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=body(served, prompt, **fields), timeout=120)
    assert reply.status_code == 200, reply.text
    document: dict[str, Any] = reply.json()
    return document


def text_of(reply: dict[str, Any]) -> str:
    """The first choice's text."""
    text: str = reply["choices"][0]["message"]["content"]
    return text


def stream(
    served: ServedProcess, prompt: str, on_event: Callable[[int, dict[str, Any]], None] | None = None, **fields: Any
) -> tuple[str, list[dict[str, Any]]]:
    """One streamed reply: its text and its events; `on_event` sees each as it comes, with its number."""
    text, events = "", []
    request = body(served, prompt, stream=True, **fields)
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=request, timeout=120) as reply:
        assert reply.status_code == 200, reply.read()
        lines = _data(reply, events, on_event)
    assert lines[-1] == "[DONE]"
    for event in events:
        assert "error" not in event, event
        for choice in event["choices"]:
            text += choice["delta"].get("content") or ""
    return text, events


def _data(
    reply: httpx.Response, events: list[dict[str, Any]], on_event: Callable[[int, dict[str, Any]], None] | None
) -> list[str]:
    lines = []
    for line in reply.iter_lines():
        if not line.startswith("data: "):
            continue
        lines.append(line.removeprefix("data: "))
        if lines[-1] != "[DONE]":
            events.append(json.loads(lines[-1]))
            if on_event is not None:
                on_event(len(events), events[-1])
    return lines


def actor(served: ServedProcess, name: str) -> dict[str, Any]:
    """One actor's line of the status."""
    return next(item for item in served.status()["actors"] if item["name"] == name)


def kill(served: ServedProcess, *names: str) -> dict[str, int]:
    """kill -9 actors' processes, all at the same moment; returns the pids that they had."""
    pids = {item["name"]: item["pid"] for item in served.status()["actors"] if item["name"] in names}
    assert set(pids) == set(names)
    assert all(pids.values())
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    return pids


def wait_until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Poll until it holds.

    Raises:
        AssertionError: it did not in time.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.05)
