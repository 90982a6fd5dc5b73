"""The dashboard in a real browser over a scripted cluster: what the tests of its two views share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from browser import Browser
from fake_backend import EOS, MODEL, FakeBackend, make_api, served

from paceline.actors.generation import Chunk
from paceline.cluster.tokenizer import ChatTokenizer

TEXT = "the 自行车 🚴 stops here;\n\n<b>not bold</b> & the end"
WEIGHTS = {"ngram": 0.8, "suffix": 0.2}
SIZES = (3, 1, 2, 4)


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


def answered(browser: Browser) -> None:
    browser.wait("document.querySelector('#play-status').textContent.includes('per round')", "the answer is there")


def ask(url: str, **fields: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], **fields}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body)
    document: dict[str, Any] = reply.json()
    return document


_PIXELS = """
      const drawn = document.querySelector(canvas);
      if (!drawn) return [];
      const copy = new OffscreenCanvas(drawn.width, drawn.height).getContext("2d", { willReadFrequently: true });
      copy.drawImage(drawn, 0, 0);
      const data = copy.getImageData(0, 0, drawn.width, drawn.height).data;
      const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
      const wanted = new Map(variables.map((name) => [parseInt(colour(name).slice(1), 16), new Set()]));
      for (let i = 0; i < data.length; i += 4) {
        wanted.get((data[i] << 16) | (data[i + 1] << 8) | data[i + 2])?.add((i / 4) % drawn.width);
      }
      return [...wanted.values()].map((columns) => columns.size);"""


def columns(canvas: str, variables: list[str]) -> str:
    """An expression: in how many columns of a canvas each of these colours of the palette is seen; none without it."""
    return f"((canvas, variables) => {{{_PIXELS}\n    }})({json.dumps(canvas)}, {json.dumps(variables)})"


def painted(canvas: str, variables: list[str]) -> str:
    """An expression: whether a canvas has pixels of each of these colours of the palette."""
    return f"((seen) => seen.length > 0 && seen.every(Boolean))({columns(canvas, variables)})"
