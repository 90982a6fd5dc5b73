"""`paceline trace`: what every process of a running cluster does for some seconds, as one time line, and its shares."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from paceline.actors.errors import ConfigError
from paceline.cluster.client import Client

ROUND = "round"


def trace(url: str, seconds: float, output: Path, console: Console | None = None) -> int:
    """Write the trace and print what a round consists of. Returns 0, or 1 where no round was played meanwhile.

    Args:
        url: Where the endpoint is.
        seconds: How long to watch.
        output: File to write, in the Trace Event Format.
        console: Where to print; default standard output.

    Raises:
        PacelineError: nothing answers, or not paceline, or it refuses `seconds`.
        ConfigError: the file cannot be written.
    """
    console = console or Console()
    with Client(url) as client:
        client.models()  # before a file is made for nothing
        fresh = output.with_name(output.name + ".part")
        try:
            fresh.touch()
            with console.status(f"watching for {seconds:g} s"):
                document = client.trace(seconds)
            fresh.write_text(json.dumps(document), encoding="utf-8")
            fresh.replace(output)
        except OSError as error:
            raise ConfigError(f"--output: {output}: cannot be written ({error.strerror})") from error
        finally:
            fresh.unlink(missing_ok=True)
    events = [event for event in document["traceEvents"] if event["ph"] == "X"]
    covered_s = max((event["ts"] + event["dur"] for event in events), default=0.0) / 1e6
    rounds = [event for event in events if event["name"] == ROUND]
    console.print(
        f"{len(events)} spans over {covered_s:.1f} s in {output}; open it in ui.perfetto.dev", highlight=False
    )
    if not rounds:
        console.print("no round was played meanwhile: send a request while it watches")
        return 1
    console.print(breakdown(events, rounds))
    return 0


def breakdown(events: list[dict[str, Any]], rounds: list[dict[str, Any]]) -> Table:
    """Every kind of span: how often, its median, and for the parts of a round their share of all rounds' time.

    `other` is what lies in a round and in none of its parts.
    """
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("process", "span", "count", "median ms", "of rounds"):
        table.add_column(column, justify="left" if column in ("process", "span") else "right")
    engine = rounds[0]["pid"], rounds[0]["tid"]
    total = sum(event["dur"] for event in rounds)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for event in events:
        groups.setdefault((event["cat"], event["name"]), []).append(event)
    inside = 0.0
    for (process, name), group in groups.items():
        spent = sum(event["dur"] for event in group)
        within = (group[0]["pid"], group[0]["tid"]) == engine and name != "ask"
        share = f"{spent / total:.1%}" if within else ""
        inside += spent if within and name != ROUND else 0.0
        table.add_row(process, name, str(len(group)), f"{statistics.median(e['dur'] for e in group) / 1e3:.2f}", share)
    table.add_row(rounds[0]["cat"], "other", str(len(rounds)), "", f"{(total - inside) / total:.1%}")
    return table
