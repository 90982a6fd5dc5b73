"""The table of metrics in `docs/metrics.md`, made from `names`: `python -m paceline.cluster.metrics.table FILE`.

It stands between two marks in the file; a test checks that it is the newest, as `--check` does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from paceline.actors.errors import ConfigError
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


def filled(document: str) -> str:
    """A document with the newest table between its marks.

    Raises:
        ConfigError: a mark is missing.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"the document has no {BEGIN!r} with {END!r} after it")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Write the table into a file, or check that it is there."""
    parser = argparse.ArgumentParser(description="The table of metrics, made from the one file that names them.")
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; status 1 where the table is not the newest"
    )
    given = parser.parse_args(arguments)
    document = given.file.read_text(encoding="utf-8")
    newest = filled(document)
    if given.check:
        return int(newest != document)
    given.file.write_text(newest, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
