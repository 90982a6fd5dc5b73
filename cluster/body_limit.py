"""ASGI middleware: request bodies above a limit get 413, whether or not they announce their length.

The body is read before the application runs, and handed to it in one message. One that is too large is read to its
end and dropped, within bounds, before the answer: a client that is still writing when the connection closes would see
a reset instead of the reason.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paceline.actors.errors import BodyTooLarge
from paceline.cluster.http_errors import error_reply

_DRAIN_BYTES = 64 * 1024 * 1024
_DRAIN_S = 10.0


class BodyLimit:
    """Wraps an application.

    Args:
        app: The application.
        max_bytes: Largest body that it gets to see.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self._max_bytes:
            await self._refuse(scope, receive, send, waits="expect" in headers, read=0)
            return
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                read, body = len(body), bytearray()
                await self._refuse(scope, receive, send, waits=not more, read=read)
                return
        await self._app(scope, _replay(bytes(body), receive), send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, *, waits: bool, read: int) -> None:
        """Answer 413. A client that `waits` for the answer has no more to send."""
        if not waits:
            try:
                async with asyncio.timeout(_DRAIN_S):
                    await _drain(receive, _DRAIN_BYTES - read)
            except TimeoutError:
                pass  # answered all the same; the connection closes with it
        reply = error_reply(BodyTooLarge(f"the body is larger than {self._max_bytes} bytes, the most that is read"))
        reply.headers["Connection"] = "close"
        await reply(scope, receive, send)


async def _drain(receive: Receive, most_bytes: int) -> None:
    more = True
    while more and most_bytes > 0:
        message = await receive()
        more = message["type"] == "http.request" and message.get("more_body", False)
        most_bytes -= len(message.get("body", b""))


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that begins with the whole body."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
