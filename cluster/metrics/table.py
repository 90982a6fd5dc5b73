"""The table of metrics in `docs/metrics.md`, made from `names`: `python -m paceline.cluster.metrics.table FILE`.

It stands between two marks in the file; a test checks that it is the newest, as `--check` does.
"""

from __future__ import annotations

import sys

from paceline.cluster.marked_text import MarkedText
from paceline.cluster.metrics.names import METRICS

BEGIN = "<!-- metrics: made by `python -m paceline.cluster.metrics.table`; do not edit -->"
END = "<!-- end of metrics -->"


def table() -> str:
    """Every metric, a line each, in Markdown."""
    lines = ["| name | kind | unit | labels | what it tells |", "|---|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.help} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Write it into a file, or check that it is there."""
    return MarkedText(BEGIN, END, table).command(
        "The table of metrics, made from the one file that names them.", arguments
    )


if __name__ == "__main__":
    sys.exit(main())
