"""What tests share: Triton's interpreter where there is no CUDA device, and one real cluster for end-to-end tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from required_tools import required

if TYPE_CHECKING:
    from paceline.cluster.served_process import ServedProcess

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read by `import triton`, which no test module may precede


def pytest_configure() -> None:
    """See that what has to be there is something that tests know."""
    required()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are collected everywhere and run where they can."""
    if not torch.cuda.is_available():
        absent = pytest.mark.skip(reason="no CUDA device is present (torch.cuda.is_available() is False)")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(absent)


@pytest.fixture(scope="session")
def live() -> Iterator[ServedProcess]:
    """A running cluster: the embedded model in float32 with three drafters, each a process of its own."""
    from live_cluster import DOCUMENT

    from paceline.cluster.served_process import ServedProcess

    os.environ["RAY_metrics_report_interval_ms"] = "1000"  # noqa: SIM112 - so Ray spells it; its own is 10 s
    with ServedProcess(DOCUMENT) as served:
        yield served
