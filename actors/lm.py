"""Any causal language model with the target's vocabulary, from a folder or a hub."""

from __future__ import annotations

from typing import cast

import torch

from paceline.actors.drafter_options import LmOptions
from paceline.actors.drafter_registry import DrafterContext
from paceline.actors.errors import ConfigError
from paceline.actors.model_drafter import ModelDrafter
from paceline.actors.model_facts import Quantization
from paceline.actors.model_loader import load_model
from paceline.actors.model_source import resolve


def build_lm(options: LmOptions, context: DrafterContext) -> ModelDrafter:
    """Load the model.

    Raises:
        ConfigError: its vocabulary is not the target's.
        ModelSourceError: it cannot be found or read.
    """
    torch.set_num_threads(context.threads)
    folder = resolve(options.model, progress=False)
    model = load_model(
        folder.path,
        dtype=options.dtype or context.dtype,
        device=context.device,
        quantization=cast("Quantization", options.quantization),
    )
    if model.vocab_size != context.vocab_size:
        raise ConfigError(
            f"options.model: {options.model!r} has a vocabulary of {model.vocab_size} tokens, "
            f"the target one of {context.vocab_size}; they must be the same"
        )
    return ModelDrafter(model, options.width, options.min_confidence, context.seed)
