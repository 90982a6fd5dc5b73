"""Tiny random models in folders, made by transformers, for tests that need a real checkpoint but no real text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

MAX_POSITIONS = 512
SPREAD = 0.15  # of the random weights: large enough that logits differ by whole numbers, as a trained model's do


def make_tiny_llama(
    folder: Path, vocab_size: int = 97, layers: int = 2, seed: int = 0, tied: bool = False, **extra: Any
) -> Path:
    """A Llama with grouped queries: 6 heads of 16 over 2 key heads, width 48. `extra` goes to its LlamaConfig."""
    return _save(LlamaForCausalLM, LlamaConfig(**_sizes(vocab_size, layers, tied), **extra), folder, seed)


def make_tiny_llama3(folder: Path) -> Path:
    """A Llama with the rotary scaling of Llama 3.1, its old context short enough that all three bands are used."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    return make_tiny_llama(folder, rope_parameters=rope)


def make_tiny_mistral(folder: Path, sliding_window: int | None = None) -> Path:
    """A Mistral, its heads too narrow for compiled attention; with a window, only transformers runs it."""
    return _save(
        MistralForCausalLM,
        MistralConfig(**_sizes(97, 2, False) | {"head_dim": 8}, sliding_window=sliding_window),
        folder,
        seed=1,
    )


def make_tiny_qwen2(folder: Path) -> Path:
    """A Qwen2: biases on Q, K and V, random here, since transformers starts them at zero."""
    return _save(Qwen2ForCausalLM, Qwen2Config(**_sizes(97, 2, True)), folder, seed=2)


def make_tiny_qwen3(folder: Path) -> Path:
    """A Qwen3: norms on Q and K, and heads of another width."""
    return _save(Qwen3ForCausalLM, Qwen3Config(**_sizes(97, 2, False) | {"head_dim": 32}), folder, seed=3)


def make_tiny_gpt2(folder: Path) -> Path:
    """A GPT-2: learned positions, nothing like a Llama."""
    config = GPT2Config(vocab_size=97, n_positions=MAX_POSITIONS, n_embd=48, n_layer=2, n_head=4)
    return _save(GPT2LMHeadModel, config, folder, seed=4)


def _sizes(vocab_size: int, layers: int, tied: bool) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": MAX_POSITIONS,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }


def _save(kind: type[PreTrainedModel], config: Any, folder: Path, seed: int) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(config)
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if "norm" in name or "ln_" in name:
                    weights.normal_(mean=1.0, std=0.1)  # ones would hide a norm whose weight is left out
                else:
                    weights.normal_(std=SPREAD)
    model.save_pretrained(folder)
    return folder
