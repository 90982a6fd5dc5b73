"""What clients see of their requests: times to the first token, between tokens and to the end, and how answers end.

`api` puts `RequestMetrics` around the backend, the replies and the application; nothing of a request's own (a model's
name, a path) becomes a label. All of it runs on the ingress's one loop.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paceline.actors.errors import Overloaded, RequestError
from paceline.actors.generation import Chunk, Generation
from paceline.actors.latency_histogram import (
    FIRST_TOKEN_BOUNDS_S,
    REQUEST_BOUNDS_S,
    TOKEN_BOUNDS_S,
    LatencyHistogram,
)
from paceline.cluster.backend import Generates
from paceline.cluster.drain_gate import ended_by_server
from paceline.cluster.metrics import names
from paceline.cluster.metrics.samples import Samples

_arrived_s: ContextVar[float | None] = ContextVar("arrived_s", default=None)

ABORT, SHUTDOWN, ERROR = "abort", "shutdown", "error"
_REFUSALS = (RequestError, Overloaded)  # the answer never began: counted by its status
_REASONS = ("stop", "length", ABORT, SHUTDOWN, ERROR)
_API = "/v1/"
_LEAST_REFUSAL = 400
_USUAL_REFUSALS = (400, 404, 413, 429, 500, 503)  # told from 0 on, so that the first one is a rise


class RequestMetrics:
    """Counters of one ingress.

    Args:
        model: The served model.
        policy: The selector's.
        timed_paths: Whose completed requests are timed from end to end.
    """

    def __init__(self, model: str, policy: str, timed_paths: Collection[str]) -> None:
        self._model = model
        self._policy = policy
        self.timed_paths = frozenset(timed_paths)
        self.first_token_s = LatencyHistogram(FIRST_TOKEN_BOUNDS_S)
        self.inter_token_s = LatencyHistogram(TOKEN_BOUNDS_S)
        self.end_to_end_s = LatencyHistogram(REQUEST_BOUNDS_S)
        self.finished: Counter[str] = Counter(dict.fromkeys(_REASONS, 0))
        self.refused: Counter[int] = Counter(dict.fromkeys(_USUAL_REFUSALS, 0))

    def gather(self) -> Samples:
        """Everything, as it is now."""
        samples = Samples()
        samples.add(names.INFO, 1.0, self._model, self._policy)
        samples.add(names.TTFT_SECONDS, self.first_token_s.count)
        samples.add(names.INTER_TOKEN_SECONDS, self.inter_token_s.count)
        samples.add(names.E2E_SECONDS, self.end_to_end_s.count)
        for reason, answers in dict(self.finished).items():
            samples.add(names.REQUESTS, answers, reason)
        for status, requests in dict(self.refused).items():
            samples.add(names.REFUSED, requests, str(status))
        return samples

    async def events(self, events: AsyncGenerator[dict[str, Any]], answers: int) -> AsyncGenerator[dict[str, Any]]:
        """The events of a stream, as they are, while the ends of its `answers` are counted."""
        left, reason = answers, ""
        try:
            async with aclosing(events):
                async for event in events:
                    for choice in event["choices"]:
                        if choice["finish_reason"] is not None:
                            left -= 1
                            self.finished[choice["finish_reason"]] += 1
                    yield event
        except Exception as error:
            reason = ERROR
            left = 0 if isinstance(error, _REFUSALS) else left
            raise
        finally:
            self.finished[reason or _cut()] += left

    async def whole(self, reply: Callable[[], Awaitable[dict[str, Any]]], answers: int) -> dict[str, Any]:
        """Await a whole reply, as it is, while the ends of its `answers` are counted."""
        left, reason = answers, ""
        try:
            document = await reply()
            for choice in document["choices"]:
                left -= 1
                self.finished[choice["finish_reason"]] += 1
            return document
        except Exception as error:
            reason = ERROR
            left = 0 if isinstance(error, _REFUSALS) else left
            raise
        finally:
            self.finished[reason or _cut()] += left


def _cut() -> str:
    """Why an answer that runs is given up."""
    return SHUTDOWN if ended_by_server() else ABORT


class TimedBackend:
    """A backend whose streamed generations are timed, from the arrival of their request (`RequestClock`)."""

    def __init__(self, backend: Generates, metrics: RequestMetrics) -> None:
        self._backend = backend
        self._metrics = metrics

    async def generate(self, generation: Generation) -> AsyncIterator[Chunk]:
        """See `Generates.generate`."""
        chunks = cast("AsyncGenerator[Chunk]", self._backend.generate(generation))
        if not generation.streamed:  # handed over several rounds at a time: when tells nothing
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
            return
        began_s = _arrived_s.get() or time.perf_counter()
        last_s: float | None = None
        async with aclosing(chunks):
            async for chunk in chunks:
                tokens = len(chunk.token_ids)
                if tokens:
                    now_s = time.perf_counter()
                    if last_s is None:
                        self._metrics.first_token_s.observe(now_s - began_s)
                    else:
                        self._metrics.inter_token_s.observe((now_s - last_s) / tokens, tokens)
                    last_s = now_s
                yield chunk


class RequestClock:
    """Around the application: notes when a request came, what status it got, and when its last byte went.

    Args:
        app: The application.
        metrics: Where to count.
    """

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.perf_counter()
        _arrived_s.set(began_s)
        timed = scope["path"] in self._metrics.timed_paths
        counted = scope["path"].startswith(_API)  # probes of /ready are no requests

        async def watched(message: Message) -> None:
            nonlocal timed
            if message["type"] == "http.response.start" and message["status"] >= _LEAST_REFUSAL:
                self._metrics.refused[message["status"]] += counted
                timed = False
            await send(message)
            if timed and message["type"] == "http.response.body" and not message.get("more_body", False):
                self._metrics.end_to_end_s.observe(time.perf_counter() - began_s)

        await self._app(scope, receive, watched)
