"""Many clients at once: does each get its answer, how long until its first token, and is memory bounded?

All clients start at the same moment, and each streams its answers one after another. A client that is refused with 429
waits as long as `Retry-After` says and comes back, as the official clients do; any other error counts as one, and
makes the exit status 1. The time to the first token is counted twice: from a client's first try, waits included, and
from the try that was taken.

    python benchmarks/bench_clients.py                                  # 200 clients, a cluster of its own
    python benchmarks/bench_clients.py --clients 20 --url http://127.0.0.1:8000   # a cluster that runs
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from bench_serve import cluster_memory_mib
from provenance import provenance
from rich.console import Console
from rich.table import Table

from paceline.cluster.config import load_config
from paceline.cluster.served_process import ServedProcess
from paceline.cluster.training.prompt_file import read_prompts

HERE = Path(__file__).resolve().parent
CONSOLE = Console(width=120)
_SILENCE_S = 120.0  # longest wait for the next event of a stream that was taken


@dataclass
class Answer:
    """One request as its client saw it; times in seconds."""

    first_token_s: float = 0.0  # since the client's first try
    taken_first_token_s: float = 0.0  # since the try that was taken
    total_s: float = 0.0
    tokens: int = 0
    refusals: int = 0
    error: str = ""


@dataclass
class Run:
    """Everything that was seen."""

    answers: list[Answer] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)  # seconds, MiB
    seconds: float = 0.0


def main() -> int:
    """Measure, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "deploy" / "local.yaml")
    parser.add_argument("--url", default=None, help="a cluster that runs; default: one of its own from --config")
    parser.add_argument("--api-key", default="unused", help="of that cluster")
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts" / "first_ride.jsonl")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--answers", type=int, default=1, help="answers that each client asks for, one after another")
    parser.add_argument("--tokens", type=int, default=32, help="most tokens per answer")
    parser.add_argument("--give-up-s", type=float, default=900.0, help="after which a client still refused is an error")
    options = parser.parse_args()
    source = provenance()
    prompts = [prompt.text for prompt in read_prompts(options.prompts)]
    if options.url is not None:
        run = asyncio.run(measure(options.url.rstrip("/").removesuffix("/v1"), prompts, options, None))
    else:
        with ServedProcess(load_config(options.config).model_dump(mode="json")) as served:
            run = asyncio.run(measure(served.url, prompts, options, served.pid))
    return report(run, options, source)


async def measure(url: str, prompts: list[str], options: argparse.Namespace, pid: int | None) -> Run:
    """Let all clients loose, and watch the memory of process `pid` and those below it meanwhile."""
    headers = {"Authorization": f"Bearer {options.api_key}"}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    timeout = httpx.Timeout(_SILENCE_S, connect=30.0)
    run = Run()
    async with httpx.AsyncClient(
        base_url=url, headers=headers, limits=limits, timeout=timeout, trust_env=False
    ) as http:
        listed = await http.get("/v1/models")
        listed.raise_for_status()
        model = listed.json()["data"][0]["id"]
        began = time.perf_counter()
        watching = asyncio.create_task(watch(run, began, pid)) if pid is not None else None
        await asyncio.gather(*(client(http, run, model, prompts, index, options) for index in range(options.clients)))
        run.seconds = time.perf_counter() - began
        if watching is not None:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
    return run


async def watch(run: Run, began: float, pid: int) -> None:
    """Sample memory every two seconds, on another thread, since it takes a while itself."""
    while True:
        used = await asyncio.to_thread(cluster_memory_mib, pid)
        run.memory.append((time.perf_counter() - began, used))
        await asyncio.sleep(2)


async def client(
    http: httpx.AsyncClient, run: Run, model: str, prompts: list[str], index: int, options: argparse.Namespace
) -> None:
    """One client: its answers, one after another."""
    for turn in range(options.answers):
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompts[(index + turn) % len(prompts)]}],
            "max_tokens": options.tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        answer = Answer()
        try:
            await ask(http, body, answer, options.give_up_s)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            answer.error = f"{type(error).__name__}: {error}"[:200]
        run.answers.append(answer)


async def ask(http: httpx.AsyncClient, body: dict[str, Any], answer: Answer, give_up_s: float) -> None:
    """Ask until the request is taken, and read the stream to its end."""
    began = time.perf_counter()
    while True:
        tried = time.perf_counter()
        async with http.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.status_code == httpx.codes.OK:
                await read(reply, answer, began, tried)
                return
            await reply.aread()
            wait = reply.headers.get("Retry-After", "")
            if reply.status_code != httpx.codes.TOO_MANY_REQUESTS or not wait.isdecimal():
                answer.error = f"HTTP {reply.status_code}: {reply.text[:160]}"
                return
        answer.refusals += 1
        if time.perf_counter() - began > give_up_s:
            answer.error = f"still refused after {give_up_s:.0f} s"
            return
        await asyncio.sleep(int(wait))


async def read(reply: httpx.Response, answer: Answer, began: float, tried: float) -> None:
    """Read one stream; an error inside it, or an end without `[DONE]`, is an error."""
    done = False
    async for line in reply.aiter_lines():
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            done = True
        elif line.startswith("data: "):
            event = json.loads(data)
            if "error" in event:
                answer.error = str(event["error"]["message"])[:200]
            elif not answer.first_token_s and event["choices"]:
                now = time.perf_counter()
                answer.first_token_s, answer.taken_first_token_s = now - began, now - tried
            if event.get("usage"):
                answer.tokens = event["usage"]["completion_tokens"]
    answer.total_s = time.perf_counter() - began
    if not answer.error and (not done or not answer.tokens):
        answer.error = "the stream ended early"


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)] if ordered else 0.0


def report(run: Run, options: argparse.Namespace, source: dict[str, Any]) -> int:
    """Print what was measured. Returns the exit status."""
    served = [answer for answer in run.answers if not answer.error]
    errors = Counter(answer.error for answer in run.answers if answer.error)
    columns = {
        "first token": [answer.first_token_s for answer in served],
        "first token once taken": [answer.taken_first_token_s for answer in served],
        "whole answer": [answer.total_s for answer in served],
    }
    table = Table(title=f"{options.clients} clients x {options.answers} answers of up to {options.tokens} tokens")
    for column in ("seconds", "p50", "p90", "p99", "most"):
        table.add_column(column, justify="left" if column == "seconds" else "right")
    figures = {}
    for name, values in columns.items():
        figures[name] = {f"p{share}": percentile(values, share / 100) for share in (50, 90, 99, 100)}
        table.add_row(name, *(f"{value:.2f}" for value in figures[name].values()))
    CONSOLE.print(table)
    tokens = sum(answer.tokens for answer in served)
    refusals = [answer.refusals for answer in run.answers]
    used = [mib for _, mib in run.memory]
    CONSOLE.print(
        f"{len(served)} of {len(run.answers)} answered, {tokens / run.seconds:.1f} tokens/s in all; 429 came "
        f"{sum(refusals)} times, at most {max(refusals)} to one request (mean {statistics.mean(refusals):.1f})"
    )
    if used:
        CONSOLE.print(
            f"memory of all processes: {used[0]:.0f} MiB at the start, {max(used):.0f} most, {used[-1]:.0f} last"
        )
    for error, count in errors.most_common():
        CONSOLE.print(f"error, {count} times: {error}", style="red", markup=False)
    line = {
        "benchmark": "clients",
        "clients": options.clients,
        "answers": len(run.answers),
        "served": len(served),
        "errors": dict(errors),
        "refusals": sum(refusals),
        "tokens_per_s": tokens / run.seconds,
        "seconds": figures,
        "memory_mib": [(round(at, 1), round(mib)) for at, mib in run.memory],
        **source,
    }
    print(json.dumps(line))
    return 1 if errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
