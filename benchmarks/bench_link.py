"""What does distance cost? One drafter in the target's process, in a process of its own, and farther and farther away.

The rounds are the engine's own (`actors/round.py`), one sequence at a time; only the line to the drafter differs. For
every prompt the arms follow one another in an order that rotates. `break-even` is the shortest fixed draft with which a
placement is at least as fast as plain decoding; `adaptive` chooses lengths as the cluster does.

    python benchmarks/bench_link.py
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from bench_serve import take
from placed_drafter import DrafterProcess, OneDrafterBoard, host_of, local_link
from provenance import provenance
from result_file import add_out, put
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from paceline.actors.draft_length import DraftLength
from paceline.actors.drafter_link import Link
from paceline.actors.engine_counts import EngineCounts
from paceline.actors.generation import Generation
from paceline.actors.learned_length import LearnedLength
from paceline.actors.messages import Member
from paceline.actors.model_facts import eos_ids
from paceline.actors.model_loader import load_model
from paceline.actors.model_source import resolve
from paceline.actors.pace import Pace
from paceline.actors.round import speculative_round
from paceline.actors.round_setup import Setup
from paceline.actors.sequence import Sequence
from paceline.actors.session_pool import SessionPool
from paceline.cluster.tokenizer import ChatTokenizer
from paceline.cluster.training.prompt_file import read_prompts

HERE = Path(__file__).resolve().parent
CONSOLE = Console(width=120)
ZOO = HERE.parent / "zoo"
DRAFTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "generalist": ("head", {"model": str(ZOO / "generalist")}),
    "suffix": ("suffix", {"min_match": 1, "min_probability": 0.1, "memory_tokens": 0}),
}
LENGTHS = (1, 2, 4, 7)
LONGEST = 15
SEQS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Arm:
    """A drafter at a place, with a fixed draft length or an adaptive one (0); plain decoding has no link."""

    drafter: str
    place: str
    length: int
    setup: Setup
    link: Link | None

    @property
    def name(self) -> str:
        """Its row's key."""
        return f"{self.drafter}/{self.place}/{self.length or 'adaptive'}"


def main() -> None:
    """Measure, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts" / "first_ride.jsonl")
    parser.add_argument("--limit", type=int, default=1, help="prompts of each domain")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rtt-ms", default="1,5,20", help="injected round trips, by comma")
    add_out(parser)
    options = parser.parse_args()
    source = provenance()
    folder = resolve("embedded").path
    tokenizer = ChatTokenizer(folder)
    prompts = take(read_prompts(options.prompts), options.limit)
    ids = [tuple(tokenizer.apply_chat([{"role": "user", "content": prompt.text}])) for prompt in prompts]
    torch.set_num_threads(torch.get_num_threads())
    layers: set[int] = set()
    for kind, settings in DRAFTERS.values():
        layers |= set(host_of(kind, settings)[1].feature_layers)
    model = load_model(folder, dtype="bfloat16", kv_tokens=4096, feature_layers=tuple(sorted(layers)))
    rtts = [float(text) for text in options.rtt_ms.split(",")]
    arms = list(make_arms(model, tuple(sorted(layers)), rtts))
    rows = measure(arms, ids, options, eos_ids(folder), model)
    report(arms, rows, options, source)


def make_arms(model: Any, layers: tuple[int, ...], rtts: list[float]) -> Iterator[Arm]:
    """Plain decoding first, then every drafter at every place with every length."""
    yield Arm("plain", "", 0, _setup(model, Member("drafter", "none", ""), None, 0, layers), None)
    for name, (kind, settings) in DRAFTERS.items():
        process = DrafterProcess(kind, settings)
        places = [("in process", None), ("own process", 0.0), *((f"+{rtt:g} ms", rtt) for rtt in rtts)]
        for place, rtt in places:
            for length in (*LENGTHS, 0):
                # A line of its own for each arm: what a drafter's latency was at another length must not be known.
                host, member = host_of(kind, settings) if rtt is None else (None, host_member(kind, settings))
                link = local_link(host) if host is not None else process.connect(rtt or 0.0)
                yield Arm(name, place, length, _setup(model, member, link, length, layers), link)


def host_member(kind: str, settings: dict[str, Any]) -> Member:
    """What the target knows of a drafter elsewhere."""
    return host_of(kind, settings)[1]


def _setup(model: Any, member: Member, link: Link | None, length: int, layers: tuple[int, ...]) -> Setup:
    board = OneDrafterBoard(member)
    pool = SessionPool(
        board.members if link is not None else lambda: (),
        lambda _: link,  # type: ignore[arg-type,return-value] # asked for members only, and plain decoding has none
        vocab_size=model.vocab_size,
        catch_up_tokens=8,
        deadline_s=1.0,
        feature_layers=layers,
    )
    return Setup(
        model=model,
        pool=pool,
        board=board,
        lengths=None if length else DraftLength(),
        learned=LearnedLength(),
        max_draft=length or LONGEST,
        max_prefill=256,
        chance=Random(0),
        pace=Pace(),
        counts=EngineCounts(),
    )


def measure(
    arms: list[Arm], prompts: list[tuple[int, ...]], options: argparse.Namespace, stops: frozenset[int], model: Any
) -> list[dict[str, Any]]:
    """One row per answer."""
    for arm in arms * 2:  # warm-up, not counted: caches fill, latencies are learnt
        answer(arm, prompts[0], options.tokens, stops, model)
    rows = []
    with tqdm(total=options.repeats * len(prompts) * len(arms), unit="answer") as bar:
        for repeat in range(options.repeats):
            for index, prompt in enumerate(prompts):
                shift = (7 * repeat + index) % len(arms)
                for arm in arms[shift:] + arms[:shift]:
                    rows.append({"repeat": repeat, "arm": arm.name} | answer(arm, prompt, options.tokens, stops, model))
                    bar.update()
    return rows


def answer(arm: Arm, prompt: tuple[int, ...], tokens: int, stops: frozenset[int], model: Any) -> dict[str, float]:
    """One answer: its tokens, rounds, seconds (the prompt's not counted), and bytes on the line."""
    generation = Generation("x", prompt, tokens, stops, speculate=arm.link is not None)
    sequence = Sequence(next(SEQS), generation, model.new_cache(()), lambda _: None)
    if arm.link is not None:
        arm.setup.pool.open(sequence)
    speculative_round([sequence], arm.setup)  # the prompt, and the first token
    sent = _bytes(arm.link)
    rounds = 0
    began = time.perf_counter()
    while sequence.finished is None:
        speculative_round([sequence], arm.setup)
        rounds += 1
    seconds = time.perf_counter() - began
    carried = [after - before for after, before in zip(_bytes(arm.link), sent, strict=True)]
    if arm.link is not None:
        arm.setup.pool.close(sequence.seq)
    made = len(sequence.tokens) - sequence.prompt_tokens - 1
    return {"tokens": made, "rounds": rounds, "seconds": seconds, "sent": carried[0], "received": carried[1]}


def _bytes(link: Link | None) -> tuple[int, int]:
    return (0, 0) if link is None else (link.traffic.bytes_sent, link.traffic.bytes_received)


def report(arms: list[Arm], rows: list[dict[str, Any]], options: argparse.Namespace, source: dict[str, Any]) -> None:
    """Medians over the repeats of the ratio to plain decoding in the same repeat."""
    by_arm: dict[str, list[list[dict[str, Any]]]] = defaultdict(lambda: [[] for _ in range(options.repeats)])
    for row in rows:
        by_arm[row["arm"]][row["repeat"]].append(row)

    def rate(name: str, repeat: int) -> float:
        own = by_arm[name][repeat]
        return float(sum(row["tokens"] for row in own) / max(sum(row["seconds"] for row in own), 1e-9))

    plain = arms[0].name
    ratios = {
        arm.name: statistics.median(rate(arm.name, r) / rate(plain, r) for r in range(options.repeats)) for arm in arms
    }
    table = Table(title=f"speed over plain decoding, {options.tokens} tokens, T=0, 1 at once")
    for column in ("drafter", "place", *(f"k={k}" for k in LENGTHS), "adaptive", "break-even", "bytes/token"):
        table.add_column(column, justify="left" if column in ("drafter", "place") else "right")
    summary: dict[str, Any] = {}
    for drafter, place in dict.fromkeys((arm.drafter, arm.place) for arm in arms[1:]):
        fixed = {k: ratios[f"{drafter}/{place}/{k}"] for k in LENGTHS}
        adaptive = f"{drafter}/{place}/adaptive"
        own = [row for repeat in by_arm[adaptive] for row in repeat]
        tokens = sum(row["tokens"] for row in own)
        figures = {
            "by_length": fixed,
            "adaptive": ratios[adaptive],
            "break_even": next((k for k, ratio in fixed.items() if ratio >= 1.0), None),
            "bytes_to_drafter_per_token": sum(row["sent"] for row in own) / tokens,
            "bytes_from_drafter_per_token": sum(row["received"] for row in own) / tokens,
        }
        summary[f"{drafter}, {place}"] = figures
        table.add_row(
            drafter,
            place,
            *(f"{ratio:.2f}x" for ratio in fixed.values()),
            f"{figures['adaptive']:.2f}x",
            str(figures["break_even"] or "none"),
            f"{figures['bytes_to_drafter_per_token']:.0f} + {figures['bytes_from_drafter_per_token']:.0f}",
        )
    CONSOLE.print(table)
    speed = statistics.median(rate(plain, r) for r in range(options.repeats))
    CONSOLE.print(f"plain decoding: {speed:.1f} tokens/s")
    put({"benchmark": "link", "plain_tokens_per_s": speed, "placements": summary, **source}, options.out)


if __name__ == "__main__":
    main()
