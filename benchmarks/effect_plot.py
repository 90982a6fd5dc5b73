"""The picture of `bench_effect`: a dot per arm with its standard error, tokens per round and tokens per second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

# Okabe and Ito's colours, which stay apart for every kind of colour vision; what is shipped stands out by weight, too.
COLOURS = {
    "alone": "#0072B2",
    "does not learn": "#777777",
    "bandit": "#D55E00",
    "learns from all": "#009E73",
    "selector": "#000000",
    "oracle": "#CC79A7",
}
MARKERS = ("o", "D", "s", "^")  # by temperature


def draw_effect(
    result: Mapping[str, Any], groups: Mapping[str, str], titles: Sequence[tuple[str, str]], picture: Path
) -> None:
    """Draw it.

    Args:
        result: By temperature (as text), by arm, by panel: `value` and `error`.
        groups: Of each arm, in the order of lines.
        titles: A panel each: the figure's name in `result`, and its title.
        picture: The PNG.
    """
    arms = list(groups)
    figure, axes = pyplot.subplots(
        1, len(titles), figsize=(5.6 * len(titles), 1.4 + 0.29 * len(arms)), dpi=110, sharey=True, squeeze=False
    )
    for axis, (panel, title) in zip(axes[0], titles, strict=True):
        for number, by_arm in enumerate(result.values()):
            _dots(axis, arms, groups, {arm: by_arm[arm][panel] for arm in arms if arm in by_arm}, number)
        axis.set_title(title, fontsize=11)
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0][0].set_yticks(range(len(arms)), arms)
    axes[0][0].set_ylim(len(arms) - 0.5, -0.5)
    for label, arm in zip(axes[0][0].get_yticklabels(), arms, strict=True):
        label.set_color(COLOURS[groups[arm]])
        label.set_fontweight("bold" if groups[arm] == "selector" else "normal")
    handles = [
        pyplot.Line2D([], [], color="#444444", linestyle="", marker=MARKERS[n], fillstyle="none" if n else "full")
        for n in range(len(result))
    ]
    figure.legend(handles, [f"temperature {t}" for t in result], loc="lower center", ncol=len(result), frameon=False)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(picture)
    pyplot.close(figure)


def _dots(
    axis: Axes, arms: Sequence[str], groups: Mapping[str, str], figures: Mapping[str, Mapping[str, Any]], number: int
) -> None:
    for line, arm in enumerate(arms):
        if arm not in figures:
            continue
        axis.errorbar(
            figures[arm]["value"],
            line + 0.22 * number,
            xerr=figures[arm]["error"] or 0.0,
            marker=MARKERS[number],
            fillstyle="none" if number else "full",
            color=COLOURS[groups[arm]],
            markersize=8 if groups[arm] == "selector" else 6,
            elinewidth=1.2,
        )
