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

from paceline.actors.causal_model import Step, check_feature_layers
from paceline.actors.checkpoint import Checkpoint
from paceline.actors.errors import ModelSourceError
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
        feature_layers: Sequence[int] = (),
    ) -> None:
        """Read the weights.

        Args:
            config: Shapes.
            checkpoint: Weights, already of the wanted dtype and device.
            layers: Only the first so many layers, then the final norm and the head (early exit); None for all.
            quantization: How the weights that are multiplied by are held; int4 leaves the head at 8 bits.
            kv_tokens: Positions that all caches together may hold, and that prompts which begin alike share; None for
                no bound and no sharing.
            feature_layers: Whose features the caches hold, ascending, of those layers that are run; see `causal_model`.

        Raises:
            ModelSourceError: a tensor is missing or of the wrong shape, `layers` or `feature_layers` is out of range,
                or the device has no kernels for `quantization`.
        """
        if layers is not None and not 1 <= layers <= config.layers:
            raise ModelSourceError(f"layers: {layers}; the model has {config.layers}, expected 1 to {config.layers}")
        self.feature_layers = check_feature_layers(feature_layers, layers or config.layers)
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_positions = config.max_positions
        head_shape = config.vocab_size, config.width
        self._embedding = _shaped(checkpoint, "model.embed_tokens.weight", *head_shape)
        self.device = self._embedding.device
        self.dtype = self._embedding.dtype
        self._layers = [
            _read_layer(checkpoint, config, index, quantization) for index in range(layers or config.layers)
        ]
        self._norm = _shaped(checkpoint, "model.norm.weight", config.width)
        head = self._embedding if config.tied else _shaped(checkpoint, "lm_head.weight", *head_shape)
        # Rounding the head's weights moves the logits themselves; GGUF files give it more bits too.
        self._head = make_linear(head, None, "int8" if quantization == "int4" else quantization)
        self._frequencies = config.inverse_frequencies().to(self.device)  # [head_dim / 2]
        self.ops = decoder_ops(self.device, self.dtype, config.head_dim)
        shape = (len(self._layers), config.kv_heads, 2, BLOCK * config.head_dim)
        block = torch.empty(shape, dtype=self.dtype, device=self.device)
        self._feature_columns = {
            layer: slice(index * config.width, (index + 1) * config.width)
            for index, layer in enumerate(self.feature_layers)
        }
        self.pool = KVPool(
            block,
            None if kv_tokens is None else -(-kv_tokens // BLOCK),
            share=kv_tokens is not None,
            feature_width=len(self.feature_layers) * config.width,
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a forward reads, whatever the number of positions (an embedding's row is nothing)."""
        linears = [self._head]
        for layer in self._layers:
            linears += [layer.qkv, layer.output, layer.gate_up, layer.down]
        return sum(linear.weight_bytes for linear in linears)

    def new_cache(self, prompt: Sequence[int] = ()) -> LlamaCache:
        """A cache that grows as needed, holding the beginning of `prompt` that the pool knows."""
        return LlamaCache(self.pool, prompt)

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
        features = x.new_empty(len(ids), self.pool.feature_width) if self.feature_layers else None
        norms = [layer.attention_norm for layer in self._layers[1:]] + [self._norm]
        for index, (layer, next_norm) in enumerate(zip(self._layers, norms, strict=True)):
            qkv = layer.qkv(normed).view(len(ids), -1, config.head_dim)
            if layer.qk_norm is not None:
                qk = qkv[:, : config.heads + config.kv_heads]
                qk.copy_(F.rms_norm(qk, (config.head_dim,), None, eps) * layer.qk_norm)
            attended = ops.attend(qkv, config.heads, rope, batch, index)
            normed = ops.add_rms_norm(x, layer.output(attended), layer.mlp_norm, eps)
            normed = ops.add_rms_norm(x, layer.down(ops.silu_mul(layer.gate_up(normed))), next_norm, eps)
            if features is not None and (columns := self._feature_columns.get(index + 1)) is not None:
                # Copied now: the layers to come add to x in place.
                features[:, columns] = normed if index + 1 == len(self._layers) else x
        if features is not None:
            at = 0
            for cache, step in zip(caches, steps, strict=True):
                cache.write_features(features[at : at + len(step.token_ids)])
                at += len(step.token_ids)
        rows, first = [], 0
        for step, own in zip(steps, wanted, strict=True):
            rows += [first + row for row in own]
            first += len(step.token_ids)
        if not rows:
            return normed.new_empty(0, self.vocab_size)
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
    except Exception:
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
    q_width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim

    def read(name: str, *shape: int) -> torch.Tensor:
        return _shaped(checkpoint, at + name, *shape)

    def linear(inputs: int, **parts: int) -> Linear:
        """Parts side by side, each with its number of outputs."""
        names = [("mlp." if part in ("gate_proj", "up_proj", "down_proj") else "self_attn.") + part for part in parts]
        for name, outputs in zip(names, parts.values(), strict=True):
            read(f"{name}.weight", outputs, inputs)
        biased = f"{at}{names[0]}.bias" in checkpoint.names
        weight = checkpoint.joined([f"{at}{name}.weight" for name in names])
        bias = checkpoint.joined([f"{at}{name}.bias" for name in names]) if biased else None
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ModelSourceError(f"{at}{names[0]}.bias: {len(bias)} values beside {len(weight)} outputs")
        return make_linear(weight, bias, quantization)

    qk_norm = None
    if f"{at}self_attn.q_norm.weight" in checkpoint.names:
        q, k = (read(f"self_attn.{part}_norm.weight", config.head_dim) for part in "qk")
        qk_norm = torch.cat((q.expand(config.heads, -1), k.expand(config.kv_heads, -1)))
    inner = len(checkpoint.tensor(f"{at}mlp.gate_proj.weight"))
    return _Layer(
        attention_norm=read("input_layernorm.weight", config.width),
        qkv=linear(config.width, q_proj=q_width, k_proj=kv_width, v_proj=kv_width),
        qk_norm=qk_norm,
        output=linear(q_width, o_proj=config.width),
        mlp_norm=read("post_attention_layernorm.weight", config.width),
        gate_up=linear(config.width, gate_proj=inner, up_proj=inner),
        down=linear(inner, down_proj=config.width),
    )


def _shaped(checkpoint: Checkpoint, name: str, *shape: int) -> torch.Tensor:
    """A tensor whose shape is what config.json says: the compiled ops go by it, and look no further.

    Raises:
        ModelSourceError: it is missing, or of another shape.
    """
    tensor = checkpoint.tensor(name)
    if tuple(tensor.shape) != shape:
        raise ModelSourceError(f"{name}: shape {tuple(tensor.shape)}; config.json says {shape}")
    return tensor
