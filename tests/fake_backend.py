"""A cluster that says what a test scripts, a tiny tokenizer to say it in, and a real HTTP server around both."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from paceline.actors.errors import NotReady
from paceline.actors.generation import Chunk, Generation, TokenLogprobs
from paceline.actors.latency_histogram import REQUEST_BOUNDS_S
from paceline.actors.tracer import Span
from paceline.cluster.api import create_api
from paceline.cluster.backend import ActorStatus, ClusterStatus, DrafterState, Pulse
from paceline.cluster.config import ClusterConfig, parse_config
from paceline.cluster.explanation import Explanation, RequestList
from paceline.cluster.metrics.samples import Samples
from paceline.cluster.request_log import RequestLog
from paceline.cluster.tokenizer import ChatTokenizer
from paceline.cluster.trace_document import ProcessTrace

MODEL = "tiny"
CONTEXT = 256
EOS = "<|end|>"
CONFIG = parse_config(
    {
        "drafters": [{"name": "ngram", "kind": "ngram"}, {"name": "suffix", "kind": "suffix"}],
        "http": {"max_body_bytes": 2**20, "max_choices": 4},
    }
)
_TEMPLATE = (
    "{% for m in messages %}{% if m.content == 'REFUSE' %}{{ raise_exception('not this') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
_CORPUS = ["the quick brown fox jumps over the lazy dog " * 4, "stop stopped stopping; the end of the thing"]


def make_tokenizer(folder: Path) -> ChatTokenizer:
    """A byte-level BPE of about 300 ids: characters beyond ASCII are several tokens each."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=300, special_tokens=[EOS], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, clean_up_tokenization_spaces=False)
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)
    return ChatTokenizer(folder)


def rounds(ids: Sequence[int], sizes: Sequence[int], reason: str | None = "stop") -> list[Chunk]:
    """Cut ids into chunks of these sizes, over and over; rounds of several tokens were drafted by `ngram`."""
    chunks, at = [], 0
    while at < len(ids):
        size = sizes[len(chunks) % len(sizes)]
        part = list(ids[at : at + size])
        drafted = 4 if size > 1 else 0
        chunks.append(Chunk(part, None, "ngram" if drafted else "", drafted, len(part) - 1 if drafted else 0))
        at += size
    last = chunks[-1]
    chunks[-1] = Chunk(last.token_ids, reason, last.drafter, last.drafted, last.accepted)  # type: ignore[arg-type]
    return chunks


def fake_logprobs(token: int, top: int) -> TokenLogprobs:
    """-token / 1000, and after it the ids that follow, each less likely by 1."""
    return TokenLogprobs(
        -token / 1000, tuple(range(token, token + top)), tuple(-token / 1000 - place for place in range(top))
    )


class FakeBackend:
    """Says `script(generation)`: chunks and errors in order.

    Attributes:
        script: What to say.
        delay_s: Pause before each chunk.
        asked: Every generation that came.
        ended: Request ids whose iterator has been closed or has run out.
        log: What requests are explained from; None is a selector that does not answer.
        kinds: The drafters that there are now, and the kind of each.
    """

    def __init__(self, script: Callable[[Generation], Sequence[Chunk | Exception]]) -> None:
        self.script = script
        self.delay_s = 0.0
        self.asked: list[Generation] = []
        self.ended: list[str] = []
        self.ready = True
        self.log: RequestLog | None = None
        self.usable: tuple[str, ...] = ("ngram",)
        self.actors = [ActorStatus("target", "target", "10.0.0.1", "cpu", "up", 7)]
        self.samples: dict[str, Samples] = {}
        self.kinds = {"ngram": "ngram", "suffix": "suffix"}

    @property
    def running(self) -> set[str]:
        """Request ids that are still held."""
        return {generation.request_id for generation in self.asked} - set(self.ended)

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk]:
        self.asked.append(generation)
        try:
            for item in self.script(generation):
                await asyncio.sleep(self.delay_s)
                if isinstance(item, Exception):
                    raise item
                if generation.logprobs is not None:
                    yield replace(item, logprobs=tuple(fake_logprobs(t, generation.logprobs) for t in item.token_ids))
                else:
                    yield item
        finally:
            self.ended.append(generation.request_id)

    async def metrics(self) -> dict[str, Samples]:
        return self.samples

    async def drafter_names(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    async def trace(self, seconds: float) -> list[ProcessTrace]:
        await asyncio.sleep(seconds)
        asked = [Span("round", 1_000_000, 9_000_000, "engine", {"sequences": 1})]
        asked += [
            Span("draft", 1_500_000, 2_000_000, "engine", {"drafters": 1}),
            Span("ask", 1_600_000, 100_000, "engine", {"drafter": "ngram", "ask": 4}),
            Span("verify", 3_500_000, 6_000_000, "engine", {"positions": 8}),
        ]
        answered = [Span("propose", 2_000_000, 1_000_000, "session", {"ask": 4})]
        return [ProcessTrace("target", "10.0.0.1", 7, asked), ProcessTrace("ngram", "10.0.0.2", 8, answered)]

    async def explain(self, request: str) -> Explanation | None:
        if self.log is None:
            raise NotReady("the selector does not answer")
        return self.log.explain(request)

    async def requests(self, limit: int) -> RequestList:
        if self.log is None:
            raise NotReady("the selector does not answer")
        return self.log.newest(limit)

    async def pulse(self) -> Pulse | None:
        if not self.ready:
            return None
        running = len(self.running)
        rounds = 10.0 * len(self.ended)  # of 10 ms each; plain decoding would take 15
        return Pulse(
            "fake",
            running,
            0,
            tuple(self.kinds),
            self.usable,
            {"ngram": 0.75, "suffix": 0.25},
            rounds,
            1.5 * rounds,
            10.0,
            2,
            (0, len(self.ended), *[0] * (len(REQUEST_BOUNDS_S) - 1)),
        )

    async def status(self) -> ClusterStatus:
        return ClusterStatus(
            ready=self.ready,
            mode="speculation",
            model=MODEL,
            policy="normalhedge",
            selector_up=True,
            actors=self.actors,
            drafters=[
                DrafterState(name, kind, name in self.usable, 0.5, 0.5, 1.0, 1, 2, 1, 0.1)
                for name, kind in self.kinds.items()
            ],
        )


def make_api(backend: Any, tokenizer: ChatTokenizer, config: ClusterConfig = CONFIG) -> FastAPI:
    """The endpoint over a backend."""
    return create_api(backend, tokenizer, config, MODEL, CONTEXT, frozenset(tokenizer.encode(EOS)))


@contextmanager
def served(api: ASGIApp, port: int = 0) -> Iterator[str]:
    """A real server in a thread, on a free port where none is given; yields its URL. At the end streams are cut."""
    config = uvicorn.Config(api, host="127.0.0.1", port=port, log_level="critical", lifespan="off")
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, 20, "the server listens")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
    assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.01)
