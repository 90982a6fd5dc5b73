"""A lean decoder for the Llama family: what a forward of a few tokens costs on a CPU is weights read, and little else.

Sequences of any lengths are laid end to end, [tokens, width]: linear layers see one batch without padding, and only
attention looks at sequences one by one, each over its own cache. Q, K and V are one multiplication, gate and up
another. The target engine, the early-exit drafter (first layers only) and the lm drafter run it; `model_loader`
makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from paceline.actors.causal_model import Step
from paceline.actors.checkpoint import Checkpoint
from paceline.actors.errors import EngineError, ModelSourceError
from paceline.actors.kv_pool import KVPool
from paceline.actors.linear import Linear, make_linear
from paceline.actors.llama_cache import LlamaCache
from paceline.actors.llama_config import LlamaConfig
from paceline.actors.model_facts import Quantization
from paceline.actors.step_check import check_steps
from paceline.kernels.decoder_ops import BLOCK, PagedBatch, decoder_ops


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: torch.Tensor  # [width]
    qkv: Linear
    qk_norm: torch.Tensor | None  # [heads + kv_heads, head_dim], Qwen3
    output: Linear
    mlp_norm: torch.Tensor  # [width]
    gate_up: Linear
    down: Linear


class Llama:
    """A `CausalModel`. Not thread-safe."""

    def __init__(
        self,
        config: LlamaConfig,
        checkpoint: Checkpoint,
        layers: int | None = None,
        quantization: Quantization = "none",
        kv_tokens: int | None = None,
    ) -> None:
        """Read the weights.

        Args:
            config: Shapes.
            checkpoint: Weights, already of the wanted dtype and device.
            layers: Only the first so many layers, then the final norm and the head (early exit); None for all.
            quantization: How the weights that are multiplied by are held; int4 leaves the head at 8 bits.
            kv_tokens: Positions that all caches together may hold, and that prompts which begin alike share; None for
                no bound and no sharing.

        Raises:
            ModelSourceError: a tensor is missing or of the wrong shape, `layers` is out of range, or the device has no
                kernels for `quantization`.
        """
        if layers is not None and not 1 <= layers <= config.layers:
            raise ModelSourceError(f"layers: {layers}; the model has {config.layers}, expected 1 to {config.layers}")
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_positions = config.max_positions
        self._embedding = checkpoint.tensor("model.embed_tokens.weight")  # [vocab, width]
        if self._embedding.shape != (config.vocab_size, config.width):
            raise ModelSourceError(
                f"model.embed_tokens.weight: shape {tuple(self._embedding.shape)}; "
                f"config.json says {(config.vocab_size, config.width)}"
            )
        self.device = self._embedding.device
        self.dtype = self._embedding.dtype
        self._layers = [
            _read_layer(checkpoint, config, index, quantization) for index in range(layers or config.layers)
        ]
        self._norm = checkpoint.tensor("model.norm.weight")
        head = self._embedding if config.tied else checkpoint.tensor("lm_head.weight")
        # Rounding the head's weights moves the logits themselves; GGUF files give it more bits too.
        self._head = make_linear(head, None, "int8" if quantization == "int4" else quantization)
        self._frequencies = config.inverse_frequencies().to(self.device)  # [head_dim / 2]
        self.ops = decoder_ops(self.device, self.dtype, config.head_dim)
        shape = (len(self._layers), config.kv_heads, 2, BLOCK * config.head_dim)
        block = torch.empty(shape, dtype=self.dtype, device=self.device)
        self.pool = KVPool(block, None if kv_tokens is None else -(-kv_tokens // BLOCK), share=kv_tokens is not None)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a forward reads, whatever the number of positions (an embedding's row is nothing)."""
        linears = [self._head]
        for layer in self._layers:
            linears += [layer.qkv, layer.output, layer.gate_up, layer.down]
        return sum(linear.weight_bytes for linear in linears)

    def new_cache(self, prompt: Sequence[int] = ()) -> LlamaCache:
        """A cache that grows as needed, holding the beginning of `prompt` that the pool knows."""
        return LlamaCache(self.pool, self.max_positions, prompt)

    @torch.inference_mode()
    def forward(self, steps: Sequence[Step]) -> torch.Tensor:
        """Append every step's tokens to its cache and return the wanted logits; see `CausalModel.forward`.

        A refused call leaves every cache as it was.

        Returns:
            [rows, vocab_size] in the model's dtype.

        Raises:
            ValueError: a step is empty, is not this model's, repeats a cache, asks for rows or holds ids that are not
                there, goes beyond `max_positions`, or is no tree.
            EngineError: the pool has no block left.
        """
        caches, wanted = check_steps(steps, LlamaCache, self.vocab_size, self.max_positions)
        ids = torch.tensor([token for step in steps for token in step.token_ids], device=self.device)
        positions, sight = _lay_out(steps)
        batch = _extend(caches, steps, sight)
        rope = self._rope(torch.tensor(positions, device=self.device))
        config, ops, eps = self.config, self.ops, self.config.rms_eps
        x = F.embedding(ids, self._embedding)  # [tokens, width]
        normed = ops.add_rms_norm(x, None, self._layers[0].attention_norm, eps)
        norms = [layer.attention_norm for layer in self._layers[1:]] + [self._norm]
        for index, (layer, next_norm) in enumerate(zip(self._layers, norms, strict=True)):
            qkv = layer.qkv(normed).view(len(ids), -1, config.head_dim)
            if layer.qk_norm is not None:
                qk = qkv[:, : config.heads + config.kv_heads]
                qk.copy_(F.rms_norm(qk, (config.head_dim,), None, eps) * layer.qk_norm)
            attended = ops.attend(qkv, config.heads, rope, batch, index)
            normed = ops.add_rms_norm(x, layer.output(attended), layer.mlp_norm, eps)
            normed = ops.add_rms_norm(x, layer.down(ops.silu_mul(layer.gate_up(normed))), next_norm, eps)
        rows, first = [], 0
        for step, own in zip(steps, wanted, strict=True):
            rows += [first + row for row in own]
            first += len(step.token_ids)
        if len(rows) < len(ids):
            normed = normed[torch.tensor(rows, dtype=torch.int64, device=self.device)]
        return self._head(normed)

    def _rope(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines, each [tokens, head_dim / 2] float32."""
        angles = positions[:, None].float() * self._frequencies
        return angles.cos(), angles.sin()


def _lay_out(steps: Sequence[Step]) -> tuple[list[int], list[int] | None]:
    """Every row's position in its text, and, where any step is a tree, what each row sees (`PagedBatch.sight`)."""
    positions: list[int] = []
    sight: list[int] = []
    for step in steps:
        start, count = step.cache.length, len(step.token_ids)
        if step.parents is None:
            positions += range(start, start + count)
            sight += [-1] * count
            continue
        depths: list[int] = []
        seen: list[int] = []
        for index, parent in enumerate(step.parents):
            depths.append(0 if parent < 0 else depths[parent] + 1)
            seen.append((seen[parent] if parent >= 0 else 0) | 1 << index)
        positions += [start + depth for depth in depths]
        sight += seen
    return positions, sight if any(step.parents is not None for step in steps) else None


def _extend(caches: list[LlamaCache], steps: Sequence[Step], sight: list[int] | None) -> PagedBatch:
    """Make room in every cache, or in none, and tell where its blocks are."""
    starts = [cache.length for cache in caches]
    try:
        for cache, step in zip(caches, steps, strict=True):
            cache.extend(step.token_ids)
    except EngineError:
        for cache, start in zip(caches, starts, strict=True):
            cache.truncate(start)
        raise
    return PagedBatch(
        [[block.data for block in cache.blocks] for cache in caches],
        np.array([block.address for cache in caches for block in cache.blocks], dtype=np.int64),
        np.array(starts, dtype=np.int64),
        np.array([len(step.token_ids) for step in steps], dtype=np.int64),
        None if sight is None else np.array(sight, dtype=np.int64),
    )


def _read_layer(checkpoint: Checkpoint, config: LlamaConfig, index: int, quantization: Quantization) -> _Layer:
    at = f"model.layers.{index}."

    def linear(*parts: str) -> Linear:
        biased = f"{at}{parts[0]}.bias" in checkpoint.names
        weight = checkpoint.joined([f"{at}{part}.weight" for part in parts])
        bias = checkpoint.joined([f"{at}{part}.bias" for part in parts]) if biased else None
        return make_linear(weight, bias, quantization)

    qk_norm = None
    if f"{at}self_attn.q_norm.weight" in checkpoint.names:
        q, k = checkpoint.tensor(f"{at}self_attn.q_norm.weight"), checkpoint.tensor(f"{at}self_attn.k_norm.weight")
        qk_norm = torch.cat((q.expand(config.heads, -1), k.expand(config.kv_heads, -1)))
    return _Layer(
        attention_norm=checkpoint.tensor(f"{at}input_layernorm.weight"),
        qkv=linear("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        qk_norm=qk_norm,
        output=linear("self_attn.o_proj"),
        mlp_norm=checkpoint.tensor(f"{at}post_attention_layernorm.weight"),
        gate_up=linear("mlp.gate_proj", "mlp.up_proj"),
        down=linear("mlp.down_proj"),
    )
