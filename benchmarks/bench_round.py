"""What is a round made of? Shares of draft, transport, verification, kernel, commit and stream, from a live cluster.

Requests follow one another while `paceline trace`'s endpoint watches all processes. `verify` is the forward, `draft`
what drafters themselves worked for a round that waited for them, and `transport` the rest of that wait; `between
rounds` is what the loop spends on handing chunks over, admitting and releasing, while a request runs. All but `verify`
and `draft` is non-model overhead.

    python benchmarks/bench_round.py
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
from bench_serve import measured_document
from provenance import provenance
from result_file import add_out, put
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from paceline.cluster.client import Client
from paceline.cluster.served_process import ServedProcess
from paceline.cluster.training.prompt_file import Prompt, read_prompts

HERE = Path(__file__).resolve().parent
CONSOLE = Console(width=120)
ARMS: dict[str, dict[str, Any]] = {"plain": {"enabled": False}, "selector": {}}
PARTS = (
    "verify",
    "draft",
    "transport",
    "kernel (judge)",
    "choose",
    "commit (tell)",
    "rest of the round",
    "between rounds",
)
MODEL = ("verify", "draft")
GAP_US = 20_000.0  # two rounds farther apart belong to different requests


def main() -> None:
    """Measure, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "deploy" / "local.yaml")
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts" / "first_ride.jsonl")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each watch")
    parser.add_argument("--repeats", type=int, default=5)
    add_out(parser)
    options = parser.parse_args()
    source = provenance()
    prompts = read_prompts(options.prompts)
    watched: dict[str, list[dict[str, float]]] = defaultdict(list)
    with ServedProcess(measured_document(options.config)) as served, Client(served.url, timeout_s=60) as client:
        for arm in ARMS.values():  # warm-up, not counted
            watch(client, served.url, prompts, arm, options.tokens, options.seconds)
        for _ in tqdm(range(options.repeats), unit="repeat"):
            for name, arm in ARMS.items():
                watched[name].append(watch(client, served.url, prompts, arm, options.tokens, options.seconds))
    report(watched, source, options.out)


def watch(
    client: Client, url: str, prompts: list[Prompt], arm: dict[str, Any], tokens: int, seconds: float
) -> dict[str, float]:
    """Shares of the decoding time, and its milliseconds per round, over some seconds of requests."""
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60) as asking:
            model = asking.get("/v1/models").json()["data"][0]["id"]
            for count in range(10**6):
                if over.is_set():
                    return
                message = {"role": "user", "content": prompts[count % len(prompts)].text}
                body = {"model": model, "messages": [message], "max_tokens": tokens, "temperature": 0, "paceline": arm}
                asking.post("/v1/chat/completions", json=body).raise_for_status()

    asker = threading.Thread(target=ask)
    asker.start()
    time.sleep(0.5)
    events = client.trace(seconds)["traceEvents"]
    over.set()
    asker.join()
    return shares([event for event in events if event["ph"] == "X"])


def shares(events: list[dict[str, Any]]) -> dict[str, float]:
    """Each part's share of the time from a request's first decoding round to its last."""
    rounds = sorted((event for event in events if event["name"] == "round"), key=lambda event: float(event["ts"]))
    spent: dict[str, float] = defaultdict(float)
    total = 0.0
    inside = [e for e in events if e["cat"] == "target" and e["name"] in ("verify", "draft", "judge", "choose", "tell")]
    for event in inside:
        spent[event["name"]] += event["dur"]
    asked = {e["args"]["ask"]: e["args"]["drafter"] for e in events if e["name"] == "ask"}
    worked = sum(e["dur"] for e in events if e["name"] == "propose" and asked.get(e["args"].get("ask")) == e["cat"])
    whole = sum(event["dur"] for event in rounds)
    gaps = [after["ts"] - before["ts"] - before["dur"] for before, after in itertools.pairwise(rounds)]
    between = sum(gap for gap in gaps if gap < GAP_US)
    total = whole + between
    drafting = min(worked, spent["draft"])
    parts = {
        "verify": spent["verify"],
        "draft": drafting,
        "transport": spent["draft"] - drafting,
        "kernel (judge)": spent["judge"],
        "choose": spent["choose"],
        "commit (tell)": spent["tell"],
        "rest of the round": whole - sum(spent.values()),
        "between rounds": between,
    }
    figures = {name: part / total for name, part in parts.items()}
    return figures | {"ms per round": total / len(rounds) / 1e3, "rounds": float(len(rounds))}


def report(watched: dict[str, list[dict[str, float]]], source: dict[str, Any], out: Path | None) -> None:
    """Medians over the watches."""
    table = Table(title="parts of a round, 1 request at once")
    for column in ("part", *watched):
        table.add_column(column, justify="left" if column == "part" else "right")
    middle = {
        name: {part: statistics.median(one[part] for one in figures) for part in (*PARTS, "ms per round")}
        for name, figures in watched.items()
    }
    for part in PARTS:
        table.add_row(part, *(f"{figures[part]:.1%}" for figures in middle.values()))
    overhead = {
        name: statistics.median(1.0 - sum(one[part] for part in MODEL) for one in figures)
        for name, figures in watched.items()
    }
    table.add_section()
    table.add_row("non-model overhead", *(f"{value:.1%}" for value in overhead.values()))
    table.add_row("ms per round", *(f"{figures['ms per round']:.2f}" for figures in middle.values()))
    CONSOLE.print(table)
    put({"benchmark": "round", "parts": middle, "non_model_overhead": overhead, **source}, out)


if __name__ == "__main__":
    main()
