"""How an op checks its operands and picks its twin: the torch reference, or on a CUDA device the Triton kernel.

The one idea: what an op refuses does not depend on where its tensors lie. Shapes and dtypes are checked for free;
values are checked by one boolean per rule, all of them read back together. `verification` and `overlap` call this.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch

IDS = (torch.int32, torch.int64)
FLOATS = (torch.float32,)


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that must hold of an operand's values. `holds` is a boolean scalar on the operand's device."""

    name: str
    operand: torch.Tensor
    holds: torch.Tensor
    expected: str


def check_operand(
    name: str, operand: torch.Tensor, dtypes: Sequence[torch.dtype], shape: Sequence[int | None], device: torch.device
) -> None:
    """Check an operand without reading its values; None in `shape` allows any size.

    Raises:
        ValueError: names the operand, what it is, and what was expected.
    """
    if operand.dtype not in dtypes:
        raise ValueError(f"{name}: expected dtype {' or '.join(map(str, dtypes))}, got {operand.dtype}")
    fits = len(shape) == operand.dim() and all(
        want in (None, have) for want, have in zip(shape, operand.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name}: expected shape [{wanted}], got {list(operand.shape)}")
    if operand.device != device:
        raise ValueError(f"{name}: expected on {device}, as the other operands, got {operand.device}")


def check_rules(rules: Sequence[Rule]) -> None:
    """Check operands' values: one read-back for all rules.

    Raises:
        ValueError: the first rule that does not hold, with the range of the values found.
    """
    for rule, holds in zip(rules, torch.stack([rule.holds for rule in rules]).tolist(), strict=True):
        if not holds:
            found = (
                f"from {rule.operand.min().item()} to {rule.operand.max().item()}" if rule.operand.numel() else "none"
            )
            raise ValueError(f"{rule.name}: expected {rule.expected}, got values {found}")


def triton_twin(op: str, operand: torch.Tensor) -> ModuleType | None:
    """The module that holds the op's Triton twin where `operand` is on a CUDA device, else None.

    Raises:
        ImportError: it is on a CUDA device and Triton is not installed.
    """
    if not operand.is_cuda:
        return None
    try:
        return importlib.import_module(f"paceline.kernels.{op}_triton")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "triton":
            raise
        raise ImportError(
            f"{op}: tensors on {operand.device} need Triton, which is not installed; "
            "run `pip install 'triton>=3.6'`, or keep the model on the CPU"
        ) from error
