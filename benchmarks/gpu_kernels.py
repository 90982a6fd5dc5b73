"""Kernels of the GPU benchmark: each Triton twin beside its torch reference, and beside the bytes it has to move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from gpu_timing import Clock

from paceline.kernels.decoder_ops import BLOCK
from paceline.kernels.decoder_torch import TorchOps
from paceline.kernels.decoder_triton import TritonOps
from paceline.kernels.kv_compaction import compact_kv_torch
from paceline.kernels.kv_compaction_triton import compact_kv_triton
from paceline.kernels.law import sampling_law_torch, top_width
from paceline.kernels.law_triton import sampling_law_triton
from paceline.kernels.overlap import overlap_torch
from paceline.kernels.overlap_triton import overlap_triton
from paceline.kernels.paged_attention import paged_attention_torch
from paceline.kernels.paged_attention_triton import paged_attention_triton
from paceline.kernels.verification import verify_chains_torch
from paceline.kernels.verification_triton import verify_chains_triton

Outputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel at one size. `least_bytes` are those that must be read or written once, whatever the algorithm.

    A reference that waits for the device cannot be recorded, and is timed with its launches.
    """

    name: str
    size: str
    least_bytes: int
    torch: Callable[[], Outputs]
    triton: Callable[[], Outputs]
    torch_waits: bool = True


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a target like Llama 3.1 8B that verifies drafts of seven, or of a toy."""

    vocab: int = 128_256
    batch: int = 32
    draft: int = 7
    context: int = 1024
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    width: int = 4096
    inner: int = 14_336
    layers: int = 32
    dtype: torch.dtype = torch.bfloat16


TOY = Sizes(97, 2, 2, 20, 2, 1, 16, 32, 48, 2, torch.float32)


def kernel_rows(sizes: Sizes, clock: Clock, best_gb_s: float) -> Iterator[dict[str, Any]]:
    """Check each twin against its reference, then time both."""
    for case in cases(sizes, clock.device):
        for ours, theirs in zip(case.triton(), case.torch(), strict=True):
            torch.testing.assert_close(ours.float(), theirs.float(), atol=2**-6, rtol=2**-6)
        triton_ms, torch_ms = clock.kernel_ms(case.triton), clock.kernel_ms(case.torch, case.torch_waits)
        floor_ms = case.least_bytes / best_gb_s / 1e6
        yield {
            "kernel": case.name,
            "size": case.size,
            "triton_ms": triton_ms,
            "torch_ms": torch_ms,
            "torch/triton": torch_ms / triton_ms,
            "floor_ms": floor_ms,
            "triton/floor": triton_ms / floor_ms,
        }


def cases(s: Sizes, device: torch.device) -> Iterator[Case]:
    """All kernels, their operands made one after another."""
    torch.manual_seed(0)
    rows = s.batch * (s.draft + 1)
    logits = torch.randn(rows, s.vocab, device=device, dtype=s.dtype) * 3
    ones = torch.ones(rows, device=device)
    for name, top_k, top_p in (("off", 0, 1.0), ("top-k 50", 50, 1.0), ("top-p 0.9", 0, 0.9), ("both", 50, 0.9)):
        given = logits, ones * 0.8, torch.full((rows,), top_k, device=device), ones * top_p
        yield Case(
            f"sampling filters, {name}",
            f"{rows} x {s.vocab}",
            logits.nbytes + 4 * logits.numel(),
            lambda given=given: (sampling_law_torch(*given),),
            lambda given=given: (sampling_law_triton(*given),),
        )
    yield from round_cases(s, device, sampling_law_torch(logits, ones * 0.8, torch.zeros_like(ones).long(), ones))
    for rows_each in (1, s.draft + 1):
        yield attention_case(s, device, s.batch, s.context, rows_each)
    yield attention_case(s, device, 1, 4 * s.context, 1)
    yield attention_case(s, device, 1, 4 * s.context, 64 if s.context > 64 else 6)
    memory = torch.randn(4 * s.batch, s.layers, s.kv_heads, 2, BLOCK * s.head_dim, device=device, dtype=s.dtype)
    first = torch.arange(s.batch, device=device)[:, None] * 4 * BLOCK
    target = first + torch.arange(4, device=device)
    source = target + 20  # moved again and again alike: neither reads what it writes
    copies = memory, memory.clone()
    yield Case(
        "compaction",
        f"{s.batch} sequences, 4 moves",
        2 * source.numel() * s.layers * s.kv_heads * 2 * s.head_dim * memory.element_size(),
        lambda: (compact_kv_torch(copies[0], source, target), copies[0])[1:],
        lambda: (compact_kv_triton(copies[1], source, target), copies[1])[1:],
    )
    ours, theirs = TritonOps("benchmark"), TorchOps("benchmark")
    x, weight = torch.randn(rows, s.width, device=device, dtype=s.dtype), torch.ones(s.width, device=device).to(s.dtype)
    zero = torch.zeros_like(x)
    yield Case(
        "residual and norm",
        f"{rows} x {s.width}",
        4 * x.nbytes,
        lambda: (theirs.add_rms_norm(x, zero, weight, 1e-5),),
        lambda: (ours.add_rms_norm(x, zero, weight, 1e-5),),
        torch_waits=False,
    )
    both = torch.randn(rows, 2 * s.inner, device=device, dtype=s.dtype)
    yield Case(
        "gate",
        f"{rows} x {s.inner}",
        3 * both.nbytes // 2,
        lambda: (theirs.silu_mul(both),),
        lambda: (ours.silu_mul(both),),
        torch_waits=False,
    )


def round_cases(s: Sizes, device: torch.device, p: torch.Tensor) -> Iterator[Case]:
    """Verification and overlap, over the law of the sampling filters' rows."""
    drafts = s.batch * s.draft
    lengths = torch.full((s.batch,), s.draft, device=device)
    q_ids, q_probs = top_width(torch.rand(drafts, s.vocab, device=device), min(32, s.vocab), renormalise=True)
    drawn = torch.multinomial(q_probs, 1)
    noise = torch.empty(s.batch, s.vocab, device=device).exponential_()
    chains = p, q_ids.long().gather(1, drawn).squeeze(1), q_ids, q_probs, lengths, torch.rand(drafts, device=device)
    yield Case(
        "verification of chains",
        f"{s.batch} x {s.draft} drafts, {s.vocab}",
        s.batch * s.vocab * 8,
        lambda: verify_chains_torch(*chains, noise),
        lambda: verify_chains_triton(*chains, noise),
    )
    yield Case(
        "overlap",
        f"{drafts} x {q_ids.shape[1]}",
        q_ids.numel() * 12,
        lambda: (overlap_torch(p[:drafts], q_ids, q_probs),),
        lambda: (overlap_triton(p[:drafts], q_ids, q_probs),),
        torch_waits=False,
    )


def attention_case(s: Sizes, device: torch.device, batch: int, context: int, rows: int) -> Case:
    """`rows` of each sequence over `context` positions, blocks in a random order, with a tree's mask."""
    used = -(-(context + rows) // BLOCK)
    blocks = torch.randn(batch * used, s.kv_heads, 2, BLOCK * s.head_dim, device=device, dtype=s.dtype)
    q = torch.randn(batch * rows, s.heads, s.head_dim, device=device, dtype=s.dtype)
    given = (
        q,
        blocks,
        torch.randperm(batch * used, device=device).view(batch, used),
        torch.full((batch,), context, device=device),
        torch.full((batch,), rows, device=device),
        torch.full((batch * rows,), -1, device=device),
    )
    return Case(
        "paged attention",
        f"{batch} x {rows} rows over {context}",
        blocks.nbytes + 2 * q.nbytes,
        lambda: (paged_attention_torch(*given),),
        lambda: (paged_attention_triton(*given),),
    )
