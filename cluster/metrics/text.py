"""Samples in Prometheus's text format 0.0.4, which every scraper reads."""

from __future__ import annotations

from collections import defaultdict

from paceline.actors.latency_histogram import HistogramCount
from paceline.cluster.metrics.names import METRICS, Metric
from paceline.cluster.metrics.samples import Samples, Value

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(samples: Samples) -> str:
    """All samples, in the order of `names`, each metric under its help and type."""
    by_name: dict[str, list[tuple[tuple[str, ...], Value]]] = defaultdict(list)
    for metric, labels, value in samples:
        by_name[metric.name].append((labels, value))
    lines = []
    for metric in METRICS:
        rows = by_name.get(metric.name)
        if rows:
            lines.append(f"# HELP {metric.name} {_escaped(metric.help)}")
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            for labels, value in sorted(rows, key=lambda row: row[0]):
                lines += _rows(metric, labels, value)
    return "\n".join(lines) + "\n"


def _rows(metric: Metric, labels: tuple[str, ...], value: Value) -> list[str]:
    pairs = [f'{name}="{_escaped(text, quote=True)}"' for name, text in zip(metric.labels, labels, strict=True)]
    if not isinstance(value, HistogramCount):
        return [f"{metric.name}{_braced(pairs)} {_number(value)}"]
    rows, total = [], 0
    for bound, count in zip([*map(_number, metric.bounds_s), "+Inf"], value.counts, strict=True):
        total += count
        le = f'le="{bound}"'
        rows.append(f"{metric.name}_bucket{_braced([*pairs, le])} {total}")
    rows.append(f"{metric.name}_sum{_braced(pairs)} {_number(value.sum_s)}")
    rows.append(f"{metric.name}_count{_braced(pairs)} {total}")
    return rows


def _braced(pairs: list[str]) -> str:
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text
