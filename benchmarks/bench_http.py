"""What does HTTP cost? Time to first token through Serve beside the engine called in process, and a chunk's price.

Both decode the same prompts in turn, plainly: an engine in this process, as the target replica runs it, and a cluster
behind its HTTP endpoint. The time to first token is that of the first chunk that carries text; the streaming cost is
what a streamed answer takes longer than the same answer in one piece, per chunk.

    python benchmarks/bench_http.py
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import torch
from bench_serve import take
from placed_drafter import OneDrafterBoard
from provenance import provenance
from result_file import add_out, put
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from paceline.actors.engine import Engine
from paceline.actors.generation import Chunk, Generation
from paceline.actors.messages import Member
from paceline.actors.model_facts import eos_ids
from paceline.actors.model_loader import load_model
from paceline.actors.model_source import resolve
from paceline.actors.session_pool import SessionPool
from paceline.cluster.config import ClusterConfig
from paceline.cluster.engine_limits import engine_limits
from paceline.cluster.served_process import ServedProcess
from paceline.cluster.tokenizer import ChatTokenizer
from paceline.cluster.training.prompt_file import read_prompts

HERE = Path(__file__).resolve().parent
CONSOLE = Console(width=120)
QUIET_S = 0.2  # between answers: threads that spin for work go to sleep


class EngineHere:
    """The engine in this process, on a thread of its own."""

    def __init__(self) -> None:
        folder = resolve("embedded").path
        self._tokenizer, self._stops = ChatTokenizer(folder), eos_ids(folder)
        made: SimpleQueue[Engine] = SimpleQueue()
        threading.Thread(target=self._run, args=(folder, made), daemon=True).start()
        self._engine = made.get()

    def _run(self, folder: Path, made: SimpleQueue[Engine]) -> None:
        torch.set_num_threads(torch.get_num_threads())  # the engine's thread makes the team, as in a replica
        model = load_model(folder, dtype="bfloat16")  # no bound on memory, and so nothing kept of earlier prompts
        board = OneDrafterBoard(Member("drafter", "none", ""))
        pool = SessionPool(lambda: (), _no_link, vocab_size=model.vocab_size, catch_up_tokens=8, deadline_s=1.0)
        engine = Engine(model, pool, board, replace(engine_limits(ClusterConfig(), 2048), max_tokens_in_flight=2048))
        made.put(engine)
        engine.run()

    def ask(self, prompt: str, tokens: int) -> dict[str, float]:
        """One answer: seconds to the first token and to the last, chunks and tokens."""
        arrived: SimpleQueue[Any] = SimpleQueue()
        ids = tuple(self._tokenizer.apply_chat([{"role": "user", "content": prompt}]))
        began = time.perf_counter()
        self._engine.submit(Generation(str(began), ids, tokens, self._stops, speculate=False), arrived.put)
        first, chunks, made = 0.0, 0, 0
        while True:
            chunk = arrived.get(timeout=60)
            assert isinstance(chunk, Chunk), chunk
            assert chunk.cached == 0, "a prompt's beginning was known"
            if chunk.token_ids and not chunks:
                first = time.perf_counter() - began
            chunks += bool(chunk.token_ids)
            made += len(chunk.token_ids)
            if chunk.finish_reason is not None:
                return {"ttft": first, "seconds": time.perf_counter() - began, "chunks": chunks, "tokens": made}


class EngineThere:
    """The cluster's endpoint."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=60)
        self._model = self._client.get("/v1/models").json()["data"][0]["id"]

    def ask(self, prompt: str, tokens: int, stream: bool) -> dict[str, float]:
        """One answer; without `stream` there is no first token before the last."""
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "temperature": 0,
            "stream": stream,
            "paceline": {"enabled": False},
        }
        began = time.perf_counter()
        if not stream:
            made = self._client.post("/v1/chat/completions", json=body).raise_for_status().json()["usage"]
            return {"seconds": time.perf_counter() - began, "tokens": made["completion_tokens"]}
        first, chunks = 0.0, 0
        with self._client.stream("POST", "/v1/chat/completions", json=body) as reply:
            reply.raise_for_status()
            for line in reply.iter_lines():
                if '"content":"' in line and '"content":""' not in line:
                    first = first or time.perf_counter() - began
                    chunks += 1
        return {"ttft": first, "seconds": time.perf_counter() - began, "chunks": chunks}


def main() -> None:
    """Measure, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts" / "first_ride.jsonl")
    parser.add_argument("--limit", type=int, default=2, help="prompts of each domain")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    add_out(parser)
    options = parser.parse_args()
    source = provenance()
    prompts = take(read_prompts(options.prompts), options.limit)
    here = EngineHere()
    # No prompt is known from before, here or there.
    with ServedProcess({"target": {"prefix_cache_tokens": 0}, "network": {"host": "127.0.0.1"}}) as served:
        there = EngineThere(served.url)
        systems = {
            "engine in process": lambda text: here.ask(text, options.tokens),
            "HTTP, streamed": lambda text: there.ask(text, options.tokens, stream=True),
            "HTTP, in one piece": lambda text: there.ask(text, options.tokens, stream=False),
        }
        rows = []
        names = list(systems)
        for name in names * 3:  # warm-up, not counted
            systems[name](prompts[0].text)
        with tqdm(total=options.repeats * len(prompts) * len(names), unit="answer") as bar:
            for repeat in range(options.repeats):
                for index, prompt in enumerate(prompts):
                    shift = (repeat + index) % len(names)
                    for name in names[shift:] + names[:shift]:
                        time.sleep(QUIET_S)
                        rows.append({"system": name, "prompt": index} | systems[name](prompt.text))
                        bar.update()
    report(rows, names, options, source)


def report(rows: list[dict[str, Any]], names: list[str], options: argparse.Namespace, source: dict[str, Any]) -> None:
    """Medians over all answers; differences are taken per prompt and repetition, which followed one another."""
    own = {name: [row for row in rows if row["system"] == name] for name in names}
    table = Table(title=f"{options.tokens} tokens, plain decoding, 1 at once")
    for column in ("system", "first token ms p50", "p95", "whole answer ms p50"):
        table.add_column(column, justify="left" if column == "system" else "right")
    summary: dict[str, Any] = {}
    for name, group in own.items():
        firsts = sorted(1e3 * row["ttft"] for row in group if "ttft" in row)
        whole = 1e3 * statistics.median(row["seconds"] for row in group)
        p95 = firsts[int(0.95 * (len(firsts) - 1))] if firsts else None
        summary[name] = {"ttft_ms_p50": statistics.median(firsts) if firsts else None, "ttft_ms_p95": p95}
        summary[name]["whole_ms_p50"] = whole
        shown = [f"{statistics.median(firsts):.1f}", f"{p95:.1f}"] if firsts else ["", ""]
        table.add_row(name, *shown, f"{whole:.0f}")
    CONSOLE.print(table)
    inside, streamed, piece = (sorted_rows(own[name]) for name in names)
    tax = 1e3 * statistics.median(far["ttft"] - near["ttft"] for far, near in zip(streamed, inside, strict=True))
    chunk = 1e3 * statistics.median(
        (far["seconds"] - near["seconds"]) / far["chunks"] for far, near in zip(streamed, piece, strict=True)
    )
    CONSOLE.print(f"HTTP tax on the first token: {tax:.1f} ms; a streamed chunk costs {chunk:.2f} ms")
    line = {"benchmark": "http", "systems": summary, "ttft_tax_ms": tax, "ms_per_chunk": chunk, **source}
    put(line, options.out)


def sorted_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By prompt, repetitions in their order: answers that were given one after another have the same place."""
    return sorted(rows, key=lambda row: row["prompt"])


def _no_link(_: Member) -> Any:
    raise AssertionError("there are no drafters to connect to")


if __name__ == "__main__":
    main()
