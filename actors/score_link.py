"""A drafter's link to the selector: heartbeats, and the scores of every committed position.

The drafter hands over scores and goes on; a full queue drops the oldest and says how many in the next heartbeat. One
thread keeps the link, asking afresh where the selector is whenever it is lost, since a restarted one listens elsewhere.
Made by `drafter_actor`; imports no model code.
"""

from __future__ import annotations

import atexit
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from threading import Condition, Event, Thread
from typing import Any

from paceline.actors import selector_wire
from paceline.actors.channel import open_channel
from paceline.actors.gathering import ALONE_S, MOST_TOKENS, gather_s
from paceline.actors.messages import Heartbeat, Score
from paceline.protos import paceline_pb2 as pb
from paceline.protos import paceline_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

MAX_QUEUED = 8192  # scores
MAX_BATCH = 1024  # scores in one message
FIRST_BACK_OFF_S = 0.1
MAX_BACK_OFF_S = 2.0
CALL_TIMEOUT_S = 5.0
EXIT_WAIT_S = 2.0


class ScoreLink:
    """Sends one drafter's scores and heartbeats.

    Args:
        resolve: Says where the selector is now (`host:port`); may raise anything while it is nowhere.
        heartbeat: The drafter's present state; `scores_dropped` is filled in here.
        token: The shared secret of all gRPC links.
        max_message_bytes: Largest message.
        interval_s: Time between heartbeats until the selector says another.
        max_queued: Most scores that wait.
    """

    def __init__(
        self,
        resolve: Callable[[], str],
        heartbeat: Callable[[], Heartbeat],
        *,
        token: str | None,
        max_message_bytes: int,
        interval_s: float,
        max_queued: int = MAX_QUEUED,
    ) -> None:
        self._resolve = resolve
        self._heartbeat = heartbeat
        self._token = token
        self._max_message_bytes = max_message_bytes
        self._interval_s = interval_s
        self._queue: deque[Score] = deque()
        self._max_queued = max_queued
        self._changed = Condition()
        self._stream = 0  # number of the stream that may take scores; 0 is none
        self._stopping = Event()
        self._enough = Event()  # much of one sequence is queued, or the stream is over
        self._unsent: Counter[int] = Counter()  # positions by sequence
        self.dropped = 0
        self._thread = Thread(target=self._run, name="score-link", daemon=True)

    def start(self) -> None:
        """Begin to heartbeat: from now on the drafter may be asked for drafts."""
        # A gRPC call that still runs while the interpreter comes down can hold its exit for ever.
        atexit.register(self.close)
        self._thread.start()

    def put(self, scores: Sequence[Score]) -> None:
        """Queue scores; never waits for the selector."""
        if not scores:
            return
        with self._changed:
            self._queue.extend(scores)
            for score in scores:
                self._unsent[score.seq] += len(score.gammas)
                if self._unsent[score.seq] >= MOST_TOKENS:
                    self._enough.set()
            while len(self._queue) > self._max_queued:
                self._queue.popleft()
                self.dropped += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Stop the link; what is queued is not sent."""
        self._stopping.set()
        self._end_stream()
        if self._thread.is_alive():
            self._thread.join(timeout=EXIT_WAIT_S)
        atexit.unregister(self.close)

    def _run(self) -> None:
        back_off_s = FIRST_BACK_OFF_S
        streams = 0
        while not self._stopping.is_set():
            streams += 1
            reached = Event()
            try:
                self._serve(self._resolve(), streams, reached)
            except Exception as error:  # noqa: BLE001 - the thread's edge: the resolver may raise whatever Ray does
                logger.warning(
                    "selector not reached, trying again in %.1f s: %s", back_off_s, selector_wire.reason(error)
                )
            finally:
                self._end_stream()
            back_off_s = FIRST_BACK_OFF_S if reached.is_set() else min(2 * back_off_s, MAX_BACK_OFF_S)
            self._stopping.wait(back_off_s)

    def _serve(self, address: str, number: int, reached: Event) -> None:
        """Heartbeat and stream scores until either fails."""
        with open_channel(address, token=self._token, max_message_bytes=self._max_message_bytes) as channel:
            stub = pb_grpc.SelectorStub(channel)  # type: ignore[no-untyped-call] # generated
            drafter = self._beat(stub)  # first, so that the selector knows whose scores come
            reached.set()
            with self._changed:
                self._stream = number
            over = Event()
            stream: Any = stub.Scores.future(self._batches(drafter, number))
            stream.add_done_callback(lambda _: over.set())
            try:
                while not over.wait(self._interval_s) and not self._stopping.is_set():
                    self._beat(stub)
                if not self._stopping.is_set():
                    stream.result(timeout=0)  # raises what ended it
            finally:
                stream.cancel()

    def _beat(self, stub: pb_grpc.SelectorStub) -> str:
        heartbeat = replace(self._heartbeat(), scores_dropped=self.dropped)
        reply: pb.HeartbeatReply = stub.Register(selector_wire.encode_heartbeat(heartbeat), timeout=CALL_TIMEOUT_S)
        selector_wire.check_version(reply.version)
        if reply.interval_s > 0:
            self._interval_s = reply.interval_s
        return heartbeat.drafter

    def _batches(self, drafter: str, number: int) -> Iterator[pb.ScoreBatch]:
        """All that is queued, as it comes, while this is the current stream. Runs on a thread of gRPC's."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stream != number)
                if self._stream != number:
                    return
                scores = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
                sequences = len(self._unsent)
                self._unsent.clear()
                self._enough.clear()
                more = bool(self._queue)
            yield selector_wire.encode_scores(drafter, scores)
            if not more and not self._stopping.wait(ALONE_S):
                self._enough.wait(gather_s(sequences) - ALONE_S)

    def _end_stream(self) -> None:
        with self._changed:
            self._stream = 0
            self._changed.notify_all()
        self._enough.set()
