"""The selector's gRPC end: the `Selector` service around one `Selector` core, which it calls under one lock.

Reports come in on a thread of their own per target, so that an update goes out as soon as there is news, and news that
comes faster than updates are sent is told in one. Made by `selector_actor`; tests make it directly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from threading import Condition, Thread
from typing import NoReturn

import grpc

from paceline.actors import selector_wire, snapshot_wire
from paceline.actors.channel import ANY_PORT, GrpcServer, PortRange
from paceline.actors.errors import PacelineError
from paceline.actors.messages import PROTOCOL_VERSION, SelectorSnapshot
from paceline.actors.tracer import span
from paceline.cluster.explanation import Explanation, RequestList
from paceline.cluster.selector import Selector
from paceline.cluster.selector_state import SelectorState
from paceline.protos import paceline_pb2 as pb
from paceline.protos import paceline_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

UPDATE_INTERVAL_S = 0.1  # updates to one target are at least this far apart
UNSETTLED = 256  # messages of scores that wait for a report at most: then their drafters wait
_LOOK_S = 0.25  # how often a quiet stream looks for drafters that fell silent


class SelectorServer(pb_grpc.SelectorServicer):
    """Serves one core.

    Args:
        selector: The core; nothing else may call it.
        host: Address to bind, which targets and drafters must be able to reach.
        token: The shared secret that calls must carry; None asks for none.
        max_message_bytes: Largest message taken or sent.
        heartbeat_s: What drafters are told of when to come again.
        workers: Most streams and calls at once: one stream per target and per drafter, and room for short calls.
        ports: Where to look for a free port.
    """

    def __init__(
        self,
        selector: Selector,
        *,
        host: str,
        token: str | None,
        max_message_bytes: int,
        heartbeat_s: float,
        workers: int = 64,
        ports: PortRange = ANY_PORT,
    ) -> None:
        self._selector = selector
        self._heartbeat_s = heartbeat_s
        self._changed = Condition()  # its lock guards the core
        self._server = GrpcServer(host, token=token, max_message_bytes=max_message_bytes, workers=workers, ports=ports)
        adder: Callable[..., None] = pb_grpc.add_SelectorServicer_to_server
        self._server.add(lambda server: adder(self, server))

    def start(self) -> str:
        """Bind and serve; returns `host:port`.

        Raises:
            ConfigError: the address cannot be bound.
        """
        return self._server.start()

    def stop(self, grace_s: float | None = None) -> None:
        """End all streams, at once or after `grace_s`."""
        self._server.stop(grace_s)

    def follow(self, roster: Mapping[str, bool]) -> None:
        """Let the core take the roster; targets hear of it at once."""
        with self._changed:
            self._selector.follow(roster)
            self._changed.notify_all()

    def snapshot(self) -> SelectorSnapshot:
        """The core's statistics."""
        with self._changed:
            return self._selector.snapshot()

    def explain(self, request: str) -> Explanation | None:
        """One of the newest requests; None where it is not kept."""
        with self._changed:
            return self._selector.requests.explain(request)

    def requests(self, limit: int) -> RequestList:
        """The newest requests."""
        with self._changed:
            return self._selector.requests.newest(limit)

    def state(self) -> SelectorState:
        """What the core knows beyond single sequences."""
        with self._changed:
            return self._selector.state()

    def restore(self, state: SelectorState) -> None:
        """Let the core go on from another life's state."""
        with self._changed:
            self._selector.restore(state)

    def counts(self) -> dict[str, int]:
        """What the core refused or lost, by reason."""
        with self._changed:
            return dict(self._selector.counts)

    # ------------------------------------------------------------ the service; names are the protocol's

    def Register(self, request: pb.Heartbeat, context: grpc.ServicerContext) -> pb.HeartbeatReply:  # noqa: N802
        """Take a heartbeat."""
        try:
            heartbeat = selector_wire.decode_heartbeat(request)
            with self._changed:
                self._selector.register(heartbeat)
                self._changed.notify_all()
        except PacelineError as error:
            _refuse(error, context)
        return pb.HeartbeatReply(version=PROTOCOL_VERSION, interval_s=self._heartbeat_s)

    def Scores(  # noqa: N802
        self, request_iterator: Iterator[pb.ScoreBatch], context: grpc.ServicerContext
    ) -> pb.ScoreSummary:
        """Take one drafter's scores until it hangs up."""
        received = 0
        try:
            for message in request_iterator:
                drafter, scores = selector_wire.decode_scores(message)
                # Without the lock, so that a report never goes before scores that were here first.
                with span("scores", drafter=drafter, positions=len(scores)):
                    self._selector.scores(drafter, scores)
                    if self._selector.unsettled >= UNSETTLED:
                        with self._changed:
                            self._selector.settle()
                received += len(scores)
        except PacelineError as error:
            _refuse(error, context)
        return pb.ScoreSummary(received=received)

    def Weights(  # noqa: N802
        self, request_iterator: Iterator[pb.TargetReports], context: grpc.ServicerContext
    ) -> Iterator[pb.WeightsUpdate]:
        """Take one target's reports and send it updates, until either side hangs up."""
        stream = _TargetStream(self._selector, self._changed)
        if not context.add_callback(stream.end):
            return  # the peer is gone already
        Thread(target=stream.read, args=(request_iterator,), name="target-reports", daemon=True).start()
        try:
            yield from stream.updates()
        finally:
            stream.close()
        if stream.failure is not None:
            _refuse(stream.failure, context)

    def Snapshot(self, request: pb.SnapshotRequest, context: grpc.ServicerContext) -> pb.SnapshotReply:  # noqa: N802
        """Tell the core's statistics."""
        try:
            selector_wire.check_version(request.version)
        except PacelineError as error:
            _refuse(error, context)
        return snapshot_wire.encode_snapshot(self.snapshot())


class _TargetStream:
    """One target's stream: a thread reads its reports, the call's own thread writes its updates."""

    def __init__(self, selector: Selector, changed: Condition) -> None:
        self._selector = selector
        self._changed = changed
        self._connection: int | None = None
        self._ended = False
        self.failure: PacelineError | None = None

    def read(self, messages: Iterator[pb.TargetReports]) -> None:
        """Hand reports to the core until the stream ends; the first one names the target."""
        try:
            for message in messages:
                reports = selector_wire.decode_reports(message)
                if not reports:
                    continue
                with self._changed:
                    if self._ended:
                        return
                    if self._connection is None:
                        self._connection = self._selector.connect(reports[0].target)
                        logger.info("target %s connected", reports[0].target)
                    with span("learn", reports=len(reports)):
                        self._selector.report(self._connection, *reports)
                    self._changed.notify_all()
        except PacelineError as error:
            self.failure = error
        except grpc.RpcError:
            logger.info("a target's stream broke")
        except Exception as error:  # the thread's edge: the target must hear of it rather than wait for ever
            logger.exception("a target's report could not be handled")
            self.failure = PacelineError(f"the report could not be handled: {error}")
        finally:
            self.end()

    def updates(self) -> Iterator[pb.WeightsUpdate]:
        """Updates as there is news, until the stream ends."""
        while True:
            with self._changed:
                self._changed.wait_for(self._has_news, _LOOK_S)
                if self._ended:
                    return
                with span("weights"):
                    update = None if self._connection is None else self._selector.update(self._connection)
            if update is not None:
                yield selector_wire.encode_update(update)
                time.sleep(UPDATE_INTERVAL_S)

    def end(self) -> None:
        """The stream is over: wake the writer. gRPC calls this when the peer is gone."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Let the core forget the stream."""
        with self._changed:
            self._ended = True
            if self._connection is not None:
                self._selector.disconnect(self._connection)
                self._connection = None

    def _has_news(self) -> bool:
        return self._ended or (self._connection is not None and self._selector.pending(self._connection))


def _refuse(error: PacelineError, context: grpc.ServicerContext) -> NoReturn:
    logger.warning("refused a message: %s", error)
    context.abort(error.grpc_code, str(error))
