"""What do fewer bits cost and save? The lean decoder with plain, int8 and int4 weights on a CPU, side by side.

Quality: perplexity over the project's own README and decisions, and how often the likeliest next token is the one of
the plain bfloat16 weights, the text being given. Time: one forward of 1, 4, 8 and 16 positions behind a context of 256,
the three models in turn, so that the machine's drift falls on all alike.

    python benchmarks/check_quantization.py
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import torch
from provenance import provenance
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from tqdm import tqdm

from paceline.actors.causal_model import CausalModel, Step
from paceline.actors.model_facts import QUANTIZATIONS
from paceline.actors.model_loader import load_model
from paceline.actors.model_source import resolve

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("README.md", "docs/decisions.md")
WINDOW = 512  # tokens read from an empty cache; the first of each is not scored
CONTEXT = 256
POSITIONS = (1, 4, 8, 16)


def main() -> None:
    """Measure, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded", help="`embedded`, a local folder, or a hub id")
    parser.add_argument("--dtype", default="bfloat16", help="of activations, and of the plain weights")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tokens", type=int, default=4096, help="most tokens of text")
    parser.add_argument("--repeats", type=int, default=40, help="forwards timed of each model and number of positions")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = resolve(options.model).path
    text = "\n".join((ROOT / name).read_text() for name in TEXTS)
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids[: options.tokens]
    models = {kind: load_model(folder, dtype=options.dtype, quantization=kind) for kind in QUANTIZATIONS}
    quality = {kind: read(model, ids, kind) for kind, model in models.items()}
    plain = quality["none"][1]
    times = measure(models, ids[:CONTEXT], options.repeats)
    table = Table(title=f"{options.model}, {options.dtype}, {options.threads} threads, {len(ids)} tokens of text")
    columns = [
        "weights",
        "perplexity",
        "same next token",
        *(f"{count} pos., ms" for count in POSITIONS),
        "1 pos. vs none",
    ]
    for column in columns:
        table.add_column(column, justify="left" if column == "weights" else "right")
    summary = {}
    for kind in QUANTIZATIONS:
        loss, choice = quality[kind]
        medians = {count: statistics.median(times[kind, count]) for count in POSITIONS}
        ratio = statistics.median(a / b for a, b in zip(times["none", 1], times[kind, 1], strict=True))
        summary[kind] = {
            "perplexity": math.exp(loss),
            "same_next_token": (choice == plain).float().mean().item(),
            "ms_by_positions": {str(count): ms for count, ms in medians.items()},
            "speed_of_1_position_vs_none": ratio,
        }
        shown = [f"{medians[count]:.1f}" for count in POSITIONS]
        agreement = f"{summary[kind]['same_next_token']:.2%}"
        table.add_row(kind, f"{math.exp(loss):.3f}", agreement, *shown, f"{ratio:.2f}x")
    Console(width=120).print(table)
    line = {"benchmark": "quantization", "model": options.model, "dtype": options.dtype, "threads": options.threads}
    print(json.dumps({**line, "tokens": len(ids), "weights": summary, **provenance()}))


def read(model: CausalModel, ids: list[int], name: str) -> tuple[float, torch.Tensor]:
    """Mean negative log likelihood of a token, and the likeliest next token at every scored position."""
    losses, choices = [], []
    for start in tqdm(range(0, len(ids) - 1, WINDOW), desc=f"reading, {name}", leave=False):
        window = ids[start : start + WINDOW]
        if len(window) < 2:
            break
        logits = model.forward([Step(model.new_cache(), window)])[:-1].float()
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(window[1:]), reduction="none"))
        choices.append(logits.argmax(dim=-1))
    return float(torch.cat(losses).double().mean()), torch.cat(choices)


def measure(models: dict[str, CausalModel], context: list[int], repeats: int) -> dict[tuple[str, int], list[float]]:
    """Milliseconds of forwards, by weights and number of positions; the models take turns."""
    caches = {kind: model.new_cache() for kind, model in models.items()}
    for kind, model in models.items():
        model.forward([Step(caches[kind], context, -1)])
    times: dict[tuple[str, int], list[float]] = {(kind, count): [] for kind in models for count in POSITIONS}
    for repeat in tqdm(range(repeats + 2), desc="timing", leave=False):
        for count in POSITIONS:
            for kind, model in models.items():
                began = time.perf_counter()
                model.forward([Step(caches[kind], context[:count])])
                if repeat >= 2:  # the first ones warm up
                    times[kind, count].append((time.perf_counter() - began) * 1e3)
                caches[kind].truncate(len(context))
    return times


if __name__ == "__main__":
    main()
