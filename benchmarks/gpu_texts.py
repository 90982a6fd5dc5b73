"""Texts of the GPU benchmark: a small trained target with drafters in this process, beside transformers' own ways.

Greedy, one request at a time, all systems in turn on each prompt in an order that rotates; the first turn of each
system is not counted. transformers: `generate` plainly, with prompt lookup, and assisted by the target's own first
layers.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_steps import LocalEngine
from gpu_timing import Clock

from paceline.actors.drafter_registry import DrafterContext, build_drafter
from paceline.actors.head_config import WEIGHTS_FILE, HeadConfig
from paceline.actors.head_weights import NORMS, head_tensors, matrix_shapes
from paceline.actors.model_facts import eos_ids
from paceline.actors.model_loader import load_model

Prompt = tuple[int, ...]
# Prompt and most tokens -> the answer's tokens and its rounds.
Answer = Callable[[Prompt, int], tuple[list[int], int]]
DRAFT = 7
ASSISTANT_LAYERS = 8


def read_prompts(model: Path, file: Path, limit: int) -> list[Prompt]:
    """Prompts as ChatML, which SmolLM2 was taught, by the folder's own tokenizer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    texts = [json.loads(line)["prompt"] for line in file.read_text().splitlines()][:limit]
    chat = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    return [tuple(tokenizer.encode(chat.format(text), add_special_tokens=False).ids) for text in texts]


def text_rows(
    model: Path, head: Path | None, prompts: Sequence[Prompt], tokens: int, dtype: str, clock: Clock
) -> Iterator[dict[str, Any]]:
    """Tokens per second of every system."""
    stop_ids = eos_ids(model)
    engines = own_systems(model, head, dtype, clock)
    systems: dict[str, Answer] = {name: _by_engine(engine, stop_ids) for name, engine in engines.items()}
    systems |= transformers_systems(model, dtype, clock.device, stop_ids)
    names = list(systems)
    seconds: dict[str, list[float]] = {name: [] for name in names}  # of each repeat, all prompts together
    made: dict[str, tuple[int, int]] = {}
    answers: dict[str, list[list[int]]] = {}
    for repeat in range(clock.repeats + 1):
        spent = dict.fromkeys(names, 0.0)
        made = dict.fromkeys(names, (0, 0))
        answers = {name: [] for name in names}
        for number, prompt in enumerate(prompts):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                clock.wait()
                began = time.perf_counter()
                answer, rounds = systems[name](prompt, tokens)
                clock.wait()
                spent[name] += time.perf_counter() - began
                made[name] = made[name][0] + len(answer), made[name][1] + rounds
                answers[name].append(answer)
        for name in names if repeat else ():
            seconds[name].append(spent[name])
    for engine in engines.values():
        engine.stop()
    speeds = {name: made[name][0] / statistics.median(seconds[name]) for name in names}
    fastest_peer = max(speed for name, speed in speeds.items() if name.startswith("transformers"))
    for name in names:
        same = sum(a == b for a, b in zip(answers[name], answers["paceline, plain"], strict=True))
        yield {
            "system": name,
            "tokens/s": speeds[name],
            "vs plain": speeds[name] / speeds["paceline, plain"],
            "vs fastest peer": speeds[name] / fastest_peer,
            "tokens/round": made[name][0] / made[name][1] if made[name][1] else None,
            "answers as plain": f"{same} of {len(prompts)}",
        }


def own_systems(model: Path, head: Path | None, dtype: str, clock: Clock) -> dict[str, LocalEngine]:
    """An engine for each drafter; the model is loaded once with features, for the head, and once without."""
    device = str(clock.device)

    def load(layers: Sequence[int] = ()) -> Any:
        return load_model(model, dtype=dtype, device=device, kv_tokens=1 << 13, feature_layers=layers)

    plain = load()
    context = DrafterContext(model, plain.vocab_size, device=device, dtype=dtype)
    kinds: dict[str, dict[str, Any]] = {"ngram": {}, "suffix": {"memory_tokens": 0}}
    engines = {"paceline, plain": LocalEngine(plain, None, 1, DRAFT)}
    for kind, options in kinds.items():
        engines[f"paceline, {kind}"] = LocalEngine(plain, build_drafter(kind, options, context), 1, DRAFT)
    if head is not None:
        drafter = build_drafter("head", {"model": str(head)}, context)
        layers = drafter.features.layers if drafter.features else ()
        engines[f"paceline, head {head.name}"] = LocalEngine(load(layers), drafter, 1, DRAFT)
    return engines


def transformers_systems(model: Path, dtype: str, device: torch.device, stop_ids: frozenset[int]) -> dict[str, Answer]:
    """transformers' `generate`, three ways."""
    from transformers import AutoModelForCausalLM

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).to(device).eval()

    target, assistant = load(), load()
    layers = min(ASSISTANT_LAYERS, len(assistant.model.layers))
    assistant.model.layers = assistant.model.layers[:layers]
    assistant.config.num_hidden_layers = layers
    ways: dict[str, dict[str, Any]] = {
        "transformers, generate": {},
        "transformers, prompt lookup": {"prompt_lookup_num_tokens": DRAFT},
        "transformers, assisted": {"assistant_model": assistant},
    }

    def answer(prompt: Prompt, tokens: int, way: dict[str, Any]) -> tuple[list[int], int]:
        ids = torch.tensor([prompt], device=device)
        with torch.inference_mode():
            out = target.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                eos_token_id=sorted(stop_ids) or None,
                pad_token_id=0,
                **way,
            )
        return out[0, len(prompt) :].tolist(), 0

    return {name: lambda prompt, tokens, way=way: answer(prompt, tokens, way) for name, way in ways.items()}


def _by_engine(engine: LocalEngine, stop_ids: frozenset[int]) -> Answer:
    return lambda prompt, tokens: engine.generate([prompt], tokens, stop_ids)[0]


def toy_texts(folder: Path) -> tuple[Path, Path, list[Prompt]]:
    """A tiny random target, a head for it, and prompts, for a dry run."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_attention_heads": 6, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=97, num_hidden_layers=3, head_dim=16, max_position_embeddings=512, **sizes)
    config.eos_token_id = 2
    model, head = folder / "target", folder / "toy-head"
    LlamaForCausalLM(config).save_pretrained(model)
    head.mkdir()
    facts = HeadConfig(97, 48, 6, 2, 16, 64, 10_000.0, 1e-6, 97, (1, 2, 3))
    matrices = {name: 0.1 * torch.randn(shape) for name, shape in matrix_shapes(facts).items()}
    save_file(head_tensors(matrices, {name: torch.ones(48) for name in NORMS}, torch.arange(97)), head / WEIGHTS_FILE)
    facts.write(head)
    return model, head, [tuple((seed + i * i) % 90 + 3 for i in range(12)) for seed in (1, 4)]
