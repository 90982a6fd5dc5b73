"""A server that is stopped ends what it began: running completions get a little time, then an error of OpenAI's shape.

`DrainGate` is the ASGI layer that every request passes; `Drain` is how the ingress says that the end has come. Nothing
here costs a request more than one task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paceline.actors.errors import NotReady
from paceline.cluster.event_stream import ending_events
from paceline.cluster.http_errors import error_reply

FAREWELL_S = 2.0  # that the last words may take; a client that does not read gets none


_owed: ContextVar[Owed | None] = ContextVar("owed", default=None)


def ended_by_server() -> bool:
    """Whether the completion that this is called for was cut because the server is being stopped, not by its client."""
    owed = _owed.get()
    return owed is not None and owed.cut.done() and not owed.cut.cancelled()


class Owed:
    """A completion that has begun. Its futures belong to the event loop that runs it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.cut: asyncio.Future[None] = loop.create_future()  # settled when it has to end
        self.done: asyncio.Future[None] = loop.create_future()  # settled when its last byte was handed over


class Drain:
    """Whether the server is being stopped, and which completions it still owes. All on the endpoint's event loop."""

    def __init__(self) -> None:
        self._began = False
        self._owed: set[Owed] = set()

    def check(self) -> None:
        """See that new requests are taken.

        Raises:
            NotReady: the server is being stopped.
        """
        if self._began:
            raise NotReady("the server is being stopped")

    async def end(self, within_s: float) -> tuple[int, int]:
        """Take no more requests, let those that run end within so many seconds, and end what is left.

        Returns:
            How many ran when this was called, and how many of them had to be ended.
        """
        self._began = True
        owed = set(self._owed)
        if not owed:
            return 0, 0
        await asyncio.wait([item.done for item in owed], timeout=within_s)
        left = [item for item in owed if not item.done.done()]
        for item in left:
            if not item.cut.done():  # it may have been asked before
                item.cut.set_result(None)
        if left:
            await asyncio.wait([item.done for item in left], timeout=FAREWELL_S)
        return len(owed), len(left)

    @contextmanager
    def owing(self) -> Iterator[Owed]:
        """Around a completion; what is begun inside can ask `ended_by_server`."""
        owed = Owed()
        self._owed.add(owed)
        token = _owed.set(owed)
        try:
            yield owed
        finally:
            _owed.reset(token)
            self._owed.discard(owed)
            owed.cut.cancel()
            owed.done.set_result(None)


class DrainGate:
    """The ASGI layer.

    Args:
        app: What answers.
        drain: Says when to end.
        paths: Of completions; requests to other paths pass.
    """

    def __init__(self, app: ASGIApp, drain: Drain, paths: Collection[str]) -> None:
        self._app = app
        self._drain = drain
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse, or end an answer early."""
        if scope["type"] != "http" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        try:
            self._drain.check()
        except NotReady as error:
            await error_reply(error)(scope, receive, send)
            return
        with self._drain.owing() as owed:
            await self._answer(scope, receive, _Sent(send), owed)

    async def _answer(self, scope: Scope, receive: Receive, sent: _Sent, owed: Owed) -> None:
        work = asyncio.ensure_future(self._app(scope, receive, sent))
        try:
            await asyncio.wait((work, owed.cut), return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and sent.may_be_ended:
                work.cancel()
                await asyncio.wait((work,))
                if not sent.ended:
                    await self._farewell(sent, scope, receive)
            else:
                await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _farewell(self, sent: _Sent, scope: Scope, receive: Receive) -> None:
        error = NotReady("the server is being stopped; the answer ends here")
        if sent.streams:
            await sent({"type": "http.response.body", "body": ending_events(error), "more_body": False})
        else:
            await error_reply(error)(scope, receive, sent)


class _Sent:
    """Passes messages on, and knows how far an answer is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False
        self.streams = False  # whether it is a stream of events that has begun
        self.ended = False

    @property
    def may_be_ended(self) -> bool:
        """Whether something may be said in the place of what was to come."""
        return not self.ended and (self.streams or not self._started)

    async def __call__(self, message: Message) -> None:
        await self._send(message)
        if message["type"] == "http.response.start":
            self._started = True
            self.streams = _is_event_stream(message)
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.ended = True


def _is_event_stream(start: Message) -> bool:
    headers: list[tuple[bytes, bytes]] = list(start.get("headers", ()))
    return any(name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)
