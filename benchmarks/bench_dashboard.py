"""What does an open dashboard cost the server? Processor time of every process, by how many pages are open.

A cluster of its own serves nobody, then one client that streams a short answer every second, which every machine keeps
up with, so that windows compare. Under each, windows with no page, one and five follow one another in turn, so that
what drifts hits them alike; a page is its feed, `/v1/paceline/live`, read to the end of each message as a browser
does. Figures are percent of one core; what a page costs is the difference to the windows without one: while idle in
all processes, under streams in the ingress and Serve's proxy, beside which what the decoding itself varies by is large.

    python benchmarks/bench_dashboard.py                          # ten minutes on a machine that does nothing else
    python benchmarks/bench_dashboard.py --seconds 5 --repeats 1  # whether it runs
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from bench_serve import descendants
from provenance import provenance
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from paceline.cluster.config import load_config
from paceline.cluster.served_process import ServedProcess
from paceline.cluster.training.prompt_file import read_prompts

HERE = Path(__file__).resolve().parent
CONSOLE = Console(width=120)
SETTLE_S = 3.0  # after pages were opened or closed: what is sent first is no part of what staying costs
PERIOD_S = 1.0  # between two answers' beginnings
ANSWER_TOKENS = 24
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
# By the titles that Ray gives its processes; the first that fits.
ROLES = {
    "ingress": r"ray::ServeReplica:.*Ingress",
    "proxy": r"ray::ProxyActor",
    "target": r"ray::ServeReplica:.*Target",
    "fleet": r"ray::ServeReplica:.*Fleet",
    "drafters": r"ray::DrafterActor",
    "selector": r"ray::SelectorActor",
    "Serve's controller": r"ray::ServeController",
}
REST = "Ray and the rest"
IDLE, STREAM = LOADS = ("idle", "streams")
OURS = ("ingress", "proxy")  # what is compared under a stream


@dataclass
class Window:
    """What one window used, in percent of one core by role, and what passed meanwhile."""

    load: str
    pages: int
    used: dict[str, float]
    seconds: float
    messages: int
    kib: float
    tokens_per_s: float


@dataclass
class Page:
    """One open page: its feed, read on a thread."""

    url: str
    messages: int = 0
    bytes: int = 0
    error: str = ""
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Page:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with httpx.stream("GET", f"{self.url}/v1/paceline/live", timeout=20, trust_env=False) as reply:
                reply.raise_for_status()
                for line in reply.iter_lines():
                    if self._done.is_set():
                        return
                    self.bytes += len(line)
                    self.messages += line.startswith("data: ")
            self.error = "the feed ended"
        except httpx.HTTPError as error:
            self.error = f"{type(error).__name__}: {error}"


class Stream:
    """One client that streams a short answer, no text twice, every second."""

    def __init__(self, url: str, prompts: list[str]) -> None:
        self._url, self._prompts = url, prompts
        self._done = threading.Event()
        self._failure = ""
        self.tokens = 0

    def __enter__(self) -> Stream:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if self._failure:
            raise SystemExit(f"the streaming client failed: {self._failure}")

    def _run(self) -> None:
        number, due_s = 0, time.monotonic()
        try:
            with httpx.Client(base_url=self._url, timeout=120, trust_env=False) as client:
                model = client.get("/v1/models").json()["data"][0]["id"]
                while not self._done.wait(max(0.0, due_s - time.monotonic())):
                    message = {"role": "user", "content": f"({number}) {self._prompts[number % len(self._prompts)]}"}
                    self._ask(client, {"model": model, "messages": [message]})
                    number += 1
                    due_s = max(due_s + PERIOD_S, time.monotonic())  # what a slow answer missed is not made up for
        except (httpx.HTTPError, KeyError, ValueError) as error:
            self._failure = f"{type(error).__name__}: {error}"

    def _ask(self, client: httpx.Client, body: dict[str, Any]) -> None:
        wanted = {"max_tokens": ANSWER_TOKENS, "temperature": 0.8, "stream": True, "return_token_ids": True}
        with client.stream("POST", "/v1/chat/completions", json=body | wanted) as reply:
            reply.raise_for_status()
            for line in reply.iter_lines():
                if line.startswith("data: {"):
                    for choice in json.loads(line.removeprefix("data: "))["choices"]:
                        self.tokens += len(choice.get("token_ids") or ())


def main() -> None:
    """Measure, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "deploy" / "local.yaml")
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts" / "first_ride.jsonl")
    parser.add_argument("--pages", type=int, nargs="+", default=[0, 1, 5], help="how many are open; 0 must be there")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each window")
    parser.add_argument("--repeats", type=int, default=3, help="windows of each kind")
    options = parser.parse_args()
    if 0 not in options.pages or len(options.pages) < 2:
        parser.error(f"--pages {options.pages}: expected 0 and at least one other number")
    source = provenance()
    prompts = [prompt.text for prompt in read_prompts(options.prompts)]
    windows: list[Window] = []
    with ServedProcess(load_config(options.config).model_dump(mode="json")) as served:
        time.sleep(10)  # what a start leaves to do
        with tqdm(total=2 * options.repeats * len(options.pages), unit="window") as bar:
            for window in measured(IDLE, served, None, options):
                windows.append(window)
                bar.update()
            with Stream(served.url, prompts) as stream:
                for window in measured(STREAM, served, stream, options):
                    windows.append(window)
                    bar.update()
    report(windows, options, source)


def measured(load: str, served: ServedProcess, stream: Stream | None, options: argparse.Namespace) -> Iterator[Window]:
    """Windows by turns: each repetition begins with another number of pages."""
    for repeat in range(options.repeats):
        shift = repeat % len(options.pages)
        for pages in options.pages[shift:] + options.pages[:shift]:
            with opened(served.url, pages) as open_pages:
                time.sleep(SETTLE_S)
                before, began = cpu_seconds(served.pid), time.perf_counter()
                seen = sum(page.messages for page in open_pages), sum(page.bytes for page in open_pages)
                tokens = stream.tokens if stream is not None else 0
                time.sleep(options.seconds)
                took = time.perf_counter() - began
                after = cpu_seconds(served.pid)
                yield Window(
                    load,
                    pages,
                    {role: 100.0 * spent / took for role, spent in spent_by_role(before, after).items()},
                    took,
                    sum(page.messages for page in open_pages) - seen[0],
                    (sum(page.bytes for page in open_pages) - seen[1]) / 1024,
                    (stream.tokens - tokens) / took if stream is not None else 0.0,
                )


@contextmanager
def opened(url: str, count: int) -> Iterator[list[Page]]:
    """So many pages, open as long as it lasts.

    Raises:
        SystemExit: one of them broke.
    """
    with ExitStack() as stack:
        pages = [stack.enter_context(Page(url)) for _ in range(count)]
        yield pages
        failed = [page.error for page in pages if page.error]
    if failed:
        raise SystemExit(f"a page's feed broke: {failed[0]}")


def cpu_seconds(pid: int) -> dict[int, tuple[str, float]]:
    """Role and processor seconds, user and system, of a process and all below it, by process."""
    found = {}
    for process in descendants(pid):
        try:
            title = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        found[process] = role_of(title), (int(fields[11]) + int(fields[12])) * TICK_S
    return found


def role_of(title: str) -> str:
    """The part that a process has in the cluster."""
    return next((role for role, pattern in ROLES.items() if re.match(pattern, title)), REST)


def spent_by_role(before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]]) -> dict[str, float]:
    """Seconds between two looks; a process that came in between counts from its start."""
    spent: dict[str, float] = dict.fromkeys((*ROLES, REST), 0.0)
    for process, (role, seconds) in after.items():
        spent[role] += seconds - before.get(process, (role, 0.0))[1]
    return spent


def report(windows: list[Window], options: argparse.Namespace, source: dict[str, Any]) -> None:
    """Means over the windows of a kind, and what pages added."""
    kinds: dict[tuple[str, int], list[Window]] = defaultdict(list)
    for window in windows:
        kinds[window.load, window.pages].append(window)
    rows = [row_of(load, pages, kinds) for load in LOADS for pages in sorted(options.pages)]
    table = Table(title=f"% of one core; means of {options.repeats} windows of {options.seconds:g} s")
    table.add_column("")
    for row in rows:
        table.add_column(f"{row['load']},\n{row['pages']} open", justify="right")
    for role in (*ROLES, REST):
        table.add_row(role, *(f"{row['percent_of_one_core'][role]:.2f}" for row in rows))
    table.add_section()
    table.add_row("added by pages", *(f"{row['added_percent']:+.2f}" if row["pages"] else "" for row in rows))
    table.add_row("tokens/s", *(f"{row['tokens_per_s']:.1f}" if row["tokens_per_s"] else "" for row in rows))
    for name in ("messages_per_s", "kib_per_s"):
        shown = (f"{row[name]:.2f}" if row["pages"] else "" for row in rows)
        table.add_row(f"{name.replace('_per_s', '').replace('kib', 'KiB')}/s to a page", *shown)
    CONSOLE.print(table)
    cores = os.cpu_count() or 1
    for row in rows:
        if row["pages"]:
            error = "" if row["error_percent"] is None else f" ± {row['error_percent']:.2f}"
            CONSOLE.print(
                f"{row['load']}, {row['pages']} open: {row['added_percent']:+.2f}{error} % of one core, "
                f"{row['added_percent'] / cores:+.2f} % of all {cores} ({', '.join(row['added_in'])})"
            )
    print(json.dumps({"benchmark": "dashboard", "seconds": options.seconds, "rows": rows, **source}))


def row_of(load: str, pages: int, kinds: dict[tuple[str, int], list[Window]]) -> dict[str, Any]:
    """One kind of window: means, and the difference to the same load without a page."""
    group, without = kinds[load, pages], kinds[load, 0]
    used, base = (
        {role: statistics.mean(window.used[role] for window in some) for role in (*ROLES, REST)}
        for some in (group, without)
    )
    compared = OURS if load == STREAM else (*ROLES, REST)
    each, each_base = ([sum(window.used[role] for role in compared) for window in some] for some in (group, without))
    read_s = pages * sum(window.seconds for window in group)
    return {
        "load": load,
        "pages": pages,
        "percent_of_one_core": used,
        "added_percent": sum(used[role] - base[role] for role in compared),
        "added_in": OURS if load == STREAM else ("all processes",),
        "of_each_window": each,
        "error_percent": math.hypot(standard_error(each), standard_error(each_base)) if len(group) > 1 else None,
        "tokens_per_s": statistics.mean(window.tokens_per_s for window in group),
        "messages_per_s": sum(window.messages for window in group) / read_s if pages else 0.0,
        "kib_per_s": sum(window.kib for window in group) / read_s if pages else 0.0,
    }


def standard_error(values: list[float]) -> float:
    """Of the mean of two values or more."""
    return statistics.stdev(values) / math.sqrt(len(values))


if __name__ == "__main__":
    main()
