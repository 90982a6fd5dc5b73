"""Beside the peers, one request at a time: every system answers the same prompts in the same run, taking turns.

Peers run in processes of their own, each under the interpreter that it is installed for, and are timed around their own
`generate`; paceline is timed around the HTTP request. For every prompt the systems follow one another in an order that
rotates. All of them get the prompts as the same token ids, end at the same ids, and keep nothing from earlier prompts:
prefix caches and the suffix drafter's memory are off.

    python benchmarks/bench_peers.py --vllm /path/to/its/python --llama-cpp /path/to/its/python

At a temperature the systems draw their own tokens, so texts differ; speeds are of all tokens that a repetition made.
With `--rows FILE` every answer's figures are kept there, and a run that was interrupted, or that `--minutes` ended,
goes on where it stopped.

`of limit` is what a system reached of tokens per round x (memory bandwidth / bytes of weights), which plain decoding
with perfect overlap would reach; the bandwidth is measured first, reading with all cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import torch
from bench_serve import measured_document, take
from kept_rows import KeptRows
from provenance import provenance
from result_file import add_out, put
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from paceline.actors.llama import Llama
from paceline.actors.model_facts import eos_ids
from paceline.actors.model_loader import load_model
from paceline.actors.model_source import embedded_gguf, resolve
from paceline.cluster.served_process import ServedProcess
from paceline.cluster.tokenizer import ChatTokenizer
from paceline.cluster.training.prompt_file import Prompt, read_prompts

HERE = Path(__file__).resolve().parent
CONSOLE = Console(width=120)
QUIET_S = 0.3  # between systems: threads that spin for work go to sleep


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer's figures."""

    tokens: int
    seconds: float
    rounds: int | None = None


class System(Protocol):
    """Something that answers prompts."""

    name: str
    bits: str

    def ask(self, prompt: Prompt, ids: list[int], options: argparse.Namespace, stop_ids: list[int]) -> Answered:
        """One answer."""
        ...


class Peer:
    """A worker process."""

    def __init__(self, name: str, bits: str, python: str, model: Path, log: Path) -> None:
        self.name, self.bits = name, bits
        self._log = log
        self._process = subprocess.Popen(
            [python, str(HERE / "peer_worker.py"), name, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )
        if self._read() != "ready":
            raise SystemExit(f"{name} did not start:\n{log.read_text()[-2000:]}")

    def ask(self, prompt: Prompt, ids: list[int], options: argparse.Namespace, stop_ids: list[int]) -> Answered:
        request = {"ids": ids, "tokens": options.tokens, "temperature": options.temperature, "stop_ids": stop_ids}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._read()
        if not line:
            raise SystemExit(f"{self.name} ended:\n{self._log.read_text()[-2000:]}")
        reply = json.loads(line)
        return Answered(reply["tokens"], reply["seconds"])

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(10)

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class Paceline:
    """A running cluster, drafting or plain."""

    def __init__(self, name: str, bits: str, served: ServedProcess, arm: dict[str, Any]) -> None:
        self.name, self.bits = name, bits
        self._client = httpx.Client(base_url=served.url, timeout=300)
        self._model = self._client.get("/v1/models").json()["data"][0]["id"]
        self._arm = arm

    def ask(self, prompt: Prompt, ids: list[int], options: argparse.Namespace, stop_ids: list[int]) -> Answered:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt.text}],
            "max_tokens": options.tokens,
            "temperature": options.temperature,
            "paceline": self._arm,
        }
        began = time.perf_counter()
        reply = self._client.post("/v1/chat/completions", json=body)
        seconds = time.perf_counter() - began
        reply.raise_for_status()
        answer = reply.json()
        assert answer["usage"]["prompt_tokens"] == len(ids)
        # The id that ends a text is one of the tokens generated, as the peers count.
        return Answered(
            answer["usage"]["completion_tokens"], seconds, answer["metrics"]["speculative_decoding"]["rounds"]
        )


def main() -> None:
    """Measure, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "deploy" / "local.yaml")
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts" / "first_ride.jsonl")
    parser.add_argument("--domains", default="math,code,sql,translation", help="of these, by comma")
    parser.add_argument("--limit", type=int, default=3, help="prompts of each domain")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128, help="most tokens per answer")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--vllm", default=None, help="interpreter that vLLM is installed for; left out if not given")
    parser.add_argument("--llama-cpp", default=None, help="the same of llama-cpp-python")
    parser.add_argument("--rows", type=Path, default=None, help="keep every answer's figures here, and resume from it")
    parser.add_argument("--minutes", type=float, default=None, help="ask nobody any more after so long; needs --rows")
    add_out(parser)
    options = parser.parse_args()
    if options.minutes is not None and options.rows is None:
        parser.error("--minutes: needs --rows FILE, to go on from")
    ends_s = None if options.minutes is None else time.monotonic() + 60.0 * options.minutes
    source = provenance()
    chosen = options.domains.split(",")
    prompts = take([p for p in read_prompts(options.prompts) if p.domain in chosen], options.limit)
    bandwidth = read_bandwidth()
    with ExitStack() as stack:
        systems = list(start(options, stack))
        rows = measure(systems, prompts, options, ends_s)
    report(systems, rows, prompts, options, bandwidth, source)


def start(options: argparse.Namespace, stack: ExitStack) -> Iterator[System]:
    """Start every system that there is an interpreter for; all are there at once, and idle unless asked."""
    model = resolve("embedded").path
    logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
    wanted = [("transformers", "bf16", sys.executable, model), ("transformers-lookup", "bf16", sys.executable, model)]
    if options.vllm:
        wanted += [("vllm", "bf16", options.vllm, model), ("vllm-ngram", "bf16", options.vllm, model)]
    if options.llama_cpp:
        wanted.append(("llama.cpp", "4 bit", options.llama_cpp, embedded_gguf()))
    for name, bits, python, path in wanted:
        with CONSOLE.status(f"starting {name}"):
            peer = Peer(name, bits, python, path, logs / f"{name}.log")
        stack.callback(peer.close)
        yield peer
    for bits, quantization in (("bf16", "none"), ("4 bit", "int4")):
        document = measured_document(options.config)
        document["target"]["quantization"] = quantization
        with CONSOLE.status(f"starting paceline, {bits}"):
            served = stack.enter_context(ServedProcess(document))
        yield Paceline(f"paceline plain {bits}", bits, served, {"enabled": False})
        yield Paceline(f"paceline {bits}", bits, served, {})


def measure(
    systems: list[System], prompts: list[Prompt], options: argparse.Namespace, ends_s: float | None
) -> list[dict[str, Any]]:
    """One row per answer."""
    folder = resolve("embedded").path
    tokenizer, stop_ids = ChatTokenizer(folder), sorted(eos_ids(folder))
    ids = [tokenizer.apply_chat([{"role": "user", "content": prompt.text}]) for prompt in prompts]
    for system in systems * 2:  # warm-up, not counted
        system.ask(prompts[0], ids[0], options, stop_ids)
    kept = KeptRows(options.rows, {"tokens_at_most": options.tokens, "temperature": options.temperature})
    done = {(row["repeat"], row["prompt"], row["system"]) for row in kept.rows}
    with tqdm(total=options.repeats * len(prompts) * len(systems), initial=len(done), unit="answer") as bar:
        for repeat in range(options.repeats):
            for index, prompt in enumerate(prompts):
                shift = (repeat + index) % len(systems)
                for system in systems[shift:] + systems[:shift]:
                    if (repeat, index, system.name) in done:
                        continue
                    if ends_s is not None and time.monotonic() >= ends_s:
                        raise SystemExit(f"{len(kept.rows)} answers are measured; the same command goes on with them")
                    time.sleep(QUIET_S)
                    answered = system.ask(prompt, ids[index], options, stop_ids)
                    kept.add({"repeat": repeat, "prompt": index, "system": system.name, **asdict(answered)})
                    bar.update()
    return kept.rows


def report(
    systems: list[System],
    rows: list[dict[str, Any]],
    prompts: list[Prompt],
    options: argparse.Namespace,
    bandwidth: float,
    source: dict[str, Any],
) -> None:
    """Medians over the repeats; ratios are taken within each repeat."""
    weights = {"bf16": weight_bytes("none"), "4 bit": weight_bytes("int4")}
    peers = [system.name for system in systems if isinstance(system, Peer)]

    def rate(name: str, repeat: int) -> float:
        own = [row for row in rows if row["system"] == name and row["repeat"] == repeat]
        return float(sum(row["tokens"] for row in own) / sum(row["seconds"] for row in own))

    repeats = range(options.repeats)
    summary: dict[str, Any] = {}
    for system in systems:
        own = [row for row in rows if row["system"] == system.name]
        rounds = sum(row["rounds"] for row in own) if own[0]["rounds"] is not None else None
        speed = statistics.median(rate(system.name, repeat) for repeat in repeats)
        per_round = None if rounds is None else sum(row["tokens"] for row in own) / rounds
        limit = (per_round or 1.0) * bandwidth / weights[system.bits]
        summary[system.name] = {
            "bits": system.bits,
            "tokens_per_s": speed,
            "tokens_per_round": per_round,
            "of_limit": speed / limit if per_round is not None or system.name in PLAIN else None,
            "vs_fastest_peer": statistics.median(
                rate(system.name, repeat) / max(rate(peer, repeat) for peer in peers) for repeat in repeats
            ),
        }
    table = Table(title=f"{len(prompts)} prompts, {options.tokens} tokens, T={options.temperature}, 1 at once")
    for column in ("system", "weights", "tok/s", "tok/round", "of limit", "vs fastest peer"):
        table.add_column(column, justify="left" if column in ("system", "weights") else "right")
    for name, row in summary.items():
        table.add_row(
            name,
            row["bits"],
            f"{row['tokens_per_s']:.1f}",
            "" if row["tokens_per_round"] is None else f"{row['tokens_per_round']:.2f}",
            "" if row["of_limit"] is None else f"{row['of_limit']:.0%}",
            f"{row['vs_fastest_peer']:.2f}x",
        )
    CONSOLE.print(table)
    for name, peer in (("paceline plain bf16", "vllm"), ("paceline plain 4 bit", "llama.cpp")):
        if peer in summary:
            ratio = statistics.median(rate(name, repeat) / rate(peer, repeat) for repeat in repeats)
            summary[name][f"vs_{peer}"] = ratio
            CONSOLE.print(f"{name} / {peer}: {ratio:.2f}")
    line = {"benchmark": "peers", "temperature": options.temperature, "systems": summary}
    line |= {"read_gb_per_s": bandwidth / 1e9, "weight_bytes": weights, **source}
    put(line, options.out)


PLAIN = ("transformers", "vllm", "llama.cpp")  # peers that read every weight once for every token


def weight_bytes(quantization: Any) -> int:
    """Bytes of weights that a forward of one position reads."""
    model = load_model(resolve("embedded").path, dtype="bfloat16", quantization=quantization)
    assert isinstance(model, Llama)
    return model.weight_bytes


def read_bandwidth() -> float:
    """Bytes per second that all cores read, the median of ten passes over half a GiB."""
    block = torch.ones(2**27, dtype=torch.int32)
    taken = []
    for _ in range(10):
        began = time.perf_counter()
        block.max()
        taken.append(time.perf_counter() - began)
    return block.nbytes / statistics.median(taken)


if __name__ == "__main__":
    main()
