"""What a figure was measured with: commit, versions, machine, arguments. Every benchmark's JSON line carries it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ray", "torch", "triton", "transformers", "grpcio", "numpy")


def provenance() -> dict[str, Any]:
    """Commit (with `+` where the tree has changes), versions of what matters, CPU and arguments."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "argv": [_argument(text) for text in sys.argv[1:]],
    }


def _argument(text: str) -> str:
    """An argument as anyone may read it: a path in this repository from its root on, of any other the last part."""
    name, given, value = text.partition("=") if text.startswith("--") else ("", "", text)
    path = Path(value)
    if path.is_absolute():
        value = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else f".../{path.name}"
    return name + given + value


def _version(package: str) -> str | None:
    """None where it is not installed, which the GPU benchmark does without Ray."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
