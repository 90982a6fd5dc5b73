"""Pictures of `bench_selection`: how policies learn along a text, by number of drafters, and under delay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from selection_sim import BIN

# What is shipped stands out; learners are blue, bandits warm, what does not learn grey.
STYLES: dict[str, dict[str, Any]] = {
    "best drafter": {"color": "black", "linestyle": "--", "linewidth": 1.2},
    "normalhedge": {"color": "#0b5fa5", "linewidth": 2.6},
    "normalhedge, no discount": {"color": "#7fb2dd", "linewidth": 1.4},
    "adanormalhedge": {"color": "#17a2b8", "linewidth": 1.6},
    "hedge": {"color": "#6c5fc7", "linewidth": 1.4},
    "follow_the_leader": {"color": "#2e8b57", "linewidth": 1.4},
    "thompson": {"color": "#b5179e", "linewidth": 1.4},
    "ucbspec_tuned": {"color": "#e85d04", "linewidth": 1.4},
    "metasd_ucb": {"color": "#d62828", "linewidth": 1.4},
    "epsilon_greedy": {"color": "#c9a227", "linewidth": 1.4},
    "ucbspec": {"color": "#f4a261", "linewidth": 1.2, "linestyle": "-."},
    "exp3spec": {"color": "#bc6c25", "linewidth": 1.2, "linestyle": "-."},
    "uniform": {"color": "#8a8a8a", "linewidth": 1.2, "linestyle": ":"},
}
LEARNING = {  # of the scenarios: a title each
    "7 drafters, 512 tokens": "One drafter is best throughout",
    "a switch half-way": "Another one is best from token 256 on",
}


def _plain(label: str) -> str:
    """A policy's label without the shipped discount, which is not worth a line's length."""
    name, _, rest = label.partition(", ")
    return label if rest == "no discount" else name


def _line(axis: Axes, label: str, x: Sequence[float], y: Sequence[float], marker: str = "") -> None:
    name = _plain(label)
    order = 5 if name == "normalhedge" else 3
    axis.plot(x, y, label=name, marker=marker, markersize=4, zorder=order, **STYLES[name])


def _finish(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=11)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def draw_learning(compared: Mapping[str, Mapping[str, Any]], picture: Path) -> None:
    """Tokens per round along the text, a panel with and one without a switch."""
    figure, axes = pyplot.subplots(1, len(LEARNING), figsize=(13, 5), sharey=True, dpi=110, layout="constrained")
    for axis, (scenario, title) in zip(axes, LEARNING.items(), strict=True):
        for label, row in compared[scenario].items():
            if _plain(label) not in STYLES or _plain(label) in ("hedge", "follow_the_leader"):
                continue
            curve = row["by_position"]
            _line(axis, label, [BIN * (index + 0.5) for index in range(len(curve))], curve)
        _finish(axis, title, "tokens of the answer", "tokens per round")
        if scenario == "a switch half-way":
            axis.axvline(256, color="black", linewidth=0.8, alpha=0.4)
        axis.set_ylim(2.4, 6.0)
        axis.set_xlim(0, None)
    axes[1].set_ylabel("")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=9, frameon=False)
    figure.suptitle("Seven drafters, K = 7, simulated; each text starts from nothing", fontsize=12)
    figure.savefig(picture)
    pyplot.close(figure)


def draw_drafters(widened: Mapping[str, Sequence[Mapping[str, Any]]], counts: Sequence[int], picture: Path) -> None:
    """Tokens per round by number of drafters."""
    figure, axis = pyplot.subplots(figsize=(8.5, 5), dpi=110, layout="constrained")
    for label, cells in widened.items():
        _line(axis, label, counts, [cell["tokens_per_round"] for cell in cells], marker="o")
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.minorticks_off()
    _finish(axis, "What more drafters cost who must try them", "drafters", "tokens per round over 512 tokens")
    figure.legend(loc="outside right center", fontsize=9, frameon=False)
    figure.savefig(picture)
    pyplot.close(figure)


def draw_delays(delayed: Mapping[str, Sequence[Mapping[str, Any]]], columns: Sequence[str], picture: Path) -> None:
    """How far behind the best drafter, by when losses are released, with and without forecasts."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.2), sharey=True, dpi=110, layout="constrained")
    for axis, hinted in zip(axes, ("with", "without"), strict=True):
        rows = {label: cells for label, cells in delayed.items() if label.endswith(f", {hinted} forecast")}
        width = 0.8 / len(rows)
        for place, (label, cells) in enumerate(rows.items()):
            name = _plain(label)
            x = [column + (place - (len(rows) - 1) / 2) * width for column in range(len(cells))]
            heights, errors = [[100 * cell[key] for cell in cells] for key in ("gap", "gap_error")]
            axis.bar(x, heights, width, yerr=errors, label=name, color=STYLES[name]["color"], error_kw={"linewidth": 1})
        axis.set_xticks(range(len(columns)), columns)
        _finish(axis, f"{hinted} the forecast from scores that have come", "the loss of position s is released", "")
    axes[0].set_ylabel("behind the best drafter, %")
    axes[0].legend(fontsize=9, frameon=False)
    figure.savefig(picture)
    pyplot.close(figure)
