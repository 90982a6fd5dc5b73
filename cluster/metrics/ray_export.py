"""Samples by Ray's own metrics: each node's agent then exports them as `ray_paceline_..`, where Ray's users look.

Ray takes events, not totals: a counter is told what it grew by, a histogram each observation. Of a bucket's new ones
only the bucket is known, so its middle is told; Ray's agent does the same once more, so that over this way a
histogram's buckets and count are exact and its sum is not. Each process exports its own; Ray labels it by worker.
"""

from __future__ import annotations

from ray.util import metrics as ray_metrics

from paceline.actors.latency_histogram import HistogramCount
from paceline.cluster.metrics.names import METRICS, Metric
from paceline.cluster.metrics.samples import Key, Samples, Value, growth

_TOTAL = "_total"  # Ray appends it to a counter's name


class RayExport:
    """Tells Ray's metrics of one process what was gathered."""

    def __init__(self) -> None:
        self._told: dict[Key, Value] = {}
        self._made: dict[str, ray_metrics.Counter | ray_metrics.Gauge | ray_metrics.Histogram] = {}

    def publish(self, samples: Samples) -> None:
        """Tell what has changed since the last time; gauges every time, since Ray forgets those that fall silent."""
        for metric, labels, value in samples:
            tags = dict(zip(metric.labels, labels, strict=True))
            known = self._instrument(metric)
            key = metric.name, labels
            if isinstance(known, ray_metrics.Gauge) and not isinstance(value, HistogramCount):
                known.set(value, tags)
                continue
            fresh = key not in self._told
            more = growth(self._told.get(key), value)
            self._told[key] = value
            if isinstance(known, ray_metrics.Counter) and not isinstance(more, HistogramCount):
                if more > 0:
                    known.inc(more, tags)
                elif fresh:
                    known._record(0.0, tags)  # `inc` takes no 0, and without it the first rise cannot be seen
            elif isinstance(known, ray_metrics.Histogram) and isinstance(more, HistogramCount):
                for middle_s, count in zip(middles(metric.bounds_s), more.counts, strict=True):
                    for _ in range(count):
                        known.observe(middle_s, tags)

    def _instrument(self, metric: Metric) -> ray_metrics.Counter | ray_metrics.Gauge | ray_metrics.Histogram:
        made = self._made.get(metric.name)
        if made is None:
            if metric.kind == "histogram":
                made = ray_metrics.Histogram(metric.name, metric.help, list(metric.bounds_s), metric.labels)
            elif metric.kind == "counter":
                made = ray_metrics.Counter(metric.name.removesuffix(_TOTAL), metric.help, metric.labels)
            else:
                made = ray_metrics.Gauge(metric.name, metric.help, metric.labels)
            self._made[metric.name] = made
        return made


def middles(bounds_s: tuple[float, ...]) -> list[float]:
    """A duration in each bucket: its middle; beyond the last bound, twice that."""
    return [(low + high) / 2 for low, high in zip((0.0, *bounds_s), bounds_s, strict=False)] + [2 * bounds_s[-1]]


assert all(metric.kind != "counter" or metric.name.endswith(_TOTAL) for metric in METRICS)
