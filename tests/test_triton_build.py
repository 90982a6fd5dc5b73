"""The Triton twins build for a GPU where there is none: the interpreter lets through what the compiler would refuse
(a loop that changes a variable's type, an operation a device lacks). Triton brings its own assembler for this.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BUILD = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from paceline.kernels.law_triton import law_kernel
from paceline.kernels.overlap_triton import overlap_kernel
from paceline.kernels.verification_triton import chains_kernel

def build(kernel, types, **constants):
    signature = dict(zip(kernel.arg_names, types.split() + ["constexpr"] * len(constants), strict=True))
    source = ASTSource(kernel, signature, constexprs=constants)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
    print(kernel.__name__, "cubin" in built.asm, "div.full" in built.asm["ptx"])

from paceline.kernels.decoder_triton import add_rms_norm_kernel, rotate_and_write_kernel, silu_mul_kernel
from paceline.kernels.kv_compaction_triton import compaction_kernel
from paceline.kernels.paged_attention_triton import attention_kernel, join_kernel

tables, numbers = "*i64 *i64 *i64", "fp32 i64 i64 i32 i32 i32 i32 i32 i32 i32"
for kind, exact, lanes, dims in (("*fp32", True, 16, 16), ("*bf16", False, 64, 128)):
    sums = kind if exact else "*fp32"
    build(attention_kernel, f"{kind} {kind} {tables} *i64 {sums} *fp32 *fp32 {numbers}", group=4, block=16,
          lanes=lanes, sequence_lanes=32, dims=dims, positions=64, trees=True, shared=not exact, exact=exact)
kind = "*bf16"
build(join_kernel, f"*fp32 *fp32 *fp32 {kind} i32 i32 i32 i32", share_lanes=16, dims=128)
build(add_rms_norm_kernel, f"{kind} {kind} {kind} {kind} i32 fp32", added=True, lanes=4096)
build(silu_mul_kernel, f"{kind} {kind} i32", block=1024)
build(rotate_and_write_kernel, f"{kind} *fp32 *fp32 {kind} {tables} i64 i32 i32 i32 i32 i32",
      block=16, head_lanes=64, half_lanes=64, sequence_lanes=32)
build(compaction_kernel, f"{kind} *i64 *i64 i32 i32 i32 i32 i32", block=16, move_lanes=8, dims=128)
for logits in ("*fp32", "*bf16"):
    build(law_kernel, f"{logits} *fp32 *i64 *fp32 *fp32 i32", block=4096)
for ids in ("*i32", "*i64"):
    chains = f"*fp32 *i64 {ids} *fp32 *i64 *fp32 *fp32 *fp32 *i64 *i64 i32 i32"
    build(chains_kernel, chains, slots=64, lengths_block=256, block=2048)
    build(overlap_kernel, f"*fp32 {ids} *fp32 *fp32 i32 i32", block=128)
"""
DECODING = {
    "add_rms_norm_kernel",
    "silu_mul_kernel",
    "rotate_and_write_kernel",
    "attention_kernel",
    "join_kernel",
    "compaction_kernel",
}


def test_kernels_build_for_hopper_with_correctly_rounded_quotients(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", BUILD],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    decoding = [line for line in lines if line.partition(" ")[0] in DECODING]
    assert len(decoding) == 7
    assert all(" True " in line for line in decoding)  # their quotients need not be exact
    assert [line for line in lines if line not in decoding] == [
        "law_kernel True False",
        "law_kernel True False",
        "chains_kernel True False",
        "overlap_kernel True False",
        "chains_kernel True False",
        "overlap_kernel True False",
    ]
