"""What passed through this ingress lately: rounds by the second, and the last requests. Counts and times, no text.

`completion` tells it of each round as it writes it, so nobody is asked for anything, and without a viewer it costs a
few additions a round; `live_feed` reads it. Memory is bounded: so many seconds, so many requests, so many samples.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Any

from paceline.actors.errors import PacelineError
from paceline.actors.generation import Chunk, Generation
from paceline.cluster.drain_gate import ended_by_server
from paceline.cluster.latency_window import LatencyWindow
from paceline.cluster.speculation_report import PLAIN

HISTORY_S = 300
RECENT = 24  # requests that ended, kept
RUNNING = 16  # requests that run, shown


@dataclass(slots=True)
class Second:
    """One second's rounds. `judged[d][i]` of drafter d's tokens at place i of a draft were reached by verification, and
    `accepted[d][i]` of those accepted."""

    tokens: int = 0
    rounds: Counter[str] = field(default_factory=Counter)
    judged: dict[str, list[int]] = field(default_factory=dict)
    accepted: dict[str, list[int]] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)  # what others measured in it: latencies, the target's state

    def add(self, chunk: Chunk, tokens: int) -> None:
        """Count one round that brought so many tokens."""
        self.tokens += tokens
        self.rounds[chunk.drafter or PLAIN] += 1
        if chunk.drafted:
            ended_inside = chunk.finish_reason is not None and len(chunk.token_ids) <= chunk.accepted
            judged = chunk.accepted if ended_inside else min(chunk.accepted + 1, chunk.drafted)
            _count(self.judged.setdefault(chunk.drafter, []), judged)
            _count(self.accepted.setdefault(chunk.drafter, []), chunk.accepted)

    def as_dict(self) -> dict[str, Any]:
        """As the feed sends it."""
        return {
            "tokens": self.tokens,
            "rounds": dict(self.rounds),
            "judged": self.judged,
            "accepted": self.accepted,
            **self.measured,
        }


def _count(places: list[int], length: int) -> None:
    places.extend([0] * (length - len(places)))
    for place in range(length):
        places[place] += 1


class WatchedRequest:
    """One generation under way; a context manager that notes its end, whatever it is."""

    def __init__(self, activity: Activity, generation: Generation) -> None:
        self._activity = activity
        self._streamed = generation.streamed
        self.id = generation.request_id
        self.began_s = activity.clock()
        self.first_s: float | None = None
        self.last_s = self.began_s
        self.tokens = 0
        self.rounds: Counter[str] = Counter()
        self.state = "running"

    def __enter__(self) -> WatchedRequest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.state == "running":
            left = "server stopped" if ended_by_server() else "client left"
            self.state = "error" if isinstance(error, PacelineError) else left
        else:
            now = self._activity.clock()
            self._activity.latencies.whole(now, (now - self.began_s) * 1e3)
        self._activity.over(self)

    def round(self, chunk: Chunk, tokens: int) -> None:
        """Count a round that brought so many tokens.

        Only where rounds are handed over at once does the time between them tell what a client waits.
        """
        now = self._activity.clock()
        if self._streamed:
            latencies = self._activity.latencies
            if self.first_s is None:
                latencies.first(now, (now - self.began_s) * 1e3)
            elif tokens:
                latencies.tokens(now, (now - self.last_s) * 1e3 / tokens, tokens)
        if self.first_s is None:
            self.first_s = now
        self.last_s = now
        self.tokens += tokens
        self.rounds[chunk.drafter or PLAIN] += 1
        self._activity.second(now).add(chunk, tokens)

    def ended(self, reason: str) -> None:
        """It came to its end."""
        self.state = reason

    def as_dict(self) -> dict[str, Any]:
        """As the feed sends it: `tokens_per_s` is over the whole request, queue and prompt included."""
        taken_s = max(self.last_s - self.began_s, 1e-9)
        rounds = self.rounds.total()
        return {
            "id": self.id,
            "at": round(self.began_s, 1),
            "state": self.state,
            "tokens": self.tokens,
            "tokens_per_s": round(self.tokens / taken_s, 1) if rounds else None,
            "tokens_per_round": round(self.tokens / rounds, 2) if rounds else None,
            "ttft_ms": None if self.first_s is None else round((self.first_s - self.began_s) * 1e3),
            "rounds": dict(self.rounds.most_common()),
        }


class Activity:
    """The last minutes and the last requests of one ingress. Called by its event loop only.

    `version` grows with each change to a request, `ended` with each that is over.

    Args:
        clock: Seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.latencies = LatencyWindow()
        self.version = 0
        self.ended = 0
        self._seconds: OrderedDict[int, Second] = OrderedDict()
        self._running: OrderedDict[str, WatchedRequest] = OrderedDict()
        self._recent: deque[WatchedRequest] = deque(maxlen=RECENT)

    @property
    def running(self) -> int:
        """Generations under way, those that wait included."""
        return len(self._running)

    def watch(self, generation: Generation) -> WatchedRequest:
        """A generation begins."""
        request = self._running[generation.request_id] = WatchedRequest(self, generation)
        self.version += 1
        return request

    def over(self, request: WatchedRequest) -> None:
        """A generation is over."""
        self._running.pop(request.id, None)
        self._recent.appendleft(request)
        self.ended += 1
        self.version += 1

    def second(self, now: float) -> Second:
        """The present second's counts."""
        self.version += 1
        at = int(now)
        second = self._seconds.get(at)
        if second is None:
            if self._seconds:
                self._close(*next(reversed(self._seconds.items())))
            second = self._seconds[at] = Second()
            while next(iter(self._seconds)) <= at - HISTORY_S:
                self._seconds.popitem(last=False)
        return second

    def point(self, at: int, measured: dict[str, Any]) -> dict[str, Any]:
        """A second that is over, with what else was measured in it. One without rounds is not kept."""
        second = self._seconds.get(at) or Second()
        second.measured.update(measured)
        self._close(at, second)
        return {"t": at, **second.as_dict()}

    def history(self, before: int) -> list[dict[str, Any]]:
        """Seconds in which something happened, of the last `HISTORY_S` before a second, the oldest first."""
        kept = [(at, second) for at, second in self._seconds.items() if before - HISTORY_S <= at < before]
        return [{"t": at, **second.as_dict()} for at, second in kept]

    def _close(self, at: int, second: Second) -> None:
        if "token_ms" not in second.measured:
            second.measured.update(self.latencies.percentiles(at + 1.0))

    def requests(self, ended_since: int = 0) -> dict[str, list[dict[str, Any]]]:
        """Requests that `run`, and those that `ended` after so many had, of the last ones; the newest of each first."""
        newest = min(self.ended - ended_since, len(self._recent))
        return {
            "running": [request.as_dict() for request in islice(reversed(self._running.values()), RUNNING)],
            "ended": [request.as_dict() for request in islice(self._recent, newest)],
        }
