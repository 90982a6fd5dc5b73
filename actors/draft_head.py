"""A draft head as it runs: one decoder layer over the target's features, or, deeper in a chain, over its own state.

The arithmetic is that of `cluster/training/head_module.py`, where it is explained; here with the lean decoder's
kernels, blocks of keys and values, and weights of 8 bits. A step of one token is nine calls and, for a width of 576
and a draft vocabulary of 8,192, ten megabytes read. Embedding and output rows are the target's, by memory map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from paceline.actors.causal_model import Step
from paceline.actors.checkpoint import Checkpoint
from paceline.actors.decoder_stack import DecoderLayer, DecoderStack
from paceline.actors.errors import ModelSourceError
from paceline.actors.head_config import WEIGHTS_FILE, HeadConfig
from paceline.actors.head_weights import read_head
from paceline.actors.law_reader import Vocabulary
from paceline.actors.linear import Linear, make_linear
from paceline.actors.llama_cache import LlamaCache
from paceline.actors.llama_config import LlamaConfig
from paceline.actors.model_facts import Quantization, read_json


@dataclass(frozen=True, slots=True)
class HeadStep:
    """Tokens to run over one cache, and what each is fed beside its embedding."""

    cache: LlamaCache
    token_ids: Sequence[int]
    states: torch.Tensor  # [tokens, width]: fused features, or the state of the slot before


class DraftHead:
    """One head. Not thread-safe.

    Args:
        folder: Of the head (`head.json`, `head.safetensors`).
        target: Folder of the target that it was trained for.
        dtype: Of activations.
        device: Where it runs.
        quantization: int8 keeps the weights as they are stored; none widens them to `dtype`.

    Raises:
        ModelSourceError: a file is missing or damaged, or the head is for another target.
    """

    def __init__(
        self, folder: Path, target: Path, dtype: torch.dtype, device: torch.device, quantization: Quantization
    ) -> None:
        self.config = config = HeadConfig.read(folder)
        facts = LlamaConfig.parse(read_json(target / "config.json"))
        if facts is None:
            raise ModelSourceError(f"{target}: heads are for targets of the Llama family")
        for field, own, wanted in (
            ("vocab_size", config.vocab_size, facts.vocab_size),
            ("width", config.width, facts.width),
        ):
            if own != wanted:
                raise ModelSourceError(f"{folder}: {field}: the head was made for {own}; the target has {wanted}")
        if config.feature_layers[-1] > facts.layers:
            text = f"feature_layers: {list(config.feature_layers)}; the target has {facts.layers} layers"
            raise ModelSourceError(f"{folder}: {text}")
        tensors = read_head(folder / WEIGHTS_FILE, config)

        def linear(name: str) -> Linear:
            return tensors.linear(name, dtype, device, quantization)

        def vector(name: str) -> torch.Tensor:
            return tensors.vector(name).to(device, dtype)

        self.vocabulary: Vocabulary = tensors.ids.numpy()
        checkpoint = Checkpoint(target, device, dtype)
        self._embedding = checkpoint.tensor("model.embed_tokens.weight")
        output = self._embedding if facts.tied else checkpoint.tensor("lm_head.weight")
        self._head = make_linear(output[tensors.ids.to(device)], None, quantization)
        self._fuse = linear("fuse")
        self._enter = linear("enter")
        layer = DecoderLayer(
            attention_norm=vector("attention_norm"),
            qkv=linear("qkv"),
            qk_norm=None,
            output=linear("output"),
            mlp_norm=vector("mlp_norm"),
            gate_up=linear("gate_up"),
            down=linear("down"),
        )
        self._ones = torch.ones(config.width, dtype=dtype, device=device)
        half = config.head_dim // 2
        frequencies = config.rope_theta ** (-torch.arange(half, dtype=torch.float32, device=device) / half)
        self._stack = DecoderStack(
            [layer], vector("norm"), frequencies, heads=config.heads, kv_heads=config.kv_heads, eps=config.rms_eps
        )

    def new_cache(self) -> LlamaCache:
        """A cache that grows as needed."""
        return self._stack.new_cache()

    def no_state(self) -> torch.Tensor:
        """A state [1, width] of nothing."""
        return self._ones.new_zeros(1, self.config.width)

    @torch.inference_mode()
    def fuse(self, features: torch.Tensor) -> torch.Tensor:
        """Features [rows, layers * width] of the target -> states [rows, width] to be fed."""
        width = self.config.width
        parts = features.to(self._ones.device, self._ones.dtype).reshape(-1, width)
        return self._fuse(self._normed(parts).view(len(features), -1))

    @torch.inference_mode()
    def run(self, steps: Sequence[HeadStep]) -> tuple[torch.Tensor, torch.Tensor]:
        """Append every step's slots to its cache.

        Returns:
            States [slots, width], each to be fed to the slot after it, and logits [slots, draft_vocab], whose columns
            `vocabulary` names; steps one after another.
        """
        ids = torch.tensor([token for step in steps for token in step.token_ids])
        ids = ids.to(self._ones.device, non_blocking=True)
        given = steps[0].states if len(steps) == 1 else torch.cat([step.states for step in steps])
        width = self.config.width
        pairs = torch.stack((F.embedding(ids, self._embedding), given), dim=1).view(-1, width)
        state = self._enter(self._normed(pairs).view(len(ids), 2 * width))
        caches = [step.cache for step in steps]
        normed = self._stack.run(state, [Step(step.cache, step.token_ids) for step in steps], caches)
        return state, self._head(normed)

    def _normed(self, rows: torch.Tensor) -> torch.Tensor:
        return self._stack.ops.add_rms_norm(rows, None, self._ones, self.config.rms_eps)
