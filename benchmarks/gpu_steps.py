"""Forwards of the GPU benchmark: a target shaped like Llama 3.1 8B with random weights, and the rounds around them.

How long a forward takes over the time its weights take to be read, for a number of sequences and of positions; and what
of a round of the real engine is no forward, with n-gram drafts in the same process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import torch
from gpu_timing import Clock

from paceline.actors import decoder_stack
from paceline.actors.causal_model import Cache, Step
from paceline.actors.cuda_graphs import CudaGraphs
from paceline.actors.drafter import Drafter
from paceline.actors.drafter_host import DrafterHost
from paceline.actors.engine import Engine, EngineLimits
from paceline.actors.generation import Chunk, Generation
from paceline.actors.llama import Llama
from paceline.actors.llama_config import LlamaConfig
from paceline.actors.local_link import LocalLink
from paceline.actors.messages import Member, SequenceOpened
from paceline.actors.session_pool import SessionPool

LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
}
TOY = LLAMA_8B | {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


class RandomWeights:
    """A checkpoint that was never trained: what `Llama` reads, made as it is read."""

    def __init__(self, document: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> None:
        d = document
        width, inner = d["hidden_size"], d["intermediate_size"]
        kv_width = width // d["num_attention_heads"] * d["num_key_value_heads"]
        per_layer = {
            "input_layernorm": (width,),
            "post_attention_layernorm": (width,),
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (kv_width, width),
            "self_attn.v_proj": (kv_width, width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }
        head = (d["vocab_size"], width)
        self.names: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": head, "lm_head.weight": head}
        self.names["model.norm.weight"] = (width,)
        for layer in range(d["num_hidden_layers"]):
            self.names |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in per_layer.items()}
        self._dtype, self._device = dtype, device

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor: a norm of ones, or small random numbers."""
        shape = self.names[name]
        made = torch.empty(shape, dtype=self._dtype, device=self._device)
        return made.fill_(1.0) if len(shape) == 1 else made.normal_(std=0.02)

    def joined(self, names: list[str]) -> torch.Tensor:
        """Several, joined along their rows."""
        return torch.cat([self.tensor(name) for name in names])


def random_target(document: Mapping[str, Any], dtype: torch.dtype, device: torch.device, kv_tokens: int) -> Llama:
    """The model; on a CPU with the ops and the buckets of a GPU, in Triton's interpreter."""
    config = LlamaConfig.parse(dict(document))
    if config is None:
        raise ValueError("document: expected a configuration that the lean decoder runs")
    weights: Any = RandomWeights(document, dtype, device)
    if device.type == "cuda":
        return Llama(config, weights, kv_tokens=kv_tokens)
    from paceline.kernels.decoder_triton import TritonOps

    chosen = decoder_stack.decoder_ops
    try:
        decoder_stack.decoder_ops = lambda *_: TritonOps("a dry run")
        model = Llama(config, weights, kv_tokens=kv_tokens)
    finally:
        decoder_stack.decoder_ops = chosen

    def record(work: Callable[[], None]) -> Callable[[], None]:
        work()
        return work

    model._graphs = model.new_graphs(record)
    return model


def step_rows(
    model: Llama, clock: Clock, best_gb_s: float, batches: Sequence[int], positions: Sequence[int], context: int
) -> Iterator[dict[str, Any]]:
    """A forward of so many sequences and positions behind a context, host included, over its weights' floor."""
    floor_ms = model.weight_bytes / best_gb_s / 1e6
    for batch in batches:
        caches = [model.new_cache() for _ in range(batch)]
        for number, cache in enumerate(caches):
            model.forward([Step(cache, [(7 * number + i) % model.vocab_size for i in range(context)], -1)])
        for count in positions:

            def forward(count: int = count, caches: Sequence[Any] = caches) -> None:
                model.forward([Step(cache, list(range(count))) for cache in caches])
                for cache in caches:
                    cache.truncate(context)

            took_ms = clock.host_ms(forward)
            yield {
                "batch": batch,
                "positions": count,
                "context": context,
                "step_ms": took_ms,
                "weights_floor_ms": floor_ms,
                "step/floor": took_ms / floor_ms,
                "graph": CudaGraphs.fits(batch, batch * count),
            }


class TimedModel:
    """A model whose forwards are timed, each waited for: what lies between two of them is the round's own."""

    def __init__(self, model: Llama, clock: Clock) -> None:
        self._model, self._clock = model, clock
        self.vocab_size, self.max_positions = model.vocab_size, model.max_positions
        self.device, self.dtype, self.feature_layers = model.device, model.dtype, model.feature_layers
        self.spans: list[tuple[float, float, int]] = []  # began, ended, rows

    def new_cache(self, prompt: Sequence[int] = ()) -> Cache:
        """The model's."""
        return self._model.new_cache(prompt)

    def positions_held(self, caches: Sequence[Cache]) -> int:
        """The model's."""
        return self._model.positions_held(caches)

    def forward(self, steps: Sequence[Step]) -> torch.Tensor:
        """The model's, timed."""
        began = time.perf_counter()
        logits = self._model.forward(steps)
        self._clock.wait()
        self.spans.append((began, time.perf_counter(), sum(len(step.token_ids) for step in steps)))
        return logits


def overhead_row(
    model: Llama, clock: Clock, drafter: Drafter | None, name: str, batch: int, prompt: int, tokens: int
) -> dict[str, Any]:
    """Share of the rounds' time that is no forward. The first rounds, which compile and record, are left out."""
    timed = TimedModel(model, clock)
    engine = LocalEngine(timed, drafter, max_sequences=batch, max_draft=7)
    texts = [tuple((11 * number + i * i) % model.vocab_size for i in range(prompt)) for number in range(batch)]
    engine.generate(texts, tokens)  # compiles and records
    timed.spans.clear()
    answers = engine.generate(texts, tokens)
    engine.stop()
    rounds = [
        (ended - began, after[0] - ended)
        for (began, ended, rows), after in zip(timed.spans, timed.spans[1:], strict=False)
        if rows < prompt
    ]
    forwards, between = (sum(part) for part in zip(*rounds, strict=True))
    return {
        "drafter": name,
        "batch": batch,
        "rounds": len(rounds),
        # The first token comes of the prompt's forward.
        "tokens/round": sum(len(made) - 1 for made, _ in answers) / sum(chunks - 1 for _, chunks in answers),
        "forward_ms": 1e3 * forwards / len(rounds),
        "between_ms": 1e3 * between / len(rounds),
        "overhead": between / (forwards + between),
    }


class LocalEngine:
    """The engine on a thread of its own, with at most one drafter, in this process; its own board of weights.

    Args:
        model: The target.
        drafter: What drafts; None decodes plainly.
        max_sequences: At once.
        max_draft: Most tokens of a draft.
    """

    weights_number = 0

    def __init__(self, model: Any, drafter: Drafter | None, max_sequences: int, max_draft: int) -> None:
        wanted = None if drafter is None else drafter.features
        features = ((), 0) if wanted is None else (wanted.layers, wanted.window)
        member = Member("one", "one", "local:1", feature_layers=features[0], feature_window=features[1])
        self._members = () if drafter is None else (member,)
        host = None if drafter is None else DrafterHost(drafter, max_sequences)
        pool = SessionPool(
            lambda: self._members,
            lambda member: LocalLink(host, lambda scores: None),  # type: ignore[arg-type]
            vocab_size=model.vocab_size,
            catch_up_tokens=8,
            deadline_s=60.0,
            feature_layers=model.feature_layers,
        )
        limits = EngineLimits(
            max_sequences=max_sequences,
            max_tokens_in_flight=1 << 20,
            max_queue=64,
            max_context=8192,
            max_draft=max_draft,
            draft_length="measured",
            max_prefill=1 << 13,
            evaluation_share=0.0625,
            report_tokens=False,
        )
        self._speculate = drafter is not None
        self._engine = Engine(model, pool, self, limits, Random(1))
        self._thread = threading.Thread(target=self._engine.run)
        self._thread.start()

    def generate(
        self, prompts: Sequence[tuple[int, ...]], tokens: int, stop_ids: frozenset[int] = frozenset()
    ) -> list[tuple[list[int], int]]:
        """Greedy answers to prompts at once: the tokens of each, and its rounds."""
        done = [threading.Event() for _ in prompts]
        heard: list[list[Any]] = [[] for _ in prompts]
        for index, prompt in enumerate(prompts):

            def hear(chunk: Any, index: int = index) -> None:
                heard[index].append(chunk)
                if not isinstance(chunk, Chunk) or chunk.finish_reason is not None:
                    done[index].set()

            generation = Generation(str(index), prompt, tokens, stop_ids, speculate=self._speculate)
            self._engine.submit(generation, hear)
        answers = []
        for event, chunks in zip(done, heard, strict=True):
            event.wait()
            if not isinstance(chunks[-1], Chunk):
                self.stop()
                raise chunks[-1]
            answers.append(([token for chunk in chunks for token in chunk.token_ids], len(chunks)))
        return answers

    def stop(self) -> None:
        """End the thread."""
        self._engine.stop()
        self._thread.join()

    def weights(self, seq: int) -> Mapping[str, float]:
        """All on the one drafter."""
        return {member.drafter: 1.0 for member in self._members}

    def lengths(self, seq: int) -> Mapping[str, int]:
        """The target sets them."""
        return {}

    def members(self) -> Sequence[Member]:
        """It."""
        return self._members

    def opened(self, sequence: SequenceOpened) -> None:
        """Nobody learns."""

    def played(self, *news: object) -> None:
        """Nobody learns."""

    def closed(self, seq: int) -> None:
        """Nobody learns."""
