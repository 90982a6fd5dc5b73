"""The draft head as it is trained: one decoder layer that goes on from the target's own features.

At slot i the head is given token i and, fused, the target's features of token i - 1, and gives the law of token i + 1;
deeper levels of a chain are given the head's own state instead of features (EAGLE-3, arXiv 2503.01840). So it is
trained as it is used: `forward` unrolls several levels from every slot at once, each fed by the level before ("training
time test"). The draft vocabulary is a part of the target's own head, frozen (FR-Spec, arXiv 2502.14856).
`actors/draft_head.py` runs the same arithmetic over caches; a test holds the two together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from paceline.actors.head_config import HeadConfig


class HeadModule(nn.Module):
    """Trainable weights, float32.

    Args:
        config: Shapes.
        embedding: The target's embedding [vocab, width]; frozen, not part of the head's own weights.
        output_rows: The target's output matrix [vocab, width]; frozen.
        ids: [draft_vocab] int64, the target's id of each draft id.
    """

    embedding: torch.Tensor
    output_rows: torch.Tensor
    head_rows: torch.Tensor  # [draft_vocab, width], those of the draft vocabulary
    ids: torch.Tensor
    frequencies: torch.Tensor

    def __init__(
        self, config: HeadConfig, embedding: torch.Tensor, output_rows: torch.Tensor, ids: torch.Tensor
    ) -> None:
        super().__init__()
        self.config = config
        width, q_width, kv_width = config.width, config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.register_buffer("embedding", embedding, persistent=False)
        self.register_buffer("output_rows", output_rows, persistent=False)
        self.register_buffer("head_rows", output_rows[ids].contiguous(), persistent=False)
        self.register_buffer("ids", ids, persistent=False)
        self.fuse = nn.Linear(len(config.feature_layers) * width, width, bias=False)
        self.enter = nn.Linear(2 * width, width, bias=False)
        self.attention_norm = nn.Parameter(torch.ones(width))
        self.qkv = nn.Linear(width, q_width + 2 * kv_width, bias=False)
        self.output = nn.Linear(q_width, width, bias=False)
        self.mlp_norm = nn.Parameter(torch.ones(width))
        self.gate_up = nn.Linear(width, 2 * config.inner, bias=False)
        self.down = nn.Linear(config.inner, width, bias=False)
        self.norm = nn.Parameter(torch.ones(width))
        half = config.head_dim // 2
        frequencies = config.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, tokens: torch.Tensor, features: torch.Tensor, levels: int) -> list[torch.Tensor]:
        """States of every slot at every level.

        Args:
            tokens: [batch, slots + levels - 1] int64: slot i's level k is given token i + k.
            features: [batch, slots, layers * width]: row i belongs to token i - 1.
            levels: How deep.

        Returns:
            Per level, [batch, slots, width]: normed, to be multiplied with `head_rows`.
        """
        slots = features.shape[1]
        state = self.fused(features)
        keys: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        states = []
        for level in range(levels):
            state = self._level(tokens[:, level : level + slots], state, keys, values)
            states.append(self._norm(state, self.norm))
        return states

    def chain(self, tokens: torch.Tensor, features: torch.Tensor, levels: int) -> torch.Tensor:
        """Greedy chains from every slot, as a drafter would draft them.

        Args:
            tokens: [batch, slots].
            features: [batch, slots, layers * width].
            levels: Tokens of a chain.

        Returns:
            [batch, slots, levels] the target's ids.
        """
        state = self.fused(features)
        keys: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        drafted = []
        for _ in range(levels):
            state = self._level(tokens, state, keys, values)
            logits = self._norm(state, self.norm) @ self.head_rows.T
            tokens = self.ids[logits.argmax(dim=-1)]
            drafted.append(tokens)
        return torch.stack(drafted, dim=-1)

    def fused(self, features: torch.Tensor) -> torch.Tensor:
        """[..., layers * width] -> [..., width]; every layer's part is brought to one size first."""
        width = self.config.width
        parts = features.reshape(*features.shape[:-1], -1, width).float()
        normed = F.rms_norm(parts, (width,), None, self.config.rms_eps).flatten(-2)
        fused: torch.Tensor = self.fuse(normed)
        return fused

    def _level(
        self, tokens: torch.Tensor, state: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]
    ) -> torch.Tensor:
        """One level of every slot; its keys and values are added to those of the levels before."""
        config = self.config
        embedded = F.embedding(tokens, self.embedding).float()
        pair = [self._norm(embedded, None), self._norm(state, None)]
        x = self.enter(torch.cat(pair, dim=-1))
        qkv = self.qkv(self._norm(x, self.attention_norm))
        qkv = qkv.view(*x.shape[:-1], -1, config.head_dim).transpose(1, 2)
        q, k, v = torch.split(qkv, [config.heads, config.kv_heads, config.kv_heads], dim=1)
        cos, sin = self._rope(q.shape[2], len(keys), q)
        group = config.heads // config.kv_heads
        keys.append(_rotate(k, cos, sin).repeat_interleave(group, dim=1))
        values.append(v.repeat_interleave(group, dim=1))
        seen = _attend(_rotate(q, cos, sin), keys, values)
        x = x + self.output(seen.transpose(1, 2).flatten(-2))
        gate, up = self.gate_up(self._norm(x, self.mlp_norm)).chunk(2, dim=-1)
        out: torch.Tensor = x + self.down(F.silu(gate) * up)
        return out

    def _norm(self, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        return F.rms_norm(x.float(), (self.config.width,), weight, self.config.rms_eps)

    def _rope(self, slots: int, level: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        positions = torch.arange(level, level + slots, device=like.device, dtype=torch.float32)
        angles = positions[:, None] * self.frequencies
        return angles.cos(), angles.sin()


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


def _attend(q: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]) -> torch.Tensor:
    """Level k of slot i sees level 0 of the slots up to i, and levels 1 .. k of its own chain; all [.., slots, dim]."""
    if len(keys) == 1:
        return F.scaled_dot_product_attention(q, keys[0], values[0], is_causal=True)
    scale = q.shape[-1] ** -0.5
    slots = q.shape[2]
    past = (q @ keys[0].transpose(-1, -2)).float() * scale
    future = torch.ones(slots, slots, dtype=torch.bool, device=q.device).triu(1)
    past = past.masked_fill(future, -torch.inf)
    own = torch.stack([(q * key).sum(dim=-1) for key in keys[1:]], dim=-1).float() * scale
    weights = torch.cat((past, own), dim=-1).softmax(dim=-1).to(q.dtype)
    seen = weights[..., :slots] @ values[0]
    for level, value in enumerate(values[1:]):
        seen = seen + weights[..., slots + level, None] * value
    return seen
