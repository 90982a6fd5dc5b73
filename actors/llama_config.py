"""The numbers of a Llama-like decoder, read from config.json; says no where the lean decoder would be wrong.

Llama, Mistral, Qwen2 and Qwen3 differ only in biases, in norms on Q and K (both seen from the weights), and in how
rotary frequencies are scaled. Anything else in the configuration, even a sliding window, goes to transformers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

_MODEL_TYPES = {"llama", "mistral", "qwen2", "qwen3"}
_ROPE_TYPES = {"default", "linear", "llama3"}


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Shapes and constants of the decoder."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_eps: float
    max_positions: int
    tied: bool
    rope: dict[str, Any]

    @classmethod
    def parse(cls, config: dict[str, Any]) -> LlamaConfig | None:
        """Read a config.json, of transformers 4 or 5.

        Returns:
            None where the model is not one that the lean decoder computes exactly.

        Raises:
            KeyError: a field that the family always has is missing.
        """
        rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
        rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
        rope.setdefault("rope_type", rope.get("type", "default"))
        fits = (
            config.get("model_type") in _MODEL_TYPES
            and rope["rope_type"] in _ROPE_TYPES
            and float(rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))) == 1.0
            and config.get("hidden_act", "silu") == "silu"
            and not config.get("mlp_bias", False)
            and "quantization_config" not in config
            and not _slides(config)
        )
        if not fits:
            return None
        heads = int(config["num_attention_heads"])
        return cls(
            vocab_size=int(config["vocab_size"]),
            width=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            rms_eps=float(config.get("rms_norm_eps", 1e-6)),
            max_positions=int(config["max_position_embeddings"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            rope=rope,
        )

    def inverse_frequencies(self) -> torch.Tensor:
        """Rotary angle per position of each pair of dimensions, [head_dim / 2] float32 on CPU.

        Scaling `llama3` is that of Llama 3.1: wavelengths longer than the old context are divided by `factor`, short
        ones are kept, those between are blended.
        """
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.int64).float() / self.head_dim
        plain = 1.0 / (float(self.rope["rope_theta"]) ** exponents)
        if self.rope["rope_type"] == "default":
            return plain
        factor = float(self.rope["factor"])
        if self.rope["rope_type"] == "linear":
            return plain / factor
        low, high = float(self.rope["low_freq_factor"]), float(self.rope["high_freq_factor"])
        turns = float(self.rope["original_max_position_embeddings"]) * plain / (2 * math.pi)
        keep = ((turns - low) / (high - low)).clamp(0.0, 1.0)
        return keep * plain + (1.0 - keep) * plain / factor


def _slides(config: dict[str, Any]) -> bool:
    """Whether any layer's attention is cut to a window. Mistral's is on when set; Qwen's only with a switch."""
    if config["model_type"] in {"qwen2", "qwen3"}:
        return bool(config.get("use_sliding_window", False))
    return config.get("sliding_window") is not None
