"""What happens under load? Throughput and latency at 1 to 32 requests at once, over HTTP, beside vLLM on the CPU.

One load generator streams the same chat prompts, mixed by domain, from every system; tokens are those of the streams'
own `usage`. A level of c has c clients, each of which asks again as soon as it has its answer. Systems never run at
the same time: those of one server take turns at every level, and the servers in blocks, in mirrored order (A B, B A,
..), up the levels and down again. vLLM's servers stay up meanwhile (idle, they use no processor time); paceline's
cluster is started for its blocks. Nothing is kept between requests.

    python benchmarks/bench_load.py --vllm /path/to/its/python --plot load.png
    python benchmarks/bench_load.py --levels 1,8 --repeats 1 --tokens 32            # a quick look, without vLLM

Throughput is the median over the repetitions, and ratios are taken within each; latencies are percentiles over all
answers. `first token` is the time to the first event that carries text, `gap` the time between two such events, which
is what a reader sees (an event holds all tokens of a round), and `per token` an answer's mean time for each further
token. With `--rows FILE` every cell is kept there, and a run that was interrupted, or that `--minutes` ended, goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import load_report
from bench_serve import measured_document
from kept_rows import KeptRows
from provenance import provenance
from result_file import add_out, put
from stream_client import drive
from tqdm import tqdm
from vllm_server import VllmServer

from paceline.actors.model_source import resolve
from paceline.cluster.served_process import ServedProcess
from paceline.cluster.tokenizer import ChatTokenizer
from paceline.cluster.training.prompt_file import Prompt, read_prompts

HERE = Path(__file__).resolve().parent
MODEL = "target"  # what requests call it, everywhere
LEAST_ANSWERS = 6  # of a cell
WARM_UP_TOKENS = 48


class Server(Protocol):
    """Where requests go."""

    @property
    def url(self) -> str:
        """Its address."""
        ...


@dataclass(frozen=True, slots=True)
class System:
    """A server, and what its requests carry besides the prompt."""

    name: str
    server: str
    extra: dict[str, Any]


PACELINE = (
    System("paceline", "paceline", {}),
    System("paceline plain", "paceline", {"paceline": {"enabled": False}}),
)
VLLM = (System("vllm-ngram", "vllm-ngram", {}), System("vllm", "vllm", {}))


def main() -> None:
    """Measure, print tables, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "deploy" / "local.yaml")
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts" / "first_ride.jsonl")
    parser.add_argument("--levels", default="1,2,4,8,12,16,32", help="requests at once, by comma")
    parser.add_argument("--waves", type=int, default=2, help="answers of a cell for each client")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128, help="most tokens per answer")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--vllm", default=None, help="interpreter that vLLM is installed for; left out if not given")
    parser.add_argument(
        "--vllm-env", action="append", default=[], metavar="NAME=VALUE", help="of vLLM's process; may be repeated"
    )
    parser.add_argument("--rows", type=Path, default=None, help="keep every cell's figures here, and resume from it")
    parser.add_argument("--minutes", type=float, default=None, help="begin no cell after so long; needs --rows")
    parser.add_argument("--plot", type=Path, default=None, help="PNG file to draw")
    add_out(parser)
    options = parser.parse_args()
    if options.minutes is not None and options.rows is None:
        parser.error("--minutes: needs --rows FILE, to go on from")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # and with it what was started
    source = provenance()  # now: the tree may change while it runs
    levels = sorted({int(text) for text in options.levels.split(",")})
    prompts = in_turn(read_prompts(options.prompts))
    systems = [*PACELINE, *(VLLM if options.vllm else ())]
    rows = measure(systems, levels, prompts, options)
    summary = load_report.summarise(rows, [system.name for system in systems], levels)
    load_report.show(summary, f"up to {options.tokens} tokens an answer, T={options.temperature:g}")
    if options.plot is not None:
        load_report.draw(summary, options.plot, source["cpu"], source["cores"])
    fixed = {"asked_for": asked_for(options), "repeats": options.repeats}
    put({"benchmark": "load", **fixed, **summary, **source}, options.out)


def in_turn(prompts: list[Prompt]) -> list[Prompt]:
    """One of each domain by turns, so that any few in a row are a mixture."""
    groups: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.domain, []).append(prompt)
    longest = max(map(len, groups.values()))
    return [group[at] for at in range(longest) for group in groups.values() if at < len(group)]


def measure(
    systems: list[System], levels: list[int], prompts: list[Prompt], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row per cell: a repetition of a system at a level."""
    kept = KeptRows(options.rows, asked_for(options))
    done = {(row["repeat"], row["level"], row["system"]) for row in kept.rows}
    tokenizer = ChatTokenizer(resolve("embedded").path)
    total = options.repeats * len(levels) * len(systems)
    ends_s = None if options.minutes is None else time.monotonic() + 60.0 * options.minutes
    bar = tqdm(total=total, initial=len(done), unit="cell")
    with Servers(options, max(levels)) as servers, bar:
        for repeat, block in blocks(systems, options.repeats):
            missing = [
                (level, system)
                for level, system in cells(block, levels, repeat)
                if (repeat, level, system.name) not in done
            ]
            if not missing:
                continue
            for server in dict.fromkeys(system.server for system in block):
                if servers.start(server):
                    warm_up(servers.url(server), [s for s in block if s.server == server], levels, prompts)
            for level, system in missing:
                if ends_s is not None and time.monotonic() >= ends_s:
                    raise SystemExit(f"{len(kept.rows)} of {total} cells are measured; the same command goes on")
                kept.add(cell(servers.url(system.server), system, level, prompts, repeat, tokenizer, options))
                bar.update()
    return kept.rows


def blocks(systems: list[System], repeats: int) -> Iterator[tuple[int, list[System]]]:
    """A repetition's systems in two blocks, ours and the peers'.

    The order is mirrored each time: drift falls on both alike, and a cluster that ended one repetition begins the next.
    """
    ours = [system for system in systems if system in PACELINE]
    peers = [system for system in systems if system not in PACELINE]
    for repeat in range(repeats):
        for block in (ours, peers) if repeat % 2 == 0 else (peers, ours):
            if block:
                yield repeat, block


def cells(block: list[System], levels: list[int], repeat: int) -> Iterator[tuple[int, System]]:
    """Up the levels, then down; at each the block's systems in turn, each first as often as the others."""
    for index, level in enumerate(levels if repeat % 2 == 0 else levels[::-1]):
        shift = (repeat + index) % len(block)
        for system in block[shift:] + block[:shift]:
            yield level, system


class Servers:
    """What runs now. vLLM's servers are kept once they are up; paceline's cluster ends before they are asked."""

    def __init__(self, options: argparse.Namespace, most: int) -> None:
        self._kept = ExitStack()
        self._ours: ExitStack | None = None
        self._urls: dict[str, str] = {}
        folder = resolve("embedded").path
        environment = dict(text.split("=", 1) for text in options.vllm_env)
        document = measured_document(options.config)
        document["target"] |= {"name": MODEL, "max_sequences": max(most, document["target"]["max_sequences"])}
        self._make: dict[str, Callable[[], AbstractContextManager[Server]]] = {
            "paceline": lambda: ServedProcess(document),
            "vllm": lambda: VllmServer(options.vllm, folder, MODEL, ngram=False, environment=environment),
            "vllm-ngram": lambda: VllmServer(options.vllm, folder, MODEL, ngram=True, environment=environment),
        }

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_ours()
        self._kept.close()

    def url(self, name: str) -> str:
        """Where a server that was started listens."""
        return self._urls[name]

    def start(self, name: str) -> bool:
        """Have a server up, and none that would disturb it; returns whether it is a new one."""
        if name != "paceline":
            self._end_ours()
        if name in self._urls:
            return False
        stack = self._kept
        if name == "paceline":
            stack = self._ours = ExitStack()
        self._urls[name] = stack.enter_context(self._make[name]()).url
        return True

    def _end_ours(self) -> None:
        if self._ours is not None:
            self._ours.close()
            self._ours = None
            del self._urls["paceline"]


def warm_up(url: str, systems: list[System], levels: list[int], prompts: list[Prompt]) -> None:
    """Every level once, not counted: code is compiled, caches fill, and what rounds cost is learnt."""
    for system in systems:
        for level in levels:
            bodies = [body(prompts[at % len(prompts)], system, WARM_UP_TOKENS, 0.0) for at in range(level)]
            asyncio.run(drive(url, bodies, level))


def cell(
    url: str,
    system: System,
    level: int,
    prompts: list[Prompt],
    repeat: int,
    tokenizer: ChatTokenizer,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """One system at one level: the same prompts for all systems, other ones in each repetition."""
    count = max(LEAST_ANSWERS, options.waves * level)
    asked = [prompts[(count * repeat + at) % len(prompts)] for at in range(count)]
    bodies = [body(prompt, system, options.tokens, options.temperature) for prompt in asked]
    load = asyncio.run(drive(url, bodies, level))
    for prompt, answer in zip(asked, load.answers, strict=True):
        expected = len(tokenizer.apply_chat([{"role": "user", "content": prompt.text}]))
        if answer.prompt_tokens != expected:
            raise SystemExit(f"{system.name} saw a prompt of {answer.prompt_tokens} tokens; expected {expected}")
    rounds = [answer.rounds for answer in load.answers if answer.rounds is not None]
    return {
        "repeat": repeat,
        "level": level,
        "system": system.name,
        "answers": count,
        "tokens": sum(answer.tokens for answer in load.answers),
        "rounds": sum(rounds) if rounds else None,
        "seconds": load.seconds,
        "first_token_ms": [round(1e3 * answer.ttft_s, 2) for answer in load.answers],
        "gap_ms": [round(1e3 * gap, 2) for answer in load.answers for gap in answer.gaps_s],
        "per_token_ms": [
            round(1e3 * (answer.seconds - answer.ttft_s) / (answer.tokens - 1), 2)
            for answer in load.answers
            if answer.tokens > 1
        ],
    }


def asked_for(options: argparse.Namespace) -> dict[str, Any]:
    """What all cells of a comparison have in common."""
    return {"tokens": options.tokens, "temperature": options.temperature, "waves": options.waves}


def body(prompt: Prompt, system: System, tokens: int, temperature: float) -> dict[str, Any]:
    """A request."""
    message = {"role": "user", "content": prompt.text}
    asked = {"model": MODEL, "messages": [message], "max_tokens": tokens, "temperature": temperature}
    return asked | system.extra


if __name__ == "__main__":
    main()
