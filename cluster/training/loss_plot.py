"""The picture of a training run: loss, and tokens per round on held-out prompts, against steps and positions seen."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

_SMOOTH = 25  # steps averaged


def plot_training(log: Path, picture: Path, name: str) -> None:
    """Draw a run's log.

    Args:
        log: `loss.jsonl` of `head_training`.
        picture: PNG to write.
        name: For the title.
    """
    steps = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    losses = [step["loss"] for step in steps]
    smooth = [sum(losses[max(0, i - _SMOOTH + 1) : i + 1]) / min(i + 1, _SMOOTH) for i in range(len(losses))]
    measured = [step for step in steps if "tokens_per_round" in step]
    figure, left = pyplot.subplots(figsize=(7, 4), dpi=110)
    left.plot([step["step"] for step in steps], smooth, color="tab:blue")
    left.set_xlabel(f"steps ({steps[-1]['tokens']:,} positions in all)" if steps else "steps")
    left.set_ylabel(f"loss, mean of {_SMOOTH} steps", color="tab:blue")
    right = left.twinx()
    right.plot(
        [step["step"] for step in measured], [step["tokens_per_round"] for step in measured], "o-", color="tab:orange"
    )
    right.set_ylabel("tokens per round, held-out prompts, greedy", color="tab:orange")
    left.set_title(name)
    figure.tight_layout()
    figure.savefig(picture)
    pyplot.close(figure)
