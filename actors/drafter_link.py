"""A target's line to one drafter: the Protocol, and the gRPC stream that carries it between processes.

The engine's thread never waits for the network to send, and waits to receive only as long as it says. The stream is
kept up in the background; each time it is made anew `generation` grows, which tells the pool that the sessions of the
stream before are gone. `local_link` is the same line within one process.
"""

from __future__ import annotations

import atexit
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Condition, Event, Thread, Timer
from typing import Any, Protocol

import grpc

from paceline.actors import wire
from paceline.actors.channel import CONNECT_TIMEOUT_S, open_channel
from paceline.actors.drafter_server import SESSION_METHOD
from paceline.actors.errors import ConfigError, LinkDown, ProtocolError
from paceline.actors.messages import DrafterBatch, DrafterReply

OUTBOX_MESSAGES = 64
INBOX_MESSAGES = 64
FIRST_BACKOFF_S = 0.05
LAST_BACKOFF_S = 5.0
EXIT_WAIT_S = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Received:
    """A reply and the moment it arrived, on the clock that the link was given."""

    reply: DrafterReply
    at_s: float


@dataclass(slots=True)
class Traffic:
    """What went over a link since it was made."""

    bytes_sent: int = 0
    bytes_received: int = 0
    connects: int = 0
    breaks: int = 0
    refused: int = 0  # sends that raised LinkDown or ProtocolError


class Link(Protocol):
    """A line to one drafter. One thread uses it; replies come in the order of their messages."""

    traffic: Traffic

    @property
    def up(self) -> bool:
        """Whether messages can be sent now."""
        ...

    @property
    def generation(self) -> int:
        """Grows whenever the drafter may have lost all sessions; 0 before the line was ever up."""
        ...

    def send(self, batch: DrafterBatch) -> None:
        """Send without waiting.

        Raises:
            LinkDown: the line is down, or too many messages are still on their way.
            ProtocolError: the message is over the size limit.
        """
        ...

    def receive(self, timeout_s: float) -> Received | None:
        """The next reply, whatever its round; None where none came in time or the line is down. 0 does not wait.

        Raises:
            ProtocolError: the next thing that came breaks the contract.
        """
        ...

    def close(self) -> None:
        """Give the line up; returns at once."""
        ...


class GrpcLink:
    """One bidirectional stream to a drafter, made anew with exponential back-off whenever it breaks.

    Args:
        drafter: Its name, for logs.
        address: `host:port` of its server.
        token: The shared secret of the cluster.
        max_message_bytes: Largest message sent or taken.
        clock: Stamps what arrives.
    """

    def __init__(
        self,
        drafter: str,
        address: str,
        *,
        token: str | None,
        max_message_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.drafter = drafter
        self.address = address
        self.traffic = Traffic()
        self._token = token
        self._max_message_bytes = max_message_bytes
        self._clock = clock
        self._changed = Condition()
        self._inbox: deque[Received | ProtocolError] = deque()
        self._outbox = _Outbox()
        self._up = False
        self._generation = 0
        self._closed = Event()
        self._call: Any = None
        self._thread = Thread(target=self._keep_up, name=f"drafter-link-{drafter}", daemon=True)
        # A gRPC call that still runs while the interpreter comes down can hold its exit for ever.
        atexit.register(self._finish)
        self._thread.start()

    @property
    def up(self) -> bool:
        """Whether messages can be sent now."""
        return self._up

    @property
    def generation(self) -> int:
        """How many times the stream was made."""
        return self._generation

    def send(self, batch: DrafterBatch) -> None:
        """Send without waiting; see `Link`."""
        try:
            if not self._up:
                raise LinkDown(f"{self.drafter} at {self.address}: not connected")
            data = wire.encode_batch(batch)
            if len(data) > self._max_message_bytes:
                raise ProtocolError(f"message: expected at most {self._max_message_bytes} bytes, got {len(data)}")
            self._outbox.put(data)
        except (LinkDown, ProtocolError):
            self.traffic.refused += 1
            raise
        self.traffic.bytes_sent += len(data)

    def receive(self, timeout_s: float) -> Received | None:
        """The next reply; see `Link`."""
        with self._changed:
            if not self._inbox and timeout_s > 0:
                self._changed.wait_for(lambda: self._inbox or not self._up, timeout_s)
            if not self._inbox:
                return None
            item = self._inbox.popleft()
            if len(self._inbox) == INBOX_MESSAGES - 1:
                self._changed.notify_all()
        if isinstance(item, ProtocolError):
            raise item
        return item

    def close(self) -> None:
        """Give the line up; its thread ends by itself."""
        self._closed.set()
        call = self._call
        if call is not None:
            call.cancel()
        with self._changed:
            self._changed.notify_all()

    def _finish(self) -> None:
        self.close()
        self._thread.join(EXIT_WAIT_S)

    # ------------------------------------------------------------ the link's own thread

    def _keep_up(self) -> None:
        try:
            self._reconnect_until_closed()
        finally:
            atexit.unregister(self._finish)

    def _reconnect_until_closed(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._closed.is_set():
            began = self._generation
            reason = self._run_stream()
            if self._closed.is_set():
                return
            if self._generation != began:
                backoff_s = FIRST_BACKOFF_S
            log.info("%s at %s: %s; again in %.2f s", self.drafter, self.address, reason, backoff_s)
            self._closed.wait(backoff_s)
            backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)

    def _run_stream(self) -> str:
        """Connect and read until the stream ends; returns why it did."""
        # A channel of its own for each attempt: gRPC's shared back-off would otherwise delay a drafter's return.
        try:
            channel = open_channel(self.address, token=self._token, max_message_bytes=self._max_message_bytes)
        except ConfigError as error:  # a member with a senseless address; the pool lives on without it
            return str(error)
        outbox = _Outbox()
        try:
            session: Any = channel.stream_stream(SESSION_METHOD)
            call = session(outbox)
            self._call = call
            if self._closed.is_set():
                call.cancel()
            self._greet(call, outbox)
            for data in call:
                self._take(data)
            return "the drafter ended the stream"
        except grpc.RpcError as error:
            return f"{error.code().name} ({error.details()})"
        finally:
            outbox.close()
            self._mark_down()
            channel.close()

    def _greet(self, call: Any, outbox: _Outbox) -> None:
        """Wait until the server let the stream in, then open for traffic; a refusal shows when reading."""
        too_late = Timer(CONNECT_TIMEOUT_S, call.cancel)
        too_late.daemon = True
        too_late.start()
        call.initial_metadata()
        too_late.cancel()
        if not call.is_active():
            return
        with self._changed:
            self._outbox = outbox
            self._generation += 1
            self._up = True
        self.traffic.connects += 1
        log.info("%s at %s: connected", self.drafter, self.address)

    def _mark_down(self) -> None:
        with self._changed:
            self.traffic.breaks += self._up
            self._up = False
            self._changed.notify_all()

    def _take(self, data: bytes) -> None:
        at_s = self._clock()
        self.traffic.bytes_received += len(data)
        item: Received | ProtocolError
        try:
            item = Received(wire.decode_reply(data), at_s)
        except ProtocolError as error:
            item = error
        with self._changed:
            # Not reading on makes gRPC's flow control hold a drafter that talks too much.
            self._changed.wait_for(lambda: len(self._inbox) < INBOX_MESSAGES or self._closed.is_set())
            self._inbox.append(item)
            self._changed.notify_all()


class _Outbox(Iterator[bytes]):
    """Messages on their way to gRPC's sending thread, bounded."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()

    def put(self, data: bytes) -> None:
        if self._queue.qsize() >= OUTBOX_MESSAGES:
            raise LinkDown(f"{OUTBOX_MESSAGES} messages are waiting to be sent")
        self._queue.put(data)

    def close(self) -> None:
        self._queue.put(None)

    def __next__(self) -> bytes:
        data = self._queue.get()
        if data is None:
            raise StopIteration
        return data
