"""Decoder layers over paged caches: what `llama` and `draft_head` have in common.

Sequences of any lengths are laid end to end, [tokens, width]: linear layers see one batch without padding, and only
attention looks at sequences one by one, each over its own cache. Q, K and V are one multiplication, gate and up
another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from paceline.actors.causal_model import Step
from paceline.actors.forward_inputs import ForwardInputs, RowLayout, lay_out
from paceline.actors.kv_pool import KVPool
from paceline.actors.linear import Linear
from paceline.actors.llama_cache import LlamaCache
from paceline.kernels.decoder_ops import BLOCK, PagedBatch, decoder_ops


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Weights of one layer."""

    attention_norm: torch.Tensor  # [width]
    qkv: Linear
    qk_norm: torch.Tensor | None  # [heads + kv_heads, head_dim], Qwen3
    output: Linear
    mlp_norm: torch.Tensor  # [width]
    gate_up: Linear
    down: Linear


class DecoderStack:
    """Layers and the norm after them.

    Args:
        layers: At least one.
        norm: [width] of the final norm.
        frequencies: [head_dim / 2] of the rotary embedding.
        heads: Query heads.
        kv_heads: Key heads.
        eps: Of every norm.
        kv_tokens: Positions that all caches together may hold, and that texts which begin alike share; None for no
            bound and no sharing.
        feature_layers: Whose features the caches hold, ascending, at most the number of layers; see `causal_model`.
    """

    def __init__(
        self,
        layers: Sequence[DecoderLayer],
        norm: torch.Tensor,
        frequencies: torch.Tensor,
        *,
        heads: int,
        kv_heads: int,
        eps: float,
        kv_tokens: int | None = None,
        feature_layers: tuple[int, ...] = (),
    ) -> None:
        self._layers = layers
        self._norms = [*(layer.attention_norm for layer in layers), norm]
        self._frequencies = frequencies
        self._heads, self._kv_heads, self._eps = heads, kv_heads, eps
        self._head_dim = 2 * len(frequencies)
        width = len(norm)
        self._feature_columns = {
            layer: slice(index * width, (index + 1) * width) for index, layer in enumerate(feature_layers)
        }
        self.ops = decoder_ops(norm.device, norm.dtype, self._head_dim)
        shape = (len(layers), kv_heads, 2, BLOCK * self._head_dim)
        self.pool = KVPool(
            torch.empty(shape, dtype=norm.dtype, device=norm.device),
            None if kv_tokens is None else -(-kv_tokens // BLOCK),
            share=kv_tokens is not None,
            feature_width=len(feature_layers) * width,
            whole=self.ops.whole,
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a forward reads, whatever the number of positions."""
        return sum(
            linear.weight_bytes
            for layer in self._layers
            for linear in (layer.qkv, layer.output, layer.gate_up, layer.down)
        )

    def new_cache(self, prompt: Sequence[int] = ()) -> LlamaCache:
        """A cache that grows as needed, holding the beginning of `prompt` that the pool knows."""
        return LlamaCache(self.pool, prompt)

    def run(self, x: torch.Tensor, steps: Sequence[Step], caches: Sequence[LlamaCache]) -> torch.Tensor:
        """Append every step's tokens to its cache.

        Args:
            x: [tokens, width] what enters, the steps' tokens end to end; afterwards the residual stream, which the
                final norm's result was made of.
            steps: Checked by the caller; their logits are its business.
            caches: The steps' own.

        Returns:
            [tokens, width] after the final norm.

        Raises:
            EngineError: the pool has no block left; every cache is as it was.
        """
        layout = lay_out(steps, caches)
        if self.pool.memory is None:
            positions, batch = torch.tensor(layout.positions, device=x.device), _paged(layout)
        else:
            rows, sequences, width = len(x), len(steps), layout.width
            host = torch.empty(ForwardInputs.size(sequences, rows, width), dtype=torch.int64)
            ForwardInputs.of(host, sequences, rows, width).fill(layout, [0] * rows, ())
            inputs = ForwardInputs.of(host.to(x.device, non_blocking=True), sequences, rows, width)
            positions = inputs.positions
            batch = inputs.batch(self.pool.memory, trees=layout.sight is not None)
        normed, features = self.compute(x, positions, batch)
        self.keep_features(features, layout)
        return normed

    def compute(
        self, x: torch.Tensor, positions: torch.Tensor, batch: PagedBatch
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The layers' work alone: on a device nothing is waited for.

        Args:
            x: [tokens, width]; see `run`.
            positions: [tokens] of each row in its text.
            batch: Whose rows these are, and the blocks.

        Returns:
            [tokens, width] after the final norm, and features [tokens, feature_width] or None.
        """
        angles = positions[:, None].float() * self._frequencies
        rope = angles.cos(), angles.sin()
        ops, eps = self.ops, self._eps
        columns = self._feature_columns
        features = x.new_empty(len(x), self.pool.feature_width) if columns else None
        normed = ops.add_rms_norm(x, None, self._norms[0], eps)
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(normed).view(len(x), -1, self._head_dim)
            if layer.qk_norm is not None:
                qk = qkv[:, : self._heads + self._kv_heads]
                qk.copy_(F.rms_norm(qk, (self._head_dim,), None, eps) * layer.qk_norm)
            attended = ops.attend(qkv, self._heads, rope, batch, index)
            normed = ops.add_rms_norm(x, layer.output(attended), layer.mlp_norm, eps)
            gated = ops.silu_mul(layer.gate_up(normed))
            normed = ops.add_rms_norm(x, layer.down(gated), self._norms[index + 1], eps)
            if features is not None and (own := columns.get(index + 1)) is not None:
                # Copied now: the layers to come add to x in place.
                features[:, own] = normed if index + 1 == len(self._layers) else x
        return normed, features

    def keep_features(self, features: torch.Tensor | None, layout: RowLayout) -> None:
        """Put each sequence's features [rows, feature_width] beside its keys and values."""
        if features is not None:
            for cache, captured in zip(layout.caches, torch.split(features, list(layout.counts)), strict=True):
                cache.write_features(captured)


def _paged(layout: RowLayout) -> PagedBatch:
    """Where the blocks are, for ops on the CPU."""
    return PagedBatch(
        [[block.data for block in cache.blocks] for cache in layout.caches],
        np.array([block.address for cache in layout.caches for block in cache.blocks], dtype=np.int64),
        np.array(layout.starts, dtype=np.int64),
        np.array(layout.counts, dtype=np.int64),
        None if layout.sight is None else np.array(layout.sight, dtype=np.int64),
    )
