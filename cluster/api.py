"""The OpenAI-compatible endpoint: paths, and what each does with a request.

`create_api` builds the application over a `Backend`; the Serve ingress calls it with the Ray-backed one, tests with a
fake. Bodies are read by hand, not by FastAPI: its errors and its leniency are not OpenAI's.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from paceline.actors.errors import NotReady, PacelineError, RequestError
from paceline.cluster.access import AccessGuard
from paceline.cluster.activity import Activity
from paceline.cluster.backend import Backend
from paceline.cluster.body_limit import BodyLimit
from paceline.cluster.completion import Completion
from paceline.cluster.config import ClusterConfig
from paceline.cluster.dashboard_pages import DashboardPages
from paceline.cluster.drafters_api import DrafterEndpoints
from paceline.cluster.drain_gate import Drain, DrainGate
from paceline.cluster.event_stream import ClientGone, EventStream, while_connected
from paceline.cluster.explain_api import ExplainEndpoints
from paceline.cluster.http_errors import error_reply, status_of, status_reply
from paceline.cluster.live_feed import LiveFeed
from paceline.cluster.metrics.endpoint import MetricsEndpoint
from paceline.cluster.metrics.request_metrics import RequestClock, RequestMetrics, TimedBackend
from paceline.cluster.openai_logprobs import LogprobsWriter
from paceline.cluster.openai_replies import ReplyWriter
from paceline.cluster.openai_requests import ChatRequest, CompletionRequest
from paceline.cluster.openapi_document import openapi_document
from paceline.cluster.request_body import read_request
from paceline.cluster.request_plan import Planner
from paceline.cluster.tokenize_endpoints import TokenizeEndpoints
from paceline.cluster.tokenizer import ChatTokenizer
from paceline.cluster.trace_document import trace_document

logger = logging.getLogger(__name__)

E = TypeVar("E")
MAX_TRACE_S = 30.0
_COMPLETIONS = ("/v1/chat/completions", "/v1/completions")
_CLIENT_GONE = 499  # as nginx logs it; there is no one to read it


def create_api(
    backend: Backend,
    tokenizer: ChatTokenizer,
    config: ClusterConfig,
    model_name: str,
    max_context: int,
    stop_ids: frozenset[int],
) -> FastAPI:
    """Build the application.

    Args:
        backend: The cluster.
        tokenizer: The served model's.
        config: The cluster's settings.
        model_name: The one model name that clients may use.
        max_context: Most tokens of prompt and answer together.
        stop_ids: Token ids that end a text.

    Returns:
        The application; `state.requests` are its `RequestMetrics`, `state.drain` is what ends it (`Drain`).
    """
    api = FastAPI(title="paceline", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    activity = Activity()
    requests = api.state.requests = RequestMetrics(model_name, config.selector.policy, _COMPLETIONS)
    drain = api.state.drain = Drain()
    planner = Planner(tokenizer, config, model_name, max_context, stop_ids, backend.drafter_names)
    document = openapi_document(model_name, keyed=bool(config.http.api_keys))
    endpoints = _Endpoints(
        backend,
        tokenizer,
        planner,
        model_name,
        max_context,
        activity,
        LiveFeed(backend, activity, config, model_name),
        requests,
        document,
        drain,
    )
    tokens = TokenizeEndpoints(tokenizer, planner, max_context)
    explain = ExplainEndpoints(backend, tokenizer.decode, config.selector.explain_requests)
    drafters = DrafterEndpoints(backend, config.http)
    for path, method, endpoint in (
        ("/v1/chat/completions", "POST", endpoints.chat),
        ("/v1/completions", "POST", endpoints.completion),
        ("/tokenize", "POST", tokens.tokenize),
        ("/detokenize", "POST", tokens.detokenize),
        ("/v1/models", "GET", endpoints.models),
        ("/v1/models/{name:path}", "GET", endpoints.model),
        ("/v1/paceline/status", "GET", endpoints.status),
        ("/v1/paceline/live", "GET", endpoints.live),
        ("/v1/paceline/trace", "GET", endpoints.trace),
        ("/v1/paceline/requests", "GET", explain.requests),
        ("/v1/paceline/requests/{id}", "GET", explain.request),
        ("/v1/paceline/drafters", "GET", drafters.list),
        ("/v1/paceline/drafters", "POST", drafters.add),
        ("/v1/paceline/drafters/{name}/drain", "POST", drafters.drain),
        ("/v1/paceline/drafters/{name}", "DELETE", drafters.remove),
        ("/ready", "GET", endpoints.ready),
        ("/health", "GET", endpoints.health),
        ("/openapi.json", "GET", endpoints.openapi),
    ):
        api.add_api_route(path, _guarded(endpoint), methods=[method], response_model=None)
    DashboardPages().add_to(api)
    if "http" in config.metrics.export:
        metrics = MetricsEndpoint(backend, requests)
        api.add_api_route("/metrics", _guarded(metrics.metrics), methods=["GET"], response_model=None)
    api.add_exception_handler(HTTPException, _refused)
    if config.http.api_keys:
        api.add_middleware(AccessGuard, keys=config.http.api_keys)
    api.add_middleware(BodyLimit, max_bytes=config.http.max_body_bytes)  # the last one added is the first one asked
    api.add_middleware(DrainGate, drain=drain, paths=_COMPLETIONS)
    api.add_middleware(RequestClock, metrics=requests)  # outermost: it sees every answer
    return api


class _Endpoints:
    def __init__(
        self,
        backend: Backend,
        tokenizer: ChatTokenizer,
        planner: Planner,
        model_name: str,
        max_context: int,
        activity: Activity,
        feed: LiveFeed,
        requests: RequestMetrics,
        document: dict[str, Any],
        drain: Drain,
    ) -> None:
        self._backend = backend
        self._requests = requests
        self._timed = TimedBackend(backend, requests)
        self._tokenizer = tokenizer
        self._planner = planner
        self._document = document
        self._drain = drain
        self._model_name = model_name
        self._activity = activity
        self._feed = feed
        self._card = {
            "id": model_name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "paceline",
            "max_model_len": max_context,
        }

    async def chat(self, request: Request) -> Response:
        return await self._complete(request, ChatRequest)

    async def completion(self, request: Request) -> Response:
        return await self._complete(request, CompletionRequest)

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card]})

    async def model(self, request: Request) -> Response:
        self._planner.check_model(request.path_params["name"])
        return JSONResponse(self._card)

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(self._document)

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        self._drain.check()
        status = await self._backend.status()
        if not status.ready:
            raise NotReady("no target replica answers")
        up = [drafter.name for drafter in status.drafters if drafter.up]
        return JSONResponse({"status": "ready", "mode": status.mode, "drafters": up})

    async def status(self, _: Request) -> Response:
        return JSONResponse(asdict(await self._backend.status()))

    async def live(self, request: Request) -> Response:
        messages = self._feed.watch()
        return EventStream(await while_connected(request.receive, _first(messages)), messages)

    async def trace(self, request: Request) -> Response:
        text = request.query_params.get("seconds", "5")
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= MAX_TRACE_S:
            raise RequestError(f"seconds: {text!r:.80}; expected more than 0 and at most {MAX_TRACE_S:.0f}", "seconds")
        traced = await while_connected(request.receive, self._backend.trace(seconds))
        return JSONResponse(await asyncio.to_thread(trace_document, traced))

    async def _complete(self, request: Request, kind: type[ChatRequest] | type[CompletionRequest]) -> Response:
        body = await read_request(request, kind)
        chat, tokenizer = kind is ChatRequest, self._tokenizer
        wanted = body.alternatives is not None
        writer = ReplyWriter(
            chat=chat,
            model=self._model_name,
            include_usage=body.include_usage,
            include_ids=body.return_token_ids,
            logprobs=LogprobsWriter(tokenizer.bytes_of, tokenizer.is_shown, chat=chat) if wanted else None,
        )
        plan = await self._planner.plan(body, writer.id)
        completion = Completion(self._timed, self._tokenizer.decode, plan, writer, self._activity)
        answers = len(plan.generations)
        if not body.stream:
            whole = self._requests.whole(completion.whole, answers)
            return JSONResponse(await while_connected(request.receive, whole))
        events = self._requests.events(completion.events(), answers)
        # The first event is there before the head is sent, so that a refusal still gets its own status.
        return EventStream(await while_connected(request.receive, _first(events)), events)


async def _first(events: AsyncGenerator[E]) -> E:
    return await anext(events)


def _guarded(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Every error of an endpoint becomes an OpenAI-shaped reply here, and those that are ours to mend are logged."""

    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientGone:
            logger.info("%s: the client left before its answer", request.url.path)
            return Response(status_code=_CLIENT_GONE)
        except PacelineError as error:
            if status_of(error) >= HTTPStatus.INTERNAL_SERVER_ERROR:
                logger.warning("%s: %s: %s", request.url.path, type(error).__name__, error)
            return error_reply(error)
        except Exception as error:
            logger.exception("%s: a bug", request.url.path)
            return error_reply(error)

    return guarded


async def _refused(request: Request, error: Exception) -> Response:
    """What the router refuses: unknown paths and wrong methods."""
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{request.method} {request.url.path:.200}: wrong method; allowed: {headers.get('Allow', 'none')}"
        return status_reply(error.status_code, message, "method_not_allowed", headers)
    return status_reply(
        error.status_code, f"{request.method} {request.url.path:.200}: there is nothing here", "not_found", headers
    )
