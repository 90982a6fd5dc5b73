"""What a decoder does between its multiplications, and who does it: torch anywhere, numba's compiled twin on a CPU,
Triton's on a GPU.

A forward of a few tokens on a CPU spends as long in small operators as in its weights. So a layer is four
multiplications and four calls of these ops: attention with rotation and cache, two additions with norm, one gate.
Keys and values lie in blocks of `BLOCK` positions that sequences may share; a `PagedBatch` says where. The lean
decoder (`actors/llama.py`) picks its ops once, by `decoder_ops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

BLOCK = 16  # positions of a block of keys and values
LANES = 16  # floats of a vector in the compiled twin: head_dim must be a multiple

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BlockTables:
    """Where a batch's rows and blocks are, for ops that read it on the device; `paged_attention` says more."""

    memory: torch.Tensor  # [blocks, layers, kv_heads, 2, BLOCK * head_dim]: all blocks there are
    tables: torch.Tensor  # [sequences, width] int64: each sequence's blocks, by their place in `memory`
    starts: torch.Tensor  # [sequences] int64 positions that the cache held before
    counts: torch.Tensor  # [sequences] int64 rows of this forward; 0 pads
    sight: torch.Tensor | None  # [rows] int64, as `PagedBatch.sight`


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """Sequences whose rows lie end to end in a batch, and the blocks of their keys and values.

    A block is a tensor [layers, kv_heads, 2, BLOCK * head_dim]: keys as [head_dim, BLOCK], so that one query meets the
    keys of `BLOCK` positions at once, and values as [BLOCK, head_dim].
    """

    blocks: Sequence[Sequence[torch.Tensor]]  # per sequence, in the order of its positions
    addresses: Int64s  # of all blocks, sequence after sequence
    starts: Int64s  # [sequences] positions that the cache held before
    counts: Int64s  # [sequences] rows of this forward
    sight: Int64s | None  # [rows] bit j: sees row j of its own sequence; -1, or None: all rows up to itself
    tables: BlockTables | None = None  # instead of the blocks, where they lie in one tensor (`whole`)


class DecoderOps(Protocol):
    """The ops of one decoder. `reason` says why it was these, `whole` whether they want all blocks in one tensor."""

    name: str
    reason: str
    whole: bool

    def add_rms_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """x += delta, in place; returns x / rms(x) * weight.

        Args:
            x: [rows, width], the residual stream.
            delta: [rows, width], or None to add nothing.
            weight: [width].
            eps: Added to the mean square (RMSNorm, arXiv 1910.07467).

        Returns:
            [rows, width].
        """
        ...

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up (SwiGLU, arXiv 2002.05202).

        Args:
            gate_up: [rows, 2 * width], gates before ups.

        Returns:
            [rows, width].
        """
        ...

    def attend(
        self, qkv: torch.Tensor, heads: int, rope: tuple[torch.Tensor, torch.Tensor], batch: PagedBatch, layer: int
    ) -> torch.Tensor:
        """Rotate queries and keys, write keys and values into their blocks, attend.

        Args:
            qkv: [rows, heads + 2 * kv_heads, head_dim], contiguous.
            heads: Query heads, a multiple of the key heads.
            rope: Cosines and sines, each [rows, head_dim / 2] float32; pairs are half a head apart.
            batch: Whose rows these are, and the blocks.
            layer: Which layer's part of the blocks.

        Returns:
            [rows, heads * head_dim].
        """
        ...


def decoder_ops(device: torch.device, dtype: torch.dtype, head_dim: int) -> DecoderOps:
    """The fastest ops for a decoder."""
    from paceline.kernels.decoder_torch import TorchOps  # each twin imports this module

    if device.type == "cuda":
        if find_spec("triton") is None:
            return TorchOps(f"the model is on {device}, and Triton is not installed: run `pip install 'triton>=3.6'`")
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return TorchOps(f"{dtype} on {device}")
        from paceline.kernels.decoder_triton import TritonOps

        return TritonOps(f"the model is on {device}")
    if device.type != "cpu":
        return TorchOps(f"the model is on {device}")
    if dtype not in (torch.float32, torch.bfloat16):
        return TorchOps(f"{dtype} on a CPU")
    if head_dim % LANES:
        return TorchOps(f"head_dim {head_dim} is not a multiple of {LANES}")
    from paceline.kernels.decoder_numba import NumbaOps  # seconds of imports that no CUDA target needs

    return NumbaOps(f"{dtype} on a CPU", dtype)
