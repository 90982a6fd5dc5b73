"""Does memory grow? Every process of a cluster, over a thousand requests.

Proportional set sizes, read between batches of requests. Growth is the slope of a line through the second half, when
caches and pools have filled, for a thousand requests. What a token takes in the target's cache is that of one block.

    python benchmarks/bench_memory.py --requests 1000 --plot memory.png
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from provenance import provenance
from result_file import add_out, put
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from paceline.actors.llama import Llama
from paceline.actors.model_loader import load_model
from paceline.actors.model_source import resolve
from paceline.cluster.config import ClusterConfig, load_config
from paceline.cluster.engine_limits import feature_layers
from paceline.cluster.served_process import ServedProcess
from paceline.cluster.training.prompt_file import read_prompts
from paceline.kernels.decoder_ops import BLOCK

HERE = Path(__file__).resolve().parent
CONSOLE = Console(width=120)


def main() -> None:
    """Measure, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "deploy" / "local.yaml")
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts" / "first_ride.jsonl")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--every", type=int, default=50, help="requests between two looks")
    parser.add_argument("--plot", type=Path, default=None, help="PNG file to draw")
    add_out(parser)
    options = parser.parse_args()
    source = provenance()
    prompts = read_prompts(options.prompts)
    looks: list[int] = []
    sizes: dict[str, list[float]] = defaultdict(list)
    document = load_config(options.config).model_dump(mode="json")
    with ServedProcess(document) as served, ThreadPoolExecutor(options.concurrency) as pool:
        client = httpx.Client(base_url=served.url, timeout=120)
        model = client.get("/v1/models").json()["data"][0]["id"]

        def ask(number: int) -> None:
            # No text comes twice, so that every cache is used as it is by strangers.
            text = f"({number}) {prompts[number % len(prompts)].text}"
            body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": options.tokens}
            client.post("/v1/chat/completions", json=body | {"temperature": 0.7}).raise_for_status()

        pids = {actor["name"]: actor["pid"] for actor in client.get("/v1/paceline/status").json()["actors"]}
        with tqdm(total=options.requests, unit="request") as bar:
            for done in range(0, options.requests + 1, options.every):
                looks.append(done)
                for name, pid in pids.items():
                    sizes[name].append(proportional_mib(pid))
                batch = range(done, min(done + options.every, options.requests))
                for _ in pool.map(ask, batch):
                    bar.update()
    report(looks, sizes, token_bytes(load_config(options.config)), options, source)


def token_bytes(config: ClusterConfig) -> dict[str, float]:
    """Bytes that a token takes in the target's cache: its keys and values, and its features where drafters read any.

    Empty where the target has no blocks, because transformers runs it.
    """
    folder = resolve(config.target.model).path
    model = load_model(folder, dtype=config.target.dtype, kv_tokens=BLOCK, feature_layers=feature_layers(config))
    if not isinstance(model, Llama):
        return {}
    block = model.pool.take()
    features = 0 if block.features is None else block.features.nbytes
    return {"keys_and_values": block.data.nbytes / BLOCK, "features": features / BLOCK}


def proportional_mib(pid: int) -> float:
    """A process's proportional set size."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"process {pid} says nothing of its memory")


def report(
    looks: list[int],
    sizes: dict[str, list[float]],
    per_token: dict[str, float],
    options: argparse.Namespace,
    source: dict[str, Any],
) -> None:
    """First and last size, and the slope of the second half."""
    table = Table(title=f"memory over {options.requests} requests of {options.tokens} tokens, MiB")
    for column in ("process", "before", "half way", "after", "growth per 1,000 requests"):
        table.add_column(column, justify="left" if column == "process" else "right")
    half = len(looks) // 2
    summary = {}
    total = np.sum(list(sizes.values()), axis=0)
    for name, series in {**sizes, "all": total.tolist()}.items():
        slope = 1000.0 * float(np.polyfit(looks[half:], series[half:], 1)[0])
        summary[name] = {"before": series[0], "half": series[half], "after": series[-1], "per_1000": slope}
        table.add_row(name, f"{series[0]:.0f}", f"{series[half]:.0f}", f"{series[-1]:.0f}", f"{slope:+.1f}")
    CONSOLE.print(table)
    CONSOLE.print("bytes of a token in the target's cache: " + ", ".join(f"{k} {v:.0f}" for k, v in per_token.items()))
    if options.plot is not None:
        draw(looks, sizes, options.plot)
    line = {"benchmark": "memory", "requests": options.requests, "mib": summary, "bytes_per_token": per_token, **source}
    put(line, options.out)


def draw(looks: list[int], sizes: dict[str, list[float]], path: Path) -> None:
    """One line per process."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for name, series in sizes.items():
        axes.plot(looks, series, label=name)
    axes.set(xlabel="requests", ylabel="proportional set size, MiB", title="Memory of each process")
    axes.legend(fontsize=7, ncols=3)
    axes.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
