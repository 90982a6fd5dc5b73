"""What `bench_load` saw, as medians, percentiles and ratios; as tables, and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from bench_clients import percentile
from rich.console import Console
from rich.table import Table

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

CONSOLE = Console(width=140)
LATENCIES = {"first_token_ms": "first token, ms", "gap_ms": "gap, ms", "per_token_ms": "per token, ms"}
SHARES = (50, 95, 99)
RATIOS = (
    ("paceline", "paceline plain"),
    ("paceline", "vllm-ngram"),
    ("paceline", "vllm"),
    ("paceline plain", "vllm"),
)
STYLES: dict[str, dict[str, Any]] = {
    "paceline": {"color": "#0b5fa5", "linewidth": 2.6},
    "paceline plain": {"color": "#7fb2dd", "linewidth": 1.8},
    "vllm-ngram": {"color": "#d9480f", "linewidth": 2.2},
    "vllm": {"color": "#f4a261", "linewidth": 1.8},
}


def summarise(rows: list[dict[str, Any]], names: list[str], levels: list[int]) -> dict[str, Any]:
    """Figures by system and level, and ratios by level.

    Throughput is the median over the repetitions, a ratio the median of the repetitions' ratios, and a latency's
    percentiles are over all answers of all repetitions.
    """
    by_cell: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_cell.setdefault((row["system"], row["level"]), {})[row["repeat"]] = row
    systems = {name: {str(level): _figures([*by_cell[name, level].values()]) for level in levels} for name in names}
    ratios = {
        f"{one} / {other}": {str(level): _ratio(by_cell[one, level], by_cell[other, level]) for level in levels}
        for one, other in RATIOS
        if one in names and other in names
    }
    return {"systems": systems, "ratios": ratios, "held_to": _held_to(ratios)}


def _held_to(ratios: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The two figures that the cluster is held to, where they were measured."""
    own = ratios["paceline / paceline plain"]
    worst = min(own, key=lambda level: own[level])
    held = {"no slower than plain at any level": {"at_least": 0.98, "measured": own[worst], "level": worst}}
    if (at_12 := ratios.get("paceline / vllm-ngram", {}).get("12")) is not None:
        held["faster than vllm-ngram at 12"] = {"at_least": 1.1, "measured": at_12, "level": "12"}
    return held


def _rate(row: dict[str, Any]) -> float:
    return float(row["tokens"] / row["seconds"])


def _ratio(one: dict[int, dict[str, Any]], other: dict[int, dict[str, Any]]) -> float:
    return statistics.median(_rate(one[repeat]) / _rate(other[repeat]) for repeat in one.keys() & other.keys())


def _figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One system at one level."""
    rounds = [row["rounds"] for row in rows if row["rounds"]]
    figures: dict[str, Any] = {
        "tokens_per_s": statistics.median(_rate(row) for row in rows),
        "tokens_per_s_by_repeat": [round(_rate(row), 1) for row in rows],
        "tokens_per_round": sum(row["tokens"] for row in rows) / sum(rounds) if rounds else None,
        "answers": sum(row["answers"] for row in rows),
        "tokens": sum(row["tokens"] for row in rows),
    }
    for name in LATENCIES:
        values = [value for row in rows for value in row[name]]
        figures[name] = {f"p{share}": percentile(values, share / 100) for share in SHARES}
    return figures


def show(summary: dict[str, Any], what: str) -> None:
    """Throughput with ratios, then a table for each latency."""
    systems, ratios = summary["systems"], summary["ratios"]
    levels = list(next(iter(systems.values())))
    _table(f"tokens/s by requests at once, {what}", systems, levels, lambda row: f"{row['tokens_per_s']:.1f}", ratios)
    for name, title in LATENCIES.items():
        _table(
            f"{title}: p50 / p95 / p99",
            systems,
            levels,
            lambda row, name=name: " / ".join(f"{value:.0f}" for value in row[name].values()),
            {},
        )
    for name, figures in summary["held_to"].items():
        verdict = "met" if figures["measured"] >= figures["at_least"] else "NOT MET"
        CONSOLE.print(
            f"{name}: {figures['measured']:.3f} at {figures['level']}, at least {figures['at_least']}: {verdict}"
        )


def _table(
    title: str,
    systems: dict[str, Any],
    levels: list[str],
    text: Callable[[dict[str, Any]], str],
    ratios: dict[str, dict[str, float]],
) -> None:
    table = Table(title=title)
    table.add_column("")
    for level in levels:
        table.add_column(level, justify="right", no_wrap=True)
    for name, by_level in systems.items():
        table.add_row(name, *(text(by_level[level]) for level in levels))
    if ratios:
        table.add_section()
    for name, by_level in ratios.items():
        table.add_row(name, *(f"{by_level[level]:.2f}x" for level in levels))
    CONSOLE.print(table)


def draw(summary: dict[str, Any], picture: Path, cpu: str, cores: int) -> None:
    """Throughput, its ratio to plain decoding, first token and gaps against the requests at once."""
    systems = summary["systems"]
    levels = [int(level) for level in next(iter(systems.values()))]
    figure, ((speed, ratio), (first, gap)) = pyplot.subplots(2, 2, figsize=(12, 8.5), dpi=110, layout="constrained")
    for name, by_level in systems.items():
        rates = [row["tokens_per_s"] for row in by_level.values()]
        speed.plot(levels, rates, label=name, marker="o", markersize=4, **STYLES[name])
        for axis, latency in ((first, "first_token_ms"), (gap, "gap_ms")):
            middle, late = ([row[latency][share] for row in by_level.values()] for share in ("p50", "p95"))
            axis.plot(levels, middle, marker="o", markersize=4, **STYLES[name])
            axis.plot(levels, late, linestyle=":", **{**STYLES[name], "linewidth": 1.4})
    for name, by_level in summary["ratios"].items():
        if name.startswith("paceline /"):
            style = STYLES[name.partition(" / ")[2]]
            ratio.plot(levels, list(by_level.values()), label=name, marker="o", markersize=4, **style)
    ratio.axhline(1.0, color="black", linewidth=0.8)
    _finish(speed, levels, "Throughput", "tokens/s")
    _finish(ratio, levels, "Throughput of paceline over the others'", "ratio")
    _finish(first, levels, "Time to the first token (p50; dotted: p95)", "ms")
    _finish(gap, levels, "Gap between a stream's events (p50; dotted: p95)", "ms")
    first.set_yscale("log")
    speed.set_ylim(bottom=0)
    gap.set_ylim(bottom=0)
    speed.legend(frameon=False)
    ratio.legend(frameon=False, fontsize=9)
    figure.suptitle(f"One load generator over HTTP, mixed domains; {cores} cores, {cpu}", fontsize=12)
    figure.savefig(picture)
    pyplot.close(figure)


def _finish(axis: Axes, levels: list[int], title: str, unit: str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(levels, [str(level) for level in levels])
    axis.minorticks_off()
    axis.set_title(title, fontsize=11)
    axis.set_xlabel("requests at once")
    axis.set_ylabel(unit)
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
