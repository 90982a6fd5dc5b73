"""A draft head's weights on disk: every matrix as 8-bit integers with a scale per output, norms as they are.

`paceline train` writes the file, `draft_head` reads it. Two bytes a scale, one a weight: half of bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from paceline.actors.errors import ModelSourceError
from paceline.actors.head_config import HeadConfig
from paceline.actors.linear import Int8Linear, Linear, make_linear, quantize_int8
from paceline.actors.model_facts import Quantization

IDS = "draft_ids"
NORMS = ("attention_norm", "mlp_norm", "norm")


def matrix_shapes(config: HeadConfig) -> dict[str, tuple[int, int]]:
    """[outputs, inputs] of every matrix of a head."""
    width, q_width = config.width, config.heads * config.head_dim
    return {
        "fuse": (width, len(config.feature_layers) * width),
        "enter": (width, 2 * width),
        "qkv": (q_width + 2 * config.kv_heads * config.head_dim, width),
        "output": (width, q_width),
        "gate_up": (2 * config.inner, width),
        "down": (width, config.inner),
    }


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """What a file holds, its shapes checked."""

    tensors: dict[str, torch.Tensor]

    @property
    def ids(self) -> torch.Tensor:
        """[draft_vocab] int64, ascending: the target's id of each draft id."""
        return self.tensors[IDS].long()

    def vector(self, name: str) -> torch.Tensor:
        """A norm's weights."""
        return self.tensors[name]

    def matrix(self, name: str) -> torch.Tensor:
        """[outputs, inputs] float32, widened."""
        return self.tensors[name].float() * self.tensors[f"{name}.scales"].float()[:, None]

    def linear(self, name: str, dtype: torch.dtype, device: torch.device, quantization: Quantization) -> Linear:
        """A matrix to multiply by: as it is stored for int8, otherwise widened and made anew."""
        if quantization == "int8" and device.type == "cpu":
            # Copied: a file's tensors lie at any multiple of 8, and the kernel reads what is aligned to a vector.
            return Int8Linear(self.tensors[name].clone(), self.tensors[f"{name}.scales"].to(dtype, copy=True), None)
        return make_linear(self.matrix(name).to(device, dtype), None, quantization)


def read_head(path: Path, config: HeadConfig) -> HeadWeights:
    """Read a head's weights.

    Raises:
        ModelSourceError: the file is missing or damaged, or its tensors are not those that head.json says.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelSourceError(f"{path}: cannot be read ({error}); copy or train the head again") from error
    wanted: dict[str, tuple[tuple[int, ...], torch.dtype | None]] = dict.fromkeys(NORMS, ((config.width,), None))
    for name, sizes in matrix_shapes(config).items():
        wanted[name] = (sizes, torch.int8)
        wanted[f"{name}.scales"] = (sizes[:1], None)
    wanted[IDS] = ((config.draft_vocab,), torch.int32)
    for name, (shape, dtype) in wanted.items():
        held = tensors.get(name)
        if held is None or tuple(held.shape) != shape or (dtype is not None and held.dtype != dtype):
            found = "nothing" if held is None else f"{held.dtype} {tuple(held.shape)}"
            raise ModelSourceError(f"{path}: {name}: head.json says {dtype or 'floats'} {shape}, found {found}")
    ids = tensors[IDS]
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= config.vocab_size):
        raise ModelSourceError(f"{path}: {IDS}: ids must lie in 0..{config.vocab_size - 1}")
    return HeadWeights(tensors)


def head_tensors(
    matrices: dict[str, torch.Tensor], norms: dict[str, torch.Tensor], ids: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What is written: matrices rounded to 8 bits row by row, norms in bfloat16.

    Args:
        matrices: By name, [outputs, inputs].
        norms: By name, [width].
        ids: [draft_vocab].
    """
    tensors = {name: weight.detach().to("cpu", torch.bfloat16) for name, weight in norms.items()}
    for name, weight in matrices.items():
        integers, scales = quantize_int8(weight.detach().cpu().float())
        tensors[name], tensors[f"{name}.scales"] = integers, scales.to(torch.bfloat16)
    tensors[IDS] = ids.to("cpu", torch.int32)
    return tensors
