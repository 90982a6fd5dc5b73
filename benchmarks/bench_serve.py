"""Does the selector pay? Plain decoding, each drafter alone and the selector, through HTTP, on the same prompts.

All of them are the same running cluster: a request's `paceline` field picks one. For every prompt the arms follow one
another in an order that rotates, so that the machine's drift falls on all alike. Tokens are those of the replies'
`usage`. Nothing is kept of earlier requests (the suffix drafter's memory, the target's shared prefixes), or the second
repetition would be read from there.

    python benchmarks/bench_serve.py --repeats 5
    python benchmarks/bench_serve.py --concurrency 8        # the prompts eight at a time

With `--rows FILE` every answer's figures are kept there, and a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from kept_rows import KeptRows
from provenance import provenance
from result_file import add_out, put
from rich.console import Console
from rich.table import Table
from served_answer import Answer, ask
from tqdm import tqdm

from paceline.cluster.config import load_config
from paceline.cluster.served_process import ServedProcess
from paceline.cluster.training.prompt_file import Prompt, read_prompts

HERE = Path(__file__).resolve().parent
CONSOLE = Console(width=120)


def main() -> None:
    """Measure, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "deploy" / "local.yaml")
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts" / "first_ride.jsonl")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128, help="most tokens per answer")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--concurrency", type=int, default=1, help="prompts asked at the same time")
    parser.add_argument("--limit", type=int, default=None, help="use only the first prompts of each domain")
    parser.add_argument("--arms", default=None, help="only these, by comma; plain and selector are always there")
    parser.add_argument("--rows", type=Path, default=None, help="keep every answer's figures here, and resume from it")
    add_out(parser)
    options = parser.parse_args()
    source = provenance()  # now: the tree may change while it runs
    document = measured_document(options.config)
    prompts = take(read_prompts(options.prompts), options.limit)
    arms: dict[str, dict[str, Any]] = {"plain": {"enabled": False}}
    drafters = [drafter["name"] for drafter in document["drafters"]]
    wanted = drafters if options.arms is None else options.arms.split(",")
    if unknown := set(wanted) - {*drafters, "plain", "selector"}:
        parser.error(f"--arms: {', '.join(sorted(unknown))}: {options.config} has {', '.join(drafters)}")
    arms |= {name: {"drafter": name} for name in drafters if name in wanted}
    arms["selector"] = {}
    with ServedProcess(document) as served:
        model = httpx.get(f"{served.url}/v1/models").json()["data"][0]["id"]
        runs = measure(served.url, model, prompts, arms, options)
        memory_mib = cluster_memory_mib(served.pid)
    report(runs, prompts, list(arms), options, {"cluster_memory_mib": memory_mib, **source})


def measured_document(config: Path) -> dict[str, Any]:
    """A configuration that keeps nothing of earlier requests: a prompt that comes again costs what it cost."""
    document = load_config(config).model_dump(mode="json")
    document["target"]["prefix_cache_tokens"] = 0
    del document["http"]["port"]  # any that is free
    for drafter in document["drafters"]:
        if drafter["kind"] == "suffix":
            drafter["options"] = {**drafter["options"], "memory_tokens": 0}
    return document


def take(prompts: list[Prompt], limit: int | None) -> list[Prompt]:
    """The first `limit` prompts of each domain."""
    seen: dict[str, int] = defaultdict(int)
    kept = []
    for prompt in prompts:
        seen[prompt.domain] += 1
        if limit is None or seen[prompt.domain] <= limit:
            kept.append(prompt)
    return kept


def measure(
    url: str, model: str, prompts: list[Prompt], arms: dict[str, dict[str, Any]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row per group of prompts that are asked together: repeat, group, arm, tokens, seconds, rounds."""
    groups = [prompts[at : at + options.concurrency] for at in range(0, len(prompts), options.concurrency)]
    settings = {"prompts": [p.text for p in prompts], "tokens": options.tokens, "temperature": options.temperature}
    kept = KeptRows(options.rows, {**settings, "concurrency": options.concurrency, "config": str(options.config)})
    done = {(row["repeat"], row["prompt"], row["arm"]) for row in kept.rows}
    asking = partial(ask, tokens=options.tokens, temperature=options.temperature)
    names = list(arms)
    with httpx.Client(base_url=url, timeout=300) as client, ThreadPoolExecutor(options.concurrency) as pool:
        for name in names * 2:  # warm-up, not counted
            asking(client, model, prompts[0].text, arms[name])
        bar = tqdm(total=options.repeats * len(groups) * len(names), initial=len(kept.rows), unit="group")
        for repeat in range(options.repeats):
            for index, group in enumerate(groups):
                shift = (repeat + index) % len(names)
                for name in names[shift:] + names[:shift]:
                    if (repeat, index, name) in done:
                        continue
                    arm = arms[name]
                    began = time.perf_counter()
                    asked = [pool.submit(asking, client, model, prompt.text, arm) for prompt in group]
                    answers = [each.result() for each in asked]
                    row = {
                        "repeat": repeat,
                        "prompt": index,
                        "domain": group[0].domain if options.concurrency == 1 else "mixed",
                        "arm": name,
                        "tokens": sum(answer.tokens for answer in answers),
                        "seconds": time.perf_counter() - began,
                        "rounds": sum(answer.rounds for answer in answers),
                        "rounds_by_drafter": rounds_by_drafter(answers),
                    }
                    kept.add(row)
                    bar.update()
        bar.close()
    return kept.rows


def rounds_by_drafter(answers: list[Answer]) -> dict[str, float]:
    """Rounds that each drafter played, over some answers."""
    total: dict[str, float] = defaultdict(float)
    for answer in answers:
        for name, rounds in answer.rounds_by_drafter.items():
            total[name] += rounds
    return total


def report(
    rows: list[dict[str, Any]],
    prompts: list[Prompt],
    names: list[str],
    options: argparse.Namespace,
    source: dict[str, Any],
) -> None:
    """Medians over the repeats of tokens per second over all prompts; ratios are taken within each repeat."""

    def rate(arm: str, repeat: int, domain: str | None = None) -> float:
        chosen = [
            r for r in rows if r["arm"] == arm and r["repeat"] == repeat and (domain is None or r["domain"] == domain)
        ]
        return float(sum(r["tokens"] for r in chosen) / sum(r["seconds"] for r in chosen))

    repeats = range(options.repeats)
    singles = [name for name in names if name not in ("plain", "selector")]
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    title = f"{len(prompts)} prompts, {options.tokens} tokens, T={options.temperature}, {options.concurrency} at once"
    table = Table(title=title)
    for column in ("arm", "tok/s", "vs plain", "tok/round", *domains):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    summary = {}
    for name in names:
        own = [r for r in rows if r["arm"] == name]
        summary[name] = {
            "tokens_per_s": statistics.median(rate(name, r) for r in repeats),
            "vs_plain": statistics.median(rate(name, r) / rate("plain", r) for r in repeats),
            "tokens_per_round": sum(r["tokens"] for r in own) / sum(r["rounds"] for r in own),
            "vs_plain_by_domain": {
                d: statistics.median(rate(name, r, d) / rate("plain", r, d) for r in repeats) for d in domains
            },
        }
        figures = summary[name]
        table.add_row(
            name,
            f"{figures['tokens_per_s']:.1f}",
            f"{figures['vs_plain']:.2f}x",
            f"{figures['tokens_per_round']:.2f}",
            *(f"{figures['vs_plain_by_domain'][d]:.2f}x" for d in domains),
        )
    CONSOLE.print(table)
    best = max(singles, key=lambda name: summary[name]["tokens_per_s"]) if singles else "plain"
    ratio = statistics.median(rate("selector", r) / rate(best, r) for r in repeats)
    oracle = {
        "speed": statistics.median(
            rate("selector", r) / best_by_prompt(rows, [*singles, "plain"], r, "seconds") for r in repeats
        ),
        "tokens_per_round": statistics.median(
            sum(row["tokens"] for row in rows if row["arm"] == "selector" and row["repeat"] == r)
            / sum(row["rounds"] for row in rows if row["arm"] == "selector" and row["repeat"] == r)
            / best_by_prompt(rows, [*singles, "plain"], r, "rounds")
            for r in repeats
        ),
    }
    share: dict[str, float] = defaultdict(float)
    chosen = [r for r in rows if r["arm"] == "selector"]
    for row in chosen:
        for name, part in row["rounds_by_drafter"].items():
            share[name] += part / sum(r["rounds"] for r in chosen)
    CONSOLE.print(f"selector / best single drafter ({best}): {ratio:.3f}")
    CONSOLE.print(
        f"selector / per-request oracle (the best arm of each prompt, known afterwards): {oracle['speed']:.3f}, "
        f"in tokens per round {oracle['tokens_per_round']:.3f}"
    )
    CONSOLE.print("selector's rounds: " + ", ".join(f"{name} {part:.0%}" for name, part in sorted(share.items())))
    line = {
        "benchmark": "serve",
        "temperature": options.temperature,
        "concurrency": options.concurrency,
        "arms": summary,
        "best_single": best,
        "selector_vs_best_single": ratio,
        "selector_vs_oracle": oracle,
        "selector_share": share,
        **source,
    }
    put(line, options.out)


def best_by_prompt(rows: list[dict[str, Any]], names: list[str], repeat: int, by: str) -> float:
    """Tokens per second (`by` seconds) or round of the arm that did best on each prompt of one repetition.

    Chosen and measured on the same run, so it flatters the oracle a little.
    """
    best: dict[int, dict[str, Any]] = {}
    for row in rows:
        if row["repeat"] == repeat and row["arm"] in names:
            held = best.get(row["prompt"])
            if held is None or row["tokens"] / max(row[by], 1e-9) > held["tokens"] / max(held[by], 1e-9):
                best[row["prompt"]] = row
    return float(sum(row["tokens"] for row in best.values()) / sum(row[by] for row in best.values()))


def cluster_memory_mib(pid: int) -> float:
    """Proportional set size of `paceline serve` and everything that it started, in MiB."""
    total = 0.0
    for process in descendants(pid):
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def descendants(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += descendants(int(child))
    return found


if __name__ == "__main__":
    main()
