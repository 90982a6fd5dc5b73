"""`/v1/paceline/live`: the dashboard's one feed, made once a second and shared by all who watch.

Rounds and requests are counted as they pass (`activity`), viewers or not; the target and the actors are asked only
while somebody watches, the target every other second, all actors now and then and when a drafter came or went: the
drafters that there are now are those of the last `state`. Who comes gets the last minutes first. A viewer that does not
keep up is let go: it comes back, and finds what it missed in the history.
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
from paceline.cluster.activity import HISTORY_S, Activity
from paceline.cluster.backend import Backend, Pulse
from paceline.cluster.config import ClusterConfig

logger = logging.getLogger(__name__)

MAX_VIEWERS = 32
PULSE_EVERY_S = 2
STATE_EVERY_S = 16  # a multiple of it
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
        }
        self._viewers: set[asyncio.Queue[_Message | None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._state: _Message | None = None
        self._pace: deque[Pulse] = deque(maxlen=SPEED_UP_S // PULSE_EVERY_S + 1)
        self._measured: dict[str, Any] = {}  # by the target, when it was last asked
        self._version = -1  # of the requests that were sent last
        self._news = False  # whether a state came that was not sent yet

    @property
    def viewers(self) -> int:
        """How many watch."""
        return len(self._viewers)

    async def watch(self) -> AsyncGenerator[_Message]:
        """The history, then a message a second; `state` (all actors) is in the first, and where it was asked for anew.

        Raises:
            Overloaded: there are as many viewers as are taken.
        """
        if len(self._viewers) >= MAX_VIEWERS:
            raise Overloaded(f"{MAX_VIEWERS} watch already, the most that are fed")
        mine: asyncio.Queue[_Message | None] = asyncio.Queue(_BEHIND)
        self._viewers.add(mine)
        try:
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run())
            if len(self._viewers) == 1 or self._state is None:  # else it is at most a few seconds old
                await self._ask_for_state()
            now = int(self._activity.clock())
            yield {
                **self._about,
                "now": now,
                "state": self._state,
                "points": self._activity.history(now),
                "requests": self._activity.requests(),
            }
            while (message := await mine.get()) is not None:
                yield message
        finally:
            self._viewers.discard(mine)

    async def _run(self) -> None:
        """A message each second, until nobody watches."""
        clock = self._activity.clock
        seconds, at = 0, int(clock())  # the second that is not over
        self._pace.clear()
        while self._viewers:
            while (left_s := at + 1 - clock()) > 0:  # timers may be early
                await self._sleep(left_s)
            if seconds % PULSE_EVERY_S == 0:
                before = self._measured
                self._measured, names = await asyncio.gather(self._measure(), self._backend.drafter_names())
                changed = any(before.get(key) != self._measured.get(key) for key in ("ready", "usable"))
                changed = changed or set(names) != self._told_names()
                if seconds and (changed or seconds % STATE_EVERY_S == 0):
                    self._asking = asyncio.create_task(self._ask_for_state())
            message = self._message(at)
            seconds += 1
            at = max(at + 1, int(clock()) - _BEHIND)
            for viewer in list(self._viewers):
                if viewer.full():
                    while not viewer.empty():
                        viewer.get_nowait()
                    viewer.put_nowait(None)
                    self._viewers.discard(viewer)
                else:
                    viewer.put_nowait(message)

    async def _measure(self) -> dict[str, Any]:
        """What the target says of itself."""
        try:
            pulse = await self._backend.pulse()
        except PacelineError as error:
            logger.warning("the target says nothing of itself: %s", error)
            pulse = None
        if pulse is None:
            return {"ready": False}
        return {
            "ready": True,
            "usable": list(pulse.usable),
            "running": pulse.running,
            "waiting": pulse.waiting,
            "weights": {name: round(weight, 4) for name, weight in pulse.weights.items()},
            "speed_up": self._speed_up(pulse),
            "plain_round_ms": round(pulse.plain_round_ms, 2) or None,
        }

    def _message(self, at: int) -> _Message:
        message: _Message = {"type": "tick", "point": self._activity.point(at, self._measured)}
        if self._news:
            self._news = False
            message["state"] = self._state
        if self._version != self._activity.version:
            self._version = self._activity.version
            message["requests"] = self._activity.requests()
        return message

    def _speed_up(self, pulse: Pulse) -> float | None:
        """Plain decoding's time for the tokens of the last seconds over the time they took; None where none came."""
        if self._pace and self._pace[-1].replica != pulse.replica:
            self._pace.clear()  # another replica answered: its counters are its own
        self._pace.append(pulse)
        took_ms = pulse.decode_ms - self._pace[0].decode_ms
        return round((pulse.plain_ms - self._pace[0].plain_ms) / took_ms, 3) if took_ms > 0 else None

    def _told_names(self) -> set[str]:
        """The drafters of the last state."""
        return {drafter["name"] for drafter in self._state["drafters"]} if self._state else set()

    async def _ask_for_state(self) -> None:
        try:
            self._state = asdict(await self._backend.status())
        except PacelineError as error:
            logger.warning("the live feed shows an old state: %s", error)
        self._news = True
