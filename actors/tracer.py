"""What this process did lately, as spans of time: a bounded ring that is always on, since a span costs a microsecond.

Any part of a process calls `span` around a piece of a round; `paceline trace` gathers the rings of all processes and
lays them on one time line. Times are the node's clock, so lines of several nodes agree as well as their clocks do.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType

CAPACITY = 16_384  # spans; some 200 rounds a second for ten seconds

Note = int | float | str


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work. `start_ns` counts from 1970."""

    name: str
    start_ns: int
    duration_ns: int
    thread: str
    notes: dict[str, Note]


class Tracer:
    """A ring of spans. Any thread may add; the newest `capacity` are kept."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._spans: deque[Span] = deque(maxlen=capacity)

    def span(self, name: str, **notes: Note) -> OpenSpan:
        """A context manager that adds what it encloses, also where that raises. `notes` may be added to inside."""
        return OpenSpan(self._spans, name, notes)

    def since(self, start_ns: int) -> list[Span]:
        """Spans that ended after a moment, in the order in which they ended."""
        while True:
            try:
                held = list(self._spans)
            except RuntimeError:  # another thread added one meanwhile
                continue
            return [span for span in held if span.start_ns + span.duration_ns > start_ns]


class OpenSpan:
    """A span that has not ended."""

    __slots__ = ("_name", "_ring", "_start_ns", "notes")

    def __init__(self, ring: deque[Span], name: str, notes: dict[str, Note]) -> None:
        self._ring = ring
        self._name = name
        self.notes = notes

    def __enter__(self) -> OpenSpan:
        self._start_ns = time.time_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        duration_ns = time.time_ns() - self._start_ns
        self._ring.append(Span(self._name, self._start_ns, duration_ns, threading.current_thread().name, self.notes))


TRACER = Tracer()  # the process's own, as its root logger is
span = TRACER.span
