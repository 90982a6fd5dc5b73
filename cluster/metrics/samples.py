"""Values of metrics at one moment, and how those of several processes, or of one that restarted, become one.

A process's metrics are gathered into `Samples` every few seconds; both ways out (`text`, `ray_export`) read these.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator

from paceline.actors.latency_histogram import HistogramCount
from paceline.cluster.metrics.names import BY_NAME, Metric

Key = tuple[str, tuple[str, ...]]  # a metric's name, and its labels' values in order
Value = float | HistogramCount

MOST_SILENT = 64  # processes remembered that are silent, and may only have been late


class Samples:
    """Values by metric and labels."""

    def __init__(self) -> None:
        self.values: dict[Key, Value] = {}

    def __iter__(self) -> Iterator[tuple[Metric, tuple[str, ...], Value]]:
        """Each metric, its labels' values, and its value."""
        for (name, labels), value in self.values.items():
            yield BY_NAME[name], labels, value

    def add(self, metric: Metric, value: Value, *labels: str) -> None:
        """Put a value; counters and histograms of the same labels add up, of gauges the last counts.

        Raises:
            ValueError: there are more or fewer labels than the metric has, or a histogram's value is of other bounds.
        """
        if len(labels) != len(metric.labels):
            raise ValueError(f"{metric.name}: labels {labels}; expected {metric.labels}")
        if isinstance(value, HistogramCount) != (metric.kind == "histogram") or (
            isinstance(value, HistogramCount) and len(value.counts) != len(metric.bounds_s) + 1
        ):
            raise ValueError(f"{metric.name}: {value}; expected the value of a {metric.kind}")
        key = metric.name, labels
        held = self.values.get(key)
        self.values[key] = value if held is None or metric.kind == "gauge" else plus(held, value)

    def encode(self) -> bytes:
        """As JSON."""
        rows = [
            [name, labels, [value.counts, value.sum_s] if isinstance(value, HistogramCount) else value]
            for (name, labels), value in self.values.items()
        ]
        return json.dumps(rows).encode()

    @classmethod
    def decode(cls, data: bytes) -> Samples:
        """What `encode` made; metrics of another version of paceline are left out."""
        samples = cls()
        for name, labels, value in json.loads(data):
            if name in BY_NAME:
                held = HistogramCount(tuple(value[0]), value[1]) if isinstance(value, list) else float(value)
                samples.add(BY_NAME[name], held, *labels)
        return samples


class Totals:
    """Samples of several processes as one: counters go on growing where a process restarts from 0 or goes for good."""

    def __init__(self) -> None:
        self._last: dict[str, Samples] = {}  # the one that was heard of longest ago first
        self._silent: set[str] = set()
        self._grown: dict[Key, Value] = {}

    def take(self, source: str, samples: Samples) -> None:
        """Note the newest samples of one process."""
        before = self._last.pop(source, Samples()).values
        for metric, labels, value in samples:
            if metric.kind != "gauge":
                key = metric.name, labels
                more = growth(before.get(key), value)
                held = self._grown.get(key)
                self._grown[key] = more if held is None else plus(held, more)
        self._last[source] = samples
        self._silent.discard(source)

    def keep(self, sources: Container[str]) -> None:
        """Tell no gauges of other processes than these; what they counted stays counted."""
        self._silent = {source for source in self._last if source not in sources}
        for source in list(self._last):  # one that comes back after so many others counts from 0
            if len(self._silent) > MOST_SILENT and source in self._silent:
                self._silent.remove(source)
                del self._last[source]

    def samples(self) -> Samples:
        """All of it."""
        whole = Samples()
        whole.values.update(self._grown)
        for source, samples in self._last.items():
            for metric, labels, value in samples:
                gauge = metric.kind == "gauge" and source not in self._silent
                if gauge and not isinstance(value, HistogramCount):
                    held = whole.values.get((metric.name, labels))
                    if isinstance(held, float | int):
                        value = max(held, value) if metric.gathered == "max" else held + value
                    whole.values[metric.name, labels] = value
        return whole


def plus(one: Value, other: Value) -> Value:
    """Both together."""
    if isinstance(one, HistogramCount) and isinstance(other, HistogramCount):
        counts = tuple(a + b for a, b in zip(one.counts, other.counts, strict=True))
        return HistogramCount(counts, one.sum_s + other.sum_s)
    assert not isinstance(one, HistogramCount)
    assert not isinstance(other, HistogramCount)
    return one + other


def growth(before: Value | None, now: Value) -> Value:
    """How much a counter or histogram has grown; one that is smaller than before began anew at 0."""
    if before is None:
        return now
    if isinstance(before, HistogramCount) and isinstance(now, HistogramCount):
        if any(a < b for a, b in zip(now.counts, before.counts, strict=True)):
            return now
        counts = tuple(a - b for a, b in zip(now.counts, before.counts, strict=True))
        return HistogramCount(counts, now.sum_s - before.sum_s)
    assert not isinstance(before, HistogramCount)
    assert not isinstance(now, HistogramCount)
    return now if now < before else now - before
