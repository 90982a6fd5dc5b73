"""A drafter's gRPC end: the `Drafter` service around a host of sessions.

Several targets may connect, one stream each; the host sees one batch at a time. Bad messages get a `Failure` and the
stream goes on. Sessions belong to the stream that opened them last, and end with it: a dead target frees its caches,
and a target that already came back on a new stream keeps what it opened there.
Made by `drafter_actor`; tests put fake hosts behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any, Protocol

import grpc

from paceline.actors import wire
from paceline.actors.channel import ANY_PORT, GrpcServer, PortRange
from paceline.actors.errors import ProtocolError
from paceline.actors.messages import PROTOCOL_VERSION, DrafterBatch, DrafterReply, Failure, Score
from paceline.protos import paceline_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Drafter"].full_name
SESSION_METHOD = f"/{SERVICE}/Session"

log = logging.getLogger(__name__)


class Host(Protocol):
    """What holds the sessions (`drafter_host.DrafterHost`)."""

    def handle(self, batch: DrafterBatch) -> tuple[DrafterReply, list[Score]]:
        """Do what a batch asks; called by one thread at a time."""
        ...


def answer(host: Host, batch: DrafterBatch) -> tuple[DrafterReply, list[Score]]:
    """Hand a batch to a host; what it raises becomes an INTERNAL failure of the whole batch."""
    try:
        return host.handle(batch)
    except Exception as error:  # the boundary between a peer's message and a drafter kind's own code
        log.exception("drafter failed on a batch of round %d", batch.round)
        failure = Failure("INTERNAL", f"{type(error).__name__}: {error}", _sequences(batch))
        return DrafterReply(batch.round, failures=[failure]), []


class DrafterServer:
    """Serves one host's sessions.

    Args:
        sessions: Holds the sessions.
        on_scores: Takes every batch's scores, after its reply was sent; must not block.
        host: Address to bind, which targets must be able to reach.
        token: The shared secret that calls must carry; None asks for none.
        max_message_bytes: Largest message taken or sent.
        max_targets: Most streams at once.
        ports: Where to look for a free port.
    """

    def __init__(
        self,
        sessions: Host,
        on_scores: Callable[[list[Score]], None],
        *,
        host: str,
        token: str | None,
        max_message_bytes: int,
        max_targets: int = 64,
        ports: PortRange = ANY_PORT,
    ) -> None:
        self._sessions = sessions
        self._on_scores = on_scores
        self._handling = Lock()
        self._owners: dict[int, object] = {}  # seq -> the stream that opened it last
        self._server = GrpcServer(
            host, token=token, max_message_bytes=max_message_bytes, workers=max_targets, ports=ports
        )
        # Bytes in, bytes out: what is no message at all then gets a Failure too, instead of ending the stream.
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Session": grpc.stream_stream_rpc_method_handler(self._session)
        }
        generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
        self._server.add(lambda server: server.add_generic_rpc_handlers((generic,)))

    def start(self) -> str:
        """Bind and serve; returns `host:port`.

        Raises:
            ConfigError: the address cannot be bound.
        """
        return self._server.start()

    def stop(self, grace_s: float | None = None) -> None:
        """End all streams, at once or after `grace_s`."""
        self._server.stop(grace_s)

    def _session(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        stream = object()
        context.send_initial_metadata(())  # tells the target that it is let in
        try:
            for data in messages:
                scores: list[Score] = []
                try:
                    reply, scores = self._reply(data, stream)
                    if reply is not None:
                        yield reply
                finally:  # also where the stream broke while the reply was on its way
                    if scores:
                        self._on_scores(scores)
        finally:
            self._release(stream)

    def _reply(self, data: bytes, stream: object) -> tuple[bytes | None, list[Score]]:
        round_number = 0
        try:
            message = wire.parse_batch(data)
            round_number = message.round
            if message.version != PROTOCOL_VERSION:
                text = f"version: expected {PROTOCOL_VERSION}, got {message.version}"
                return wire.encode_reply(DrafterReply(round_number, failures=[Failure("VERSION", text)])), []
            batch = wire.decode_batch(message)
        except ProtocolError as error:
            log.warning("refused a target's message: %s", error)
            return wire.encode_reply(DrafterReply(round_number, failures=[Failure("INVALID", str(error))])), []
        with self._handling:
            reply, scores = answer(self._sessions, batch)
            self._own(batch, reply, stream)
        return (_encode(reply) if reply else None), scores

    def _own(self, batch: DrafterBatch, reply: DrafterReply, stream: object) -> None:
        refused = {seq for failure in reply.failures for seq in failure.seqs}
        for opened in batch.opens:
            if opened.seq not in refused:
                self._owners[opened.seq] = stream
        for seq in batch.closes:
            self._owners.pop(seq, None)

    def _release(self, stream: object) -> None:
        with self._handling:
            orphans = [seq for seq, owner in self._owners.items() if owner is stream]
            if orphans:
                log.info("a target's stream ended: closing its %d sessions", len(orphans))
                answer(self._sessions, DrafterBatch(closes=orphans))
            for seq in orphans:
                del self._owners[seq]


def _encode(reply: DrafterReply) -> bytes:
    try:
        return wire.encode_reply(reply)
    except (ValueError, TypeError, ProtocolError) as error:
        # Protobuf refuses, say, a negative id: the drafter kind is at fault, not the stream.
        log.exception("drafter made a reply that cannot be sent")
        seqs = [draft.seq for draft in reply.drafts]
        return wire.encode_reply(DrafterReply(reply.round, failures=[Failure("INTERNAL", f"bad reply: {error}", seqs)]))


def _sequences(batch: DrafterBatch) -> list[int]:
    opens, commits = [o.seq for o in batch.opens], [c.seq for c in batch.commits]
    return list(dict.fromkeys([*opens, *commits, *(p.seq for p in batch.proposes)]))
