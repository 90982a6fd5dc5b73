"""Spans of many processes as one Chrome trace: what Perfetto (ui.perfetto.dev) and chrome://tracing open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paceline.actors.tracer import Span


@dataclass(frozen=True, slots=True)
class ProcessTrace:
    """The spans of one process."""

    name: str  # the actor's
    node: str
    pid: int
    spans: list[Span]


def trace_document(processes: Sequence[ProcessTrace]) -> dict[str, Any]:
    """Lay processes on one time line.

    Processes keep their order. Where a target asked a drafter, an arrow leads to that drafter's span of the same round.

    Returns:
        A document of the Trace Event Format, times in microseconds since the first span.
    """
    starts = [span.start_ns for process in processes for span in process.spans]
    origin_ns = min(starts, default=0)
    events: list[dict[str, Any]] = []
    ends = {_end_of_arrow(process, span) for process in processes for span in process.spans}
    for order, process in enumerate(processes, start=1):
        title = f"{process.name} ({process.node}, pid {process.pid})"
        events.append({"ph": "M", "name": "process_name", "pid": order, "tid": 0, "args": {"name": title}})
        events.append({"ph": "M", "name": "process_sort_index", "pid": order, "tid": 0, "args": {"sort_index": order}})
        threads = {name: index for index, name in enumerate(dict.fromkeys(span.thread for span in process.spans))}
        for name, index in threads.items():
            events.append({"ph": "M", "name": "thread_name", "pid": order, "tid": index, "args": {"name": name}})
        for span in process.spans:
            place = {"pid": order, "tid": threads[span.thread], "ts": (span.start_ns - origin_ns) / 1e3}
            events.append(
                {"ph": "X", "name": span.name, "cat": process.name, "dur": span.duration_ns / 1e3, **place}
                | {"args": span.notes}
            )
            end, number = _end_of_arrow(process, span)
            if end and {("s", number), ("f", number)} <= ends:  # the other end may lie outside the watched time
                # An arrow starts where the target asked and ends where the drafter began to handle it.
                phase = {"ph": "s"} if end == "s" else {"ph": "f", "bp": "e"}
                events.append({**phase, "name": "ask", "cat": "ask", "id": number, **place})
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _end_of_arrow(process: ProcessTrace, span: Span) -> tuple[str, str]:
    """Whether a question left here ("s") or was handled here ("f"), and which one; two empty words for neither."""
    if "ask" not in span.notes:
        return "", ""
    if "drafter" in span.notes:
        return "s", f"{span.notes['drafter']}:{span.notes['ask']}"
    return "f", f"{process.name}:{span.notes['ask']}"
