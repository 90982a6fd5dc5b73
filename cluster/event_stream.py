"""Answers that end when their client does: a watched coroutine, and server-sent events.

A client's leaving reaches an ASGI application as a message that someone has to wait for. Servers differ in whether
they also cancel the application (Serve's proxy) or not (uvicorn), so waiting here is what frees the cluster in both.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from paceline.actors.errors import PacelineError
from paceline.actors.tracer import span
from paceline.cluster.http_errors import error_document

logger = logging.getLogger(__name__)

T = TypeVar("T")
_DONE = "data: [DONE]\n\n"
Event = dict[str, Any] | str  # a str is JSON already


class ClientGone(Exception):  # noqa: N818 - named by what happened
    """The client closed the connection before its answer was ready."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, unless the client leaves first.

    Raises:
        ClientGone: it left; the work was cancelled and has ended.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


class EventStream(Response):
    """Server-sent events, `[DONE]` last. However it ends, the events' generator is closed.

    Args:
        first: The first event; whoever made it knows that the request is in order, so the status can be 200.
        rest: The events after it.
    """

    media_type = "text/event-stream"

    def __init__(self, first: Event, rest: AsyncGenerator[Event]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or stop when the client leaves."""
        try:
            await while_connected(receive, self._send(send))
        except (ClientGone, OSError) as error:
            logger.info("a client left its stream (%s)", type(error).__name__)
        finally:
            await self._rest.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send(_message(_line(self._first)))
        try:
            async for event in self._rest:
                with span("send"):
                    await send(_message(_line(event)))
        except PacelineError as error:
            logger.warning("a stream ends with an error: %s", error)
            await send(_message(_line(error_document(error))))
        except OSError:
            raise  # the connection's, not ours
        except Exception as error:
            logger.exception("a stream ends with a bug")
            await send(_message(_line(error_document(error))))
        await send(_message(_DONE, more=False))


def ending_events(error: Exception) -> bytes:
    """What ends a stream that has to be cut: the error, then `[DONE]`."""
    return f"{_line(error_document(error))}{_DONE}".encode()


def to_json(event: Mapping[str, Any]) -> str:
    """An event on one line, as short as it gets."""
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))


def _line(event: Event) -> str:
    return f"data: {event if isinstance(event, str) else to_json(event)}\n\n"


def _message(text: str, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text.encode(), "more_body": more}


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
