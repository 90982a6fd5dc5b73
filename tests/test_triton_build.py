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

for logits in ("*fp32", "*bf16"):
    build(law_kernel, f"{logits} *fp32 *i64 *fp32 *fp32 i32", block=4096)
for ids in ("*i32", "*i64"):
    chains = f"*fp32 *i64 {ids} *fp32 *i64 *fp32 *fp32 *fp32 *i64 *i64 i32 i32"
    build(chains_kernel, chains, slots=64, lengths_block=256, block=2048)
    build(overlap_kernel, f"*fp32 {ids} *fp32 *fp32 i32 i32", block=128)
"""


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
    assert done.stdout.splitlines() == [
        "law_kernel True False",
        "law_kernel True False",
        "chains_kernel True False",
        "overlap_kernel True False",
        "chains_kernel True False",
        "overlap_kernel True False",
    ]
