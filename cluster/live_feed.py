"""`/v1/paceline/live`: the dashboard's one feed, made once a second for all who watch, as the text that is sent.

Rounds and requests are counted as they pass (`activity`), viewers or not; the target is asked only while somebody
watches, and all actors now and then and when a drafter came or went: the drafters that there are now are those of the
last `state`. Who comes gets the last minutes first; then a message says what changed. Handing a message over costs two
processes more than making it, so a second in which nothing happened has none, but the silence is never long. A viewer
that does not keep up is let go: it comes back, and finds what it missed in the history.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import asdict
from typing import Any

from paceline.actors.errors import Overloaded, PacelineError
from paceline.actors.latency_histogram import REQUEST_BOUNDS_S
from paceline.cluster.activity import HISTORY_S, RECENT, Activity
from paceline.cluster.backend import Backend, Pulse
from paceline.cluster.config import ClusterConfig
from paceline.cluster.event_stream import to_json
from paceline.cluster.latency_window import WINDOW_S, bucket_percentiles

logger = logging.getLogger(__name__)

MAX_VIEWERS = 32
PULSE_EVERY_S = 2  # while something runs
IDLE_PULSE_S = 4
STATE_EVERY_S = 16
LINGER_S = 6  # after the last round: the page shows means of 5 s
SILENCE_S = 5  # the longest; after 8 s the page takes the link for lost
SPEED_UP_S = 10  # over which a speed-up is measured
_BEHIND = 15  # messages that a viewer may lag
_Message = dict[str, Any]


class LiveFeed:
    """Feeds every viewer of one ingress. Its task runs while there are any.

    Args:
        backend: The cluster.
        activity: What passed through this ingress.
        config: The cluster's settings.
        model_name: The one model that is served.
        sleep: Waits for seconds.
    """

    def __init__(
        self,
        backend: Backend,
        activity: Activity,
        config: ClusterConfig,
        model_name: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._backend = backend
        self._activity = activity
        self._sleep = sleep
        self._about = {
            "type": "hello",
            "server": secrets.token_hex(4),  # another one after a restart
            "model": model_name,
            "policy": config.selector.policy,
            "max_draft": config.speculation.max_draft,
            "history_s": HISTORY_S,
            "recent": RECENT,
        }
        self._viewers: set[asyncio.Queue[str | None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._state: _Message | None = None
        self._pulses: deque[tuple[int, Pulse]] = deque()  # by second, of the last `WINDOW_S`, all of one replica
        self._measured: dict[str, Any] = {}  # by the target, when it was last asked
        self._names: frozenset[str] = frozenset()  # the drafters that it knew then
        self._again = False  # whether the actors are asked once more: who told the target may have been ahead of others
        self._version = self._ended = -1  # of the activity, when requests were sent last
        self._news = True  # whether there is what no message said: a state, a viewer
        self._sent: _Message = {}  # the last point
        self._state_due = 0

    @property
    def viewers(self) -> int:
        """How many watch."""
        return len(self._viewers)

    async def watch(self) -> AsyncGenerator[str]:
        """JSON: the history, then a message for each second in which something changed, and at least every `SILENCE_S`.

        `state` (all actors) is in the first, and where it was asked for anew. A second that no message tells of was
        like the one before it, without rounds.

        Raises:
            Overloaded: there are as many viewers as are taken.
        """
        if len(self._viewers) >= MAX_VIEWERS:
            raise Overloaded(f"{MAX_VIEWERS} watch already, the most that are fed")
        mine: asyncio.Queue[str | None] = asyncio.Queue(_BEHIND)
        self._viewers.add(mine)
        self._news = True
        try:
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run())
            if len(self._viewers) == 1 or self._state is None:  # else it is at most a few seconds old
                await self._ask_for_state()
            now = int(self._activity.clock())
            hello = {
                **self._about,
                "now": now,
                "state": self._state,
                "points": self._activity.history(now),
                "requests": self._activity.requests(),
            }
            yield to_json(hello)
            while (message := await mine.get()) is not None:
                yield message
        finally:
            self._viewers.discard(mine)

    async def _run(self) -> None:
        """A look each second, until nobody watches."""
        clock = self._activity.clock
        at = int(clock())  # the second that is not over
        self._pulses.clear()
        self._measured = {}
        self._state_due = at + STATE_EVERY_S
        pulse_due = busy = at
        while self._viewers:
            while (left_s := at + 1 - clock()) > 0:  # timers may be early
                await self._sleep(left_s)
            if at >= pulse_due:
                await self._look(at)
                pulse_due = at + (PULSE_EVERY_S if at < busy + LINGER_S else IDLE_PULSE_S)
            point = self._activity.point(at, self._measured)
            if point["rounds"] or self._activity.running:
                busy, pulse_due = at, min(pulse_due, at + PULSE_EVERY_S)
            if self._news or at < busy + LINGER_S or at >= self._sent["t"] + SILENCE_S or self._changed(point):
                self._send(point)
            at = max(at + 1, int(clock()) - _BEHIND)

    def _changed(self, point: _Message) -> bool:
        """Whether anything but the time is other than in the last point."""
        return {**self._sent, "t": point["t"]} != point

    def _send(self, point: _Message) -> None:
        message = to_json(self._message(point))
        self._sent = point
        for viewer in list(self._viewers):
            if viewer.full():
                while not viewer.empty():
                    viewer.get_nowait()
                viewer.put_nowait(None)
                self._viewers.discard(viewer)
            else:
                viewer.put_nowait(message)

    async def _look(self, at: int) -> None:
        """Ask the target, and all actors where it says that a drafter came or went, or where it is time."""
        before, names = self._measured, self._names if self._measured else self._told_names()
        self._measured = await self._measure(at)
        changed = self._names != names
        if before:
            changed |= any(before.get(key) != self._measured.get(key) for key in ("ready", "usable"))
        if changed or self._again or at >= self._state_due:
            self._again = changed
            self._state_due = at + STATE_EVERY_S
            self._asking = asyncio.create_task(self._ask_for_state())

    async def _measure(self, at: int) -> dict[str, Any]:
        """What the target says of itself."""
        try:
            pulse = await self._backend.pulse()
        except PacelineError as error:
            logger.warning("the target says nothing of itself: %s", error)
            pulse = None
        if pulse is None:
            return {"ready": False}
        self._names = frozenset(pulse.known)
        if self._pulses and self._pulses[-1][1].replica != pulse.replica:
            self._pulses.clear()  # another replica answered: its counters are its own
        self._pulses.append((at, pulse))
        while self._pulses[0][0] < at - WINDOW_S:
            self._pulses.popleft()
        return {
            "ready": True,
            "usable": list(pulse.usable),
            "running": pulse.running,
            "waiting": pulse.waiting,
            "weights": {name: round(weight, 4) for name, weight in pulse.weights.items()},
            "speed_up": self._speed_up(at, pulse),
            "plain_round_ms": round(pulse.plain_round_ms, 2) or None,
            "plain_sequences": pulse.plain_sequences or None,
            "queue_ms": self._queue_ms(pulse),
        }

    def _message(self, point: _Message) -> _Message:
        message: _Message = {"type": "tick", "point": point}
        if self._news:
            self._news = False
            message["state"] = self._state
        if self._version != self._activity.version:
            message["requests"] = self._activity.requests(max(self._ended, 0))
            self._version, self._ended = self._activity.version, self._activity.ended
        return message

    def _speed_up(self, at: int, pulse: Pulse) -> float | None:
        """Plain decoding's time for the tokens of the last seconds over the time they took; None where none came."""
        first = next(held for when, held in self._pulses if when >= at - SPEED_UP_S)
        took_ms = pulse.decode_ms - first.decode_ms
        return round((pulse.plain_ms - first.plain_ms) / took_ms, 3) if took_ms > 0 else None

    def _queue_ms(self, pulse: Pulse) -> list[float] | None:
        """[p50, p95] of how long those that left the queue in the window had waited; None where none did."""
        before = self._pulses[0][1].queue_counts
        left = [count - earlier for count, earlier in zip(pulse.queue_counts, before, strict=True)]
        return bucket_percentiles(REQUEST_BOUNDS_S, left) if left else None

    def _told_names(self) -> frozenset[str]:
        """The drafters of the last state."""
        return frozenset(drafter["name"] for drafter in self._state["drafters"]) if self._state else frozenset()

    async def _ask_for_state(self) -> None:
        try:
            self._state = asdict(await self._backend.status())
        except PacelineError as error:
            logger.warning("the live feed shows an old state: %s", error)
        self._news = True
