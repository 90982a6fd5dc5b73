"""Tensors as the bits of bfloat16, which numpy has no type for, and back: how features travel.

`feature_reader` writes them at the target; a drafter kind that reads features makes tensors of them.
"""

from __future__ import annotations

import numpy as np
import torch

from paceline.actors.messages import Features


def to_bits(tensor: torch.Tensor) -> Features:
    """Values of any floating dtype, rounded to bfloat16; of the same shape, on the host."""
    return tensor.to(torch.bfloat16).contiguous().cpu().view(torch.int16).numpy().view(np.uint16)


def from_bits(bits: Features) -> torch.Tensor:
    """A bfloat16 tensor of the same shape, on the host, over the same memory."""
    return torch.from_numpy(np.ascontiguousarray(bits).view(np.int16)).view(torch.bfloat16)
