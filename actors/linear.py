"""Linear layers of the lean decoder: plain, or with weights of 8 or 4 bits that are widened as they are read.

A forward of a few tokens costs what its weights weigh, so half or a quarter of the bits is nearly half or a quarter of
the time. Activations keep the model's dtype. The kernels are those that torch ships for CPUs; `llama` makes a layer
of each weight that it multiplies by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from paceline.actors.errors import ModelSourceError
from paceline.actors.model_facts import QUANTIZATIONS, Quantization

GROUP = 32  # weights that share a scale in int4: that of GGUF's Q4_1, whose grid is then found again
_INT4_ROWS = 16  # the kernel takes outputs in blocks of so many
_LEVELS = 15  # steps from the smallest of 16 values to the largest


class Linear(Protocol):
    """x [rows, in] -> [rows, out], in the dtype of x."""

    @property
    def weight_bytes(self) -> int:
        """Bytes read by a multiplication."""
        ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        ...


@dataclass(frozen=True, slots=True)
class DenseLinear:
    """Weights in the dtype of the activations."""

    weight: torch.Tensor  # [out, in]
    bias: torch.Tensor | None

    @property
    def weight_bytes(self) -> int:
        """Bytes read by a multiplication."""
        return self.weight.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        return F.linear(x, self.weight, self.bias)


Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # x [rows, in], weight [out, in] -> [rows, out]


@dataclass(frozen=True, slots=True)
class FewRowsLinear(DenseLinear):
    """The same on a CPU in bfloat16, where a few rows have a kernel of their own."""

    product: Product
    most_rows: int  # that it takes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        if not 1 <= len(x) <= self.most_rows:
            return F.linear(x, self.weight, self.bias)
        y = self.product(x, self.weight)
        return y if self.bias is None else y.add_(self.bias)


@dataclass(frozen=True, slots=True)
class Int8Linear:
    """Weights of 8 bits with one scale per output: weight = scale * integer."""

    weight: torch.Tensor  # [out, in] int8
    scales: torch.Tensor  # [out]
    bias: torch.Tensor | None

    @property
    def weight_bytes(self) -> int:
        """Bytes read by a multiplication."""
        return self.weight.nbytes + self.scales.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        y = torch._weight_int8pack_mm(x, self.weight, self.scales)
        return y if self.bias is None else y.add_(self.bias)


@dataclass(frozen=True, slots=True)
class Int4Linear:
    """Weights of 4 bits, in groups of `GROUP` along the inputs: weight = zero + scale * (integer - 8)."""

    packed: torch.Tensor  # [out, in / 2] uint8, in the kernel's own order
    scales_and_zeros: torch.Tensor  # [in / GROUP, out, 2]
    bias: torch.Tensor | None

    @property
    def weight_bytes(self) -> int:
        """Bytes read by a multiplication."""
        return self.packed.nbytes + self.scales_and_zeros.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        y = torch._weight_int4pack_mm_for_cpu(x, self.packed, GROUP, self.scales_and_zeros)
        return y if self.bias is None else y.add_(self.bias)


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None, quantization: Quantization) -> Linear:
    """The layer of one weight. What int4 cannot group evenly becomes int8.

    Args:
        weight: [out, in], in the dtype of the activations.
        bias: [out] or None.
        quantization: none, int8 or int4.

    Raises:
        ModelSourceError: quantization is unknown, or asked for on another device than a CPU.
    """
    if quantization not in QUANTIZATIONS:
        raise ModelSourceError(f"quantization: {quantization!r}; expected one of {', '.join(QUANTIZATIONS)}")
    if quantization == "none" and weight.dtype == torch.bfloat16 and weight.device.type == "cpu":
        return _few_rows(weight, bias)
    if quantization == "none":
        return DenseLinear(weight, bias)
    if weight.device.type != "cpu":
        raise ModelSourceError(f"quantization: {quantization!r} is for the CPU; the model is on {weight.device}")
    out_features, in_features = weight.shape
    if quantization == "int4" and out_features % _INT4_ROWS == 0 and in_features % GROUP == 0:
        integers, scales_and_zeros = quantize_int4(weight)
        packed = torch._convert_weight_to_int4pack_for_cpu(integers, 1)
        return Int4Linear(packed, scales_and_zeros, bias)
    integers, scales = quantize_int8(weight)
    return Int8Linear(integers, scales, bias)


def _few_rows(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """With the kernel that this CPU and these shapes allow. Importing one is seconds that no CUDA target needs."""
    from paceline.kernels.simd import multiplies_pairs

    if multiplies_pairs():
        from paceline.kernels import linear_pairs_numba as pairs

        if pairs.fits(weight):
            return FewRowsLinear(weight, bias, pairs.multiply, pairs.MOST_ROWS)
    from paceline.kernels import linear_numba as singles

    if singles.fits(weight):
        return FewRowsLinear(weight, bias, singles.multiply, singles.MOST_ROWS)
    return DenseLinear(weight, bias)


def quantize_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row to a symmetric grid that reaches its largest magnitude.

    Args:
        weight: [out, in].

    Returns:
        Integers [out, in] int8, and scales [out] in the weight's dtype.
    """
    exact = weight.float()
    scales = (exact.abs().amax(dim=1) / 127).to(weight.dtype)
    scales = torch.where(scales == 0, 1, scales)  # a row of zeros
    integers = (exact / scales.float()[:, None]).round_().clamp_(-127, 127)
    return integers.to(torch.int8), scales


def quantize_int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each group of `GROUP` weights of a row to 16 even steps from its smallest to its largest.

    Where the weights lie on such a grid already, as those of a dequantised Q4_1 file do, the integers are that file's,
    and all that is lost is the rounding of scale and zero to the weight's dtype.

    Args:
        weight: [out, in], `in` a multiple of `GROUP`.

    Returns:
        Integers [out, in] int32 in 0..15, and scales and zeros [in / GROUP, out, 2] in the weight's dtype; a weight is
        zero + scale * (integer - 8).
    """
    out_features, in_features = weight.shape
    groups = weight.float().view(out_features, -1, GROUP)
    low, high = groups.aminmax(dim=-1, keepdim=True)
    step = (high - low) / _LEVELS
    zero = (low + 8 * step).to(weight.dtype)
    scale = step.to(weight.dtype)
    scale = torch.where(scale == 0, 1, scale)  # a group of equal weights: all of them are the zero
    integers = ((groups - zero.float()) / scale.float()).round_().add_(8).clamp_(0, _LEVELS)
    pairs = torch.cat((scale, zero), dim=-1).transpose(0, 1).contiguous()  # [groups, out, 2]
    return integers.view(out_features, in_features).to(torch.int32), pairs
