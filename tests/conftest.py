"""What every test shares: Triton kernels run in its interpreter where there is no CUDA device to run them on."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read by `import triton`, which no test module may precede


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are collected everywhere and run where they can."""
    if not torch.cuda.is_available():
        absent = pytest.mark.skip(reason="no CUDA device is present (torch.cuda.is_available() is False)")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(absent)
