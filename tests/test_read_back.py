"""What is read back together comes apart again as it was, whatever its dtypes and sizes."""

from __future__ import annotations

import pytest
import torch

from paceline.kernels.read_back import pack, read_back, unpack

TENSORS = [
    torch.tensor([3, -1, 2**40]),
    torch.tensor([[1, -2, 7]], dtype=torch.int32),  # leaves the next at no multiple of 8 bytes
    torch.tensor([2**50, 5]),
    torch.rand(2, 3).t(),
    torch.empty(0, 4),
    torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
]


def assert_equal(got: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.device.type == "cpu"
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs.cpu())


def test_tensors_come_back_as_they_were() -> None:
    assert_equal(unpack(pack(TENSORS), TENSORS), TENSORS)
    assert_equal(read_back(TENSORS), TENSORS)
    assert read_back([]) == []


@pytest.mark.gpu
def test_a_device_is_waited_for_once() -> None:
    import warnings

    tensors = [tensor.cuda() for tensor in TENSORS]
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            got = read_back(tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 1
    assert_equal(got, tensors)
