"""A target's link to the selector: reports out, weights and members in. Implements `WeightsBoard` of `ports`.

The engine's thread only reads what is held and appends to a bounded buffer. One thread keeps the stream, asking afresh
where the selector is whenever it is lost, since a restarted one listens elsewhere. Made by `target_replica`.
"""

from __future__ import annotations

import atexit
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Condition, Event, Thread, Timer
from typing import Any

from paceline.actors import selector_wire
from paceline.actors.channel import CONNECT_TIMEOUT_S, open_channel
from paceline.actors.gathering import ALONE_S, MOST_TOKENS, gather_s
from paceline.actors.held_weights import HeldWeights
from paceline.actors.messages import DraftTiming, Member, RoundContext, SequenceOpened, SequenceRound
from paceline.actors.report_buffer import ReportBuffer
from paceline.protos import paceline_pb2 as pb
from paceline.protos import paceline_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

GRACE_S = 5.0  # time for drafters to find a restarted selector and send it a heartbeat
FIRST_BACK_OFF_S = 0.1
MAX_BACK_OFF_S = 2.0
EXIT_WAIT_S = 2.0
MESSAGE_REPORTS = 32  # in one message, so that its size stays bounded however long the selector was away


class WeightsLink:
    """The board of one target. Its thread starts with it.

    Args:
        resolve: Says where the selector is now (`host:port`); may raise anything while it is nowhere.
        target: The target's name, unique in the cluster.
        default_drafter: Gets all the weight while the selector has not spoken; None leaves it to all members alike.
        token: The shared secret of all gRPC links.
        max_message_bytes: Largest message.
        grace_s: How long drafters known before a reconnection stay members; at least three heartbeats' time.
    """

    def __init__(
        self,
        resolve: Callable[[], str],
        target: str,
        *,
        default_drafter: str | None,
        token: str | None,
        max_message_bytes: int,
        grace_s: float = GRACE_S,
    ) -> None:
        self._resolve = resolve
        self._target = target
        self._token = token
        self._max_message_bytes = max_message_bytes
        self._held = HeldWeights(default_drafter, grace_s, time.monotonic)
        self._reports = ReportBuffer(target)
        self._changed = Condition()  # its lock guards the buffer and whatever writes to the held weights
        self._stream = 0  # number of the stream that may take reports; 0 is none
        self._call: Any = None
        self._stopping = Event()
        self._urgent = Event()  # news that does not wait to be gathered
        self._enough = Event()  # the same, or much of one sequence
        self._thread = Thread(target=self._run, name="weights-link", daemon=True)
        # A gRPC call that still runs while the interpreter comes down can hold its exit for ever.
        atexit.register(self.close)
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether the selector was reached and has not been lost since."""
        return self._stream != 0

    @property
    def rounds_dropped(self) -> int:
        """Rounds that the selector will never hear of, because it was away too long."""
        return self._reports.dropped

    @property
    def weights_number(self) -> int:
        """See `WeightsBoard`."""
        return self._held.number

    def weights(self, seq: int) -> Mapping[str, float]:
        """See `WeightsBoard`."""
        return self._held.weights(seq)

    def lengths(self, seq: int) -> Mapping[str, int]:
        """See `WeightsBoard`."""
        return self._held.lengths(seq)

    def members(self) -> Sequence[Member]:
        """See `WeightsBoard`."""
        return self._held.members()

    def opened(self, sequence: SequenceOpened) -> None:
        """See `WeightsBoard`."""
        with self._changed:
            self._held.opened(sequence.seq, sequence.drafters, named=sequence.named)
            self._reports.opened(sequence)
            self._changed.notify_all()
        self._urgent.set()
        self._enough.set()

    def played(
        self,
        rounds: Sequence[SequenceRound],
        drafts: Sequence[DraftTiming],
        verify_ms: float,
        verify_tokens: int,
        context: RoundContext = RoundContext(),
    ) -> None:
        """See `WeightsBoard`."""
        with self._changed:
            self._reports.played(rounds, drafts, verify_ms, verify_tokens, context)
            self._changed.notify_all()
            enough = self._reports.unsent >= MOST_TOKENS
        if enough:
            self._enough.set()

    def closed(self, seq: int) -> None:
        """See `WeightsBoard`."""
        with self._changed:
            self._held.closed(seq)
            self._reports.closed(seq)
            self._changed.notify_all()

    def close(self) -> None:
        """Give the link up; what is held stays readable."""
        self._stopping.set()
        self._end_stream()
        self._thread.join(timeout=EXIT_WAIT_S)
        atexit.unregister(self.close)

    # ------------------------------------------------------------ the link's own thread

    def _run(self) -> None:
        back_off_s = FIRST_BACK_OFF_S
        number = 0
        while not self._stopping.is_set():
            number += 1
            reached = Event()
            try:
                self._serve(self._resolve(), number, reached)
            except Exception as error:  # noqa: BLE001 - the thread's edge: the resolver may raise whatever Ray does
                if not self._stopping.is_set():
                    reason = selector_wire.reason(error)
                    logger.warning("selector lost or not reached, going by its last word: %s", reason)
            finally:
                self._end_stream()
            back_off_s = FIRST_BACK_OFF_S if reached.is_set() else min(2 * back_off_s, MAX_BACK_OFF_S)
            self._stopping.wait(back_off_s)

    def _serve(self, address: str, number: int, reached: Event) -> None:
        """Connect and take updates until the stream ends."""
        with open_channel(address, token=self._token, max_message_bytes=self._max_message_bytes) as channel:
            with self._changed:
                self._stream = number
            stub = pb_grpc.SelectorStub(channel)  # type: ignore[no-untyped-call] # generated
            call = self._call = stub.Weights(self._messages(number))
            if self._stopping.is_set():
                call.cancel()
            too_late = Timer(CONNECT_TIMEOUT_S, call.cancel)  # a selector answers a new stream at once
            too_late.daemon = True
            too_late.start()
            try:
                for message in call:
                    too_late.cancel()
                    update = selector_wire.decode_update(message)
                    with self._changed:
                        if not reached.is_set():
                            self._held.connected()
                            reached.set()
                            logger.info("selector connected at %s", address)
                        self._held.apply(update, self._reports.live)
            finally:
                too_late.cancel()
                call.cancel()

    def _messages(self, number: int) -> Iterator[pb.TargetReports]:
        """All running sequences, then news as it comes, while this is the current stream. On a thread of gRPC's."""
        with self._changed:
            if self._stream != number:
                return
            reports = [self._reports.new_stream()]
        while True:
            for start in range(0, len(reports), MESSAGE_REPORTS):
                yield selector_wire.encode_reports(reports[start : start + MESSAGE_REPORTS])
            # A new sequence is announced at once: drafters' scores of one that the selector does not know are lost.
            if not self._urgent.wait(ALONE_S):
                self._enough.wait(gather_s(self._reports.running) - ALONE_S)
            self._urgent.clear()
            self._enough.clear()
            with self._changed:
                self._changed.wait_for(lambda: self._reports or self._stream != number)
                if self._stream != number:
                    return
                reports = self._reports.take()

    def _end_stream(self) -> None:
        with self._changed:
            self._stream = 0
            self._held.disconnected()
            self._reports.lost_stream()
            self._changed.notify_all()
            call = self._call
        self._urgent.set()
        if call is not None:
            call.cancel()
