"""Is the output the target's own? Every greedy answer of a running cluster against plain decoding of the same model.

In float32 every answer, alone and with others at once, must equal plain decoding token for token. In bfloat16 the
shape of a batch changes rounding, so two tokens whose logits nearly tie may swap. There each answer is checked position
by position against a float32 forward over the same prefix: the token chosen may lie below the best one by no more than
the rounding bound, which is twice the largest difference between a bfloat16 and a float32 logit seen on plain decoding
itself (each of two logits may be off by that much). Deviations are counted, and any beyond the bound fails the check.

    python benchmarks/check_lossless.py --dtype float32
    python benchmarks/check_lossless.py --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from provenance import provenance
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from paceline.actors.causal_model import CausalModel, Step
from paceline.actors.model_facts import eos_ids
from paceline.actors.model_loader import load_model
from paceline.actors.model_source import resolve
from paceline.cluster.config import load_config
from paceline.cluster.served_process import ServedProcess
from paceline.cluster.tokenizer import ChatTokenizer
from paceline.cluster.training.prompt_file import read_prompts

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Plain:
    """Plain decoding of one prompt: ids in, ids out, and the largest rounding difference of a logit on the way."""

    prompt: list[int]
    tokens: list[int]
    rounding: float


def main() -> None:
    """Check, print a table, end with one JSON line; exit 1 where an answer is not the target's own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "deploy" / "local.yaml")
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts" / "first_ride.jsonl")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), required=True)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--concurrency", type=int, default=8)
    options = parser.parse_args()
    document = load_config(options.config).model_dump(mode="json")
    document["target"]["dtype"] = options.dtype
    prompts = [prompt.text for prompt in read_prompts(options.prompts)]
    folder = resolve(document["target"]["model"]).path
    exact = load_model(folder, dtype="float32")
    served_model = exact if options.dtype == "float32" else load_model(folder, dtype=options.dtype)
    tokenizer, stop = ChatTokenizer(folder), eos_ids(folder)
    plains = []
    for text in tqdm(prompts, desc="plain decoding", unit="prompt"):
        ids = tokenizer.apply_chat([{"role": "user", "content": text}])
        plains.append(decode(served_model, exact, ids, stop, options.tokens))
    with ServedProcess(document) as served:
        answers = {
            "alone": gather(served.url, prompts, options.tokens, streamed=False, concurrency=1),
            "alone, streamed": gather(served.url, prompts, options.tokens, streamed=True, concurrency=1),
            f"{options.concurrency} at once": gather(
                served.url, prompts, options.tokens, streamed=False, concurrency=options.concurrency
            ),
        }
    raise SystemExit(report(exact, plains, answers, options.dtype))


def decode(model: CausalModel, exact: CausalModel, prompt: list[int], stop: frozenset[int], count: int) -> Plain:
    """One token at a time; the exact model follows on the same prefix to measure the rounding."""
    cache, shadow = model.new_cache(), exact.new_cache()
    tokens: list[int] = []
    pending, rounding = prompt, 0.0
    while len(tokens) < count and not (tokens and tokens[-1] in stop):
        logits = model.forward([Step(cache, pending, -1)])[0].float()
        if model is not exact:
            rounding = max(rounding, float((logits - exact.forward([Step(shadow, pending, -1)])[0]).abs().max()))
        pending = [int(logits.argmax())]
        tokens += pending
    return Plain(prompt, tokens, rounding)


def gather(url: str, prompts: list[str], tokens: int, streamed: bool, concurrency: int) -> list[list[int]]:
    """Every prompt's answer as token ids."""
    model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]

    def one(prompt: str) -> list[int]:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "temperature": 0,
            "stream": streamed,
            "return_token_ids": True,
        }
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=600)
        reply.raise_for_status()
        if not streamed:
            ids: list[int] = reply.json()["choices"][0]["token_ids"]
            return ids
        events = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
        return [
            token
            for event in events
            if event != "[DONE]"
            for choice in json.loads(event)["choices"]
            for token in choice.get("token_ids") or []
        ]

    with ThreadPoolExecutor(concurrency) as pool:
        label = f"{concurrency} at once" + (", streamed" if streamed else "")
        return list(tqdm(pool.map(one, prompts), desc=label, total=len(prompts), unit="prompt"))


def gaps(exact: CausalModel, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """How far below the best logit each chosen token lies in float32, [tokens]."""
    logits = exact.forward([Step(exact.new_cache(), prompt + tokens[:-1], len(prompt) - 1)])
    return logits.max(dim=-1).values - logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]


def report(exact: CausalModel, plains: list[Plain], answers: dict[str, list[list[int]]], dtype: str) -> int:
    """Print what deviated and by how much; returns the exit status."""
    bound = 2 * max(plain.rounding for plain in plains)
    table = Table(title=f"{dtype}: {len(plains)} prompts, rounding bound {bound:.3f}")
    for column in ("requests", "answers equal", "tokens", "first deviations", "largest gap", "beyond the bound"):
        table.add_column(column, justify="left" if column == "requests" else "right")
    figures: dict[str, Any] = {}
    for name, texts in answers.items():
        equal = sum(tokens == plain.tokens for tokens, plain in zip(texts, plains, strict=True))
        distances = [gaps(exact, plain.prompt, tokens) for tokens, plain in zip(texts, plains, strict=True)]
        largest = max(float(distance.max()) for distance in distances)
        beyond = sum(int((distance > bound).sum()) for distance in distances)
        figures[name] = {
            "answers": len(texts),
            "equal": equal,
            "tokens": sum(len(tokens) for tokens in texts),
            "deviating": len(texts) - equal,
            "largest_gap": largest,
            "beyond_bound": beyond if dtype != "float32" else len(texts) - equal,
        }
        row = figures[name]
        table.add_row(
            name,
            f"{equal} of {len(texts)}",
            str(row["tokens"]),
            str(row["deviating"]),
            f"{largest:.4f}",
            str(row["beyond_bound"]),
        )
    Console().print(table)
    print(json.dumps({"benchmark": "lossless", "dtype": dtype, "bound": bound, "requests": figures, **provenance()}))
    return int(any(row["beyond_bound"] for row in figures.values()))


if __name__ == "__main__":
    main()
