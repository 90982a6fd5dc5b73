"""The target's own first layers, then its final norm and head: a drafter that needs no training.

Self-speculation by early exit, as in LayerSkip (arXiv 2404.16710), here in a process of its own.
"""

from __future__ import annotations

import torch

from paceline.actors.drafter_options import EarlyExitOptions
from paceline.actors.drafter_registry import DrafterContext
from paceline.actors.model_drafter import ModelDrafter
from paceline.actors.model_loader import load_model


def build_early_exit(options: EarlyExitOptions, context: DrafterContext) -> ModelDrafter:
    """Load the first layers.

    Raises:
        ModelSourceError: the target has fewer layers, or is not of a family that can be cut.
    """
    torch.set_num_threads(context.threads)
    model = load_model(
        context.target_path,
        dtype=context.dtype,
        device=context.device,
        layers=options.layers,
        quantization=context.quantization,
    )
    return ModelDrafter(model, options.width, options.min_confidence, context.seed)
