"""The picture of a replay: time lost to each oracle against tokens generated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

from paceline.actors.errors import ConfigError
from paceline.cluster.replay.player import Outcome


def plot_regret(shown: Sequence[Outcome], oracles: Sequence[Outcome], picture: Path, title: str) -> None:
    """Draw a panel per oracle, a line per outcome.

    Args:
        shown: Policies, and whatever else is worth a line.
        oracles: What they are compared with.
        picture: PNG to write.
        title: What was replayed.

    Raises:
        ConfigError: the picture cannot be written.
    """
    figure, panels = pyplot.subplots(1, len(oracles), figsize=(6.5 * len(oracles), 4.2), dpi=110, squeeze=False)
    for panel, oracle in zip(panels[0], oracles, strict=True):
        tokens = np.cumsum(oracle.tokens)
        for outcome in shown:
            lost_s = np.cumsum(np.array(outcome.ms) - np.array(oracle.ms)) / 1e3
            style = "--" if outcome.name.startswith("best fixed") else "-"
            panel.plot(np.r_[0, tokens], np.r_[0.0, lost_s], style, label=outcome.name, linewidth=1.4)
        panel.axhline(0.0, color="black", linewidth=0.8)
        panel.set_xlabel("tokens generated")
        panel.set_ylabel("seconds lost")
        panel.set_title(f"against the {oracle.name}")
        panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    try:
        figure.savefig(picture)
    except OSError as error:
        raise ConfigError(f"--plot: {picture}: cannot be written ({error.strerror})") from error
    finally:
        pyplot.close(figure)
