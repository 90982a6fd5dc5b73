"""Which drafter is good at what? Tokens per round of every drafter in every domain, and what its drafts cost.

Greedy: the target answers each prompt once; every drafter then drafts along that answer as it would in serving, since a
greedy text is the same whoever drafts it; loops are cut out of the answers. Sampled: the engine decodes, with one
drafter at a time, and what loops there are stay in. Chains of 7, the bonus token included. Drafting is timed on one
core, one sequence at a time.

    python benchmarks/bench_drafters.py --prompts DATA/*/test.jsonl.gz --data /tmp/drafters

What was done is kept in --data, and a run that was interrupted goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from matplotlib import pyplot
from provenance import provenance
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from paceline.actors.bfloat16 import to_bits
from paceline.actors.causal_model import CausalModel, Step
from paceline.actors.drafter import Drafter
from paceline.actors.drafter_host import DrafterHost
from paceline.actors.drafter_registry import DrafterContext, build_drafter
from paceline.actors.engine import Engine
from paceline.actors.generation import Chunk, Generation
from paceline.actors.local_link import LocalLink
from paceline.actors.messages import (
    Commit,
    DraftTiming,
    Member,
    Open,
    Propose,
    RoundContext,
    SequenceOpened,
    SequenceRound,
)
from paceline.actors.model_facts import eos_ids
from paceline.actors.model_loader import load_model
from paceline.actors.model_source import resolve
from paceline.actors.sampling import Sampling
from paceline.actors.session_pool import SessionPool
from paceline.cluster.config import ClusterConfig, DrafterConfig, load_config
from paceline.cluster.engine_limits import engine_limits, feature_layers
from paceline.cluster.tokenizer import ChatTokenizer
from paceline.cluster.training import data_stages
from paceline.cluster.training.answer_store import AnswerStore
from paceline.cluster.training.feature_store import Passage, read_shards
from paceline.cluster.training.train_settings import DataSettings

HERE = Path(__file__).resolve().parent
CONSOLE = Console(width=200)


def main() -> None:
    """Measure, print a table, draw a heat map, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "deploy" / "local.yaml")
    parser.add_argument("--prompts", nargs="+", default=[str(HERE / "prompts" / "first_ride.jsonl")])
    parser.add_argument("--data", type=Path, required=True, help="answers, features and rows, kept")
    parser.add_argument("--limit", type=int, default=20, help="prompts of each domain, greedy")
    parser.add_argument("--sampled-limit", type=int, default=4, help="prompts of each domain at --temperature")
    parser.add_argument("--tokens", type=int, default=128, help="most tokens per answer")
    parser.add_argument("--length", type=int, default=7, help="of a chain")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--picture", type=Path, default=None, help="heat map; default: DATA/drafters.png")
    options = parser.parse_args()
    source = provenance()
    config = load_config(options.config)
    target = resolve(config.target.model)
    drafters = {drafter.name: drafter for drafter in config.drafters}
    layers = feature_layers(config)
    model = load_model(target.path, dtype=config.target.dtype, feature_layers=layers)
    settings = {
        "prompts": sorted(options.prompts),
        **{name: getattr(options, name) for name in ("limit", "sampled_limit", "tokens", "length", "temperature")},
        "target": config.target.model_dump(mode="json"),
        "layers": list(layers),
    }
    claim(options.data, settings, parser)
    passages = answered(model, target.path, options)
    options.end_ids = frozenset(eos_ids(target.path))
    rows_file = options.data / "rows.jsonl"
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()] if rows_file.exists() else []
    prints = {name: fingerprint(drafter) for name, drafter in drafters.items()}
    rows = [row for row in rows if prints.get(row["drafter"]) == row["fingerprint"]]  # else it was another drafter
    done = {(row["drafter"], row["temperature"]) for row in rows}
    context = DrafterContext(
        target.path, model.vocab_size, dtype=config.target.dtype, quantization=config.target.quantization
    )
    threads = torch.get_num_threads()
    with rows_file.open("a") as kept:
        for name, drafter in tqdm(drafters.items(), unit="drafter"):
            for temperature, measure in ((0.0, drafted_greedily), (options.temperature, drafted_sampled)):
                if (name, temperature) in done:
                    continue
                made = build_drafter(drafter.kind, unremembered(drafter), context)
                torch.set_num_threads(1 if temperature == 0 else threads)
                new = measure(made, model, passages, options)
                own = {"drafter": name, "temperature": temperature, "fingerprint": prints[name]}
                rows += [{**own, **row} for row in new]
                kept.writelines(json.dumps(row) + "\n" for row in rows[-len(new) :])
                kept.flush()
    torch.set_num_threads(threads)
    report(rows, list(drafters), verify_ms(model, passages, options.length), options, source)


def claim(folder: Path, settings: dict[str, Any], parser: argparse.ArgumentParser) -> None:
    """Make the folder, or see that what it holds was measured with the same settings."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "settings.json"
    if path.exists() and (held := json.loads(path.read_text())) != settings:
        changed = [name for name in settings if held.get(name) != settings[name]]
        parser.error(f"--data: {folder} was measured with another {', '.join(changed)}; give another folder")
    path.write_text(json.dumps(settings))


def fingerprint(drafter: DrafterConfig) -> str:
    """Kind, options and weights of a drafter."""
    digest = hashlib.sha256(json.dumps([drafter.kind, drafter.options], sort_keys=True).encode())
    model = drafter.options.get("model")
    for path in sorted(Path(model).glob("*")) if model else ():
        if path.suffix in (".safetensors", ".json"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def unremembered(drafter: DrafterConfig) -> dict[str, Any]:
    """Its options, without a memory of earlier answers: the order of prompts would decide."""
    return {**drafter.options, "memory_tokens": 0} if drafter.kind == "suffix" else dict(drafter.options)


def answered(model: CausalModel, target: Path, options: argparse.Namespace) -> list[Passage]:
    """The target's greedy answers with their whole prompts."""
    tokenizer = ChatTokenizer(target)
    settings = DataSettings(max_prompt=1024)
    asked = data_stages.ask_prompts(
        "prompts", data_stages.prompts_of(options.prompts), options.limit, (0.0,), settings, tokenizer, set()
    ).questions
    options.data.mkdir(parents=True, exist_ok=True)
    store = AnswerStore(options.data / "answers.jsonl")
    with tqdm(total=len(asked), desc="answers") as bar:
        data_stages.answer_stage(
            model,
            target,
            asked,
            store,
            max_tokens=options.tokens,
            batch=32,
            seed=0,
            advance=lambda count, tokens: bar.update(count),
        )
    answers = data_stages.useful(list(store.read()))
    with tqdm(total=len(answers), desc="features") as bar:
        width = model.config.width  # type: ignore[attr-defined]  # drafters with features are for Llama targets
        data_stages.feature_stage(
            model, answers, options.data / "features", 4096, width, lambda count, tokens: bar.update(count)
        )
    return read_shards(options.data / "features")


def drafted_greedily(
    drafter: Drafter, model: CausalModel, passages: Sequence[Passage], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Draft along every answer."""
    rows = []
    for seq, passage in enumerate(passages):
        tokens, at = passage.tokens.tolist(), passage.prompt_tokens + 1

        def features(start: int, stop: int, passage: Passage = passage) -> Any:
            """Those that go with the tokens at `start` .. `stop` - 1."""
            if drafter.features is None:
                return None
            rows = passage.features[max(start - 1, stop - 1 - drafter.features.window, 0) : stop - 1]
            parts = rows.view(len(rows), len(model.feature_layers), -1)
            return to_bits(
                parts[:, [model.feature_layers.index(layer) for layer in drafter.features.layers]].flatten(1)
            )

        began = time.perf_counter()
        drafter.open([Open(seq, tokens[:at], Sampling(), features(1, at))])
        drafter.propose([Propose(seq, at, 1)])
        open_ms = (time.perf_counter() - began) * 1e3
        rounds = drafted = accepted = 0
        draft_ms = catch_up_ms = 0.0
        while at < len(tokens):
            began = time.perf_counter()
            draft = drafter.propose([Propose(seq, at, options.length)])[0].tokens
            draft_ms += (time.perf_counter() - began) * 1e3
            kept = 0
            while kept < min(len(draft), len(tokens) - at) and draft[kept] == tokens[at + kept]:
                kept += 1
            rounds, drafted, accepted = rounds + 1, drafted + len(draft), accepted + kept
            stop = min(at + kept + 1, len(tokens))
            began = time.perf_counter()
            drafter.commit([Commit(seq, at, tokens[at:stop], None, features(at, stop))])
            catch_up_ms += (time.perf_counter() - began) * 1e3
            at = stop
        drafter.close([seq])
        rows.append(
            {
                "domain": passage.domain,
                "tokens": len(tokens) - passage.prompt_tokens - 1,
                "rounds": rounds,
                "drafted": drafted,
                "draft_ms": draft_ms,
                "catch_up_ms": catch_up_ms,
                "open_ms": open_ms,
            }
        )
    return rows


def drafted_sampled(
    drafter: Drafter, model: CausalModel, passages: Sequence[Passage], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Decode at a temperature with this drafter alone; the engine counts its rounds."""
    board = _OneDrafter(drafter)
    host = DrafterHost(drafter, 64)
    pool = SessionPool(
        board.members,
        lambda member: LocalLink(host, lambda scores: None),
        vocab_size=model.vocab_size,
        catch_up_tokens=8,
        deadline_s=60.0,
        feature_layers=model.feature_layers,
    )
    limits = replace(
        engine_limits(ClusterConfig(), 8192), max_draft=options.length, draft_length="longest", max_queue=10_000
    )
    engine = Engine(model, pool, board, limits, Random(1))
    thread = threading.Thread(target=engine.run)
    thread.start()
    seen: dict[str, int] = defaultdict(int)
    ended: list[tuple[str, threading.Event, list[Chunk]]] = []
    for index, passage in enumerate(passages):
        seen[passage.domain] += 1
        if seen[passage.domain] > options.sampled_limit:
            continue
        event, chunks = threading.Event(), []

        def hear(chunk: Any, event: threading.Event = event, chunks: list[Any] = chunks) -> None:
            chunks.append(chunk)
            if not isinstance(chunk, Chunk) or chunk.finish_reason is not None:
                event.set()

        prompt = tuple(passage.tokens[: passage.prompt_tokens].tolist())
        sampling = Sampling(temperature=options.temperature)
        engine.submit(Generation(str(index), prompt, options.tokens, options.end_ids, sampling), hear)
        ended.append((passage.domain, event, chunks))
    rows = []
    for domain, event, chunks in ended:
        event.wait()
        if not isinstance(chunks[-1], Chunk):
            engine.stop()
            raise chunks[-1]
        own = [chunk for chunk in chunks if chunk.token_ids][1:]  # the first token comes of the prompt's forward
        rows.append({"domain": domain, "tokens": sum(len(c.token_ids) for c in own), "rounds": len(own)})
    engine.stop()
    thread.join()
    return rows


class _OneDrafter:
    """A board with one drafter."""

    weights_number = 0

    def __init__(self, drafter: Drafter) -> None:
        layers, window = (drafter.features.layers, drafter.features.window) if drafter.features else ((), 0)
        self._members = (Member("one", "one", "local:1", feature_layers=layers, feature_window=window),)

    def weights(self, seq: int) -> Mapping[str, float]:
        """All on it."""
        return {"one": 1.0}

    def lengths(self, seq: int) -> Mapping[str, int]:
        """The target sets them."""
        return {}

    def members(self) -> Sequence[Member]:
        """Only it."""
        return self._members

    def opened(self, sequence: SequenceOpened) -> None:
        """Nobody learns."""

    def played(
        self,
        rounds: Sequence[SequenceRound],
        drafts: Sequence[DraftTiming],
        verify_ms: float,
        verify_tokens: int,
        context: RoundContext = RoundContext(),
    ) -> None:
        """Nobody learns."""

    def closed(self, seq: int) -> None:
        """Nobody learns."""


def verify_ms(model: CausalModel, passages: Sequence[Passage], length: int) -> tuple[float, float]:
    """Median milliseconds of the target's forward of one position and of `length` + 1, after a prompt."""
    cache = model.new_cache()
    tokens = max((passage.tokens.tolist() for passage in passages), key=len)[:300]
    model.forward([Step(cache, tokens, -1)])
    medians = []
    for positions in (1, length + 1):
        times = []
        for _ in range(30):
            began = time.perf_counter()
            model.forward([Step(cache, tokens[:positions])])
            times.append((time.perf_counter() - began) * 1e3)
            cache.truncate(len(tokens))
        medians.append(statistics.median(times))
    return medians[0], medians[1]


def report(
    rows: Sequence[dict[str, Any]],
    drafters: Sequence[str],
    verify: tuple[float, float],
    options: argparse.Namespace,
    source: Mapping[str, Any],
) -> None:
    """Tables, heat map, JSON line."""
    domains = sorted({row["domain"] for row in rows})
    result: dict[str, Any] = {"verify_ms": {"1": verify[0], str(options.length + 1): verify[1]}, "drafters": {}}
    for temperature in (0.0, options.temperature):
        table = Table(title=f"tokens per round, chains of {options.length}, temperature {temperature:g}")
        table.add_column("drafter")
        for domain in [*domains, "all"]:
            table.add_column(domain, justify="right")
        for column in ("draft ms/token", "catch up ms/token", "ms/token with the target") if temperature == 0 else ():
            table.add_column(column, justify="right")
        for name in drafters:
            own = [row for row in rows if row["drafter"] == name and row["temperature"] == temperature]
            entry = result["drafters"].setdefault(name, {})
            rates = {domain: _rate([row for row in own if row["domain"] == domain]) for domain in domains}
            rates["all"] = _rate(own)
            entry[f"temperature {temperature:g}"] = {domain: round(rate, 3) for domain, rate in rates.items()}
            cells = [f"{rate:.2f}" for rate in rates.values()]
            if temperature == 0:
                draft = sum(row["draft_ms"] for row in own) / max(1, sum(row["drafted"] for row in own))
                catch_up = sum(row["catch_up_ms"] for row in own) / max(1, sum(row["tokens"] for row in own))
                per_round = sum(row["draft_ms"] + row["catch_up_ms"] for row in own) / sum(row["rounds"] for row in own)
                total = (verify[1] + per_round) / rates["all"]
                entry |= {"draft_ms": draft, "catch_up_ms": catch_up, "ms_per_token": total}
                cells += [f"{draft:.2f}", f"{catch_up:.2f}", f"{total:.2f}"]
            table.add_row(name, *cells)
        CONSOLE.print(table)
    CONSOLE.print(f"target alone: {verify[0]:.2f} ms a position; {options.length + 1} positions: {verify[1]:.2f} ms")
    picture = options.picture or options.data / "drafters.png"
    draw(result["drafters"], drafters, [*domains, "all"], options.temperature, picture)
    CONSOLE.print(f"{picture}: the heat map")
    print(json.dumps({"benchmark": "drafters", **result, **source}))


def _rate(rows: Sequence[dict[str, Any]]) -> float:
    return float(sum(row["tokens"] for row in rows) / max(1, sum(row["rounds"] for row in rows)))


def draw(
    result: Mapping[str, Any], drafters: Sequence[str], domains: Sequence[str], temperature: float, picture: Path
) -> None:
    """Two heat maps side by side."""
    figure, axes = pyplot.subplots(1, 2, figsize=(4 + 1.3 * len(domains), 1.5 + 0.4 * len(drafters)), dpi=110)
    for axis, heat in zip(axes, (0.0, temperature), strict=True):
        values = [[result[name][f"temperature {heat:g}"][domain] for domain in domains] for name in drafters]
        axis.imshow(values, cmap="viridis", aspect="auto", vmin=1.0)
        axis.set_xticks(range(len(domains)), domains, rotation=45, ha="right")
        axis.set_yticks(range(len(drafters)), drafters)
        middle = (1.0 + max(map(max, values))) / 2
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                colour = "white" if value < middle else "black"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
        axis.set_title(f"tokens per round, temperature {heat:g}")
    figure.tight_layout()
    figure.savefig(picture)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
