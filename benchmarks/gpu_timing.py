"""How the GPU benchmark times work, what the memory can do at best, and how results are kept while they come in."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


class Clock:
    """Medians of repeated work on one device.

    Args:
        device: Where the work is.
        repeats: Times that each piece of work is timed, after two that are not.
    """

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device = device
        self.repeats = repeats
        size = 256 << 20 if device.type == "cuda" else 1 << 10
        self._flush = torch.empty(size, dtype=torch.uint8, device=device)  # larger than the cache

    def wait(self) -> None:
        """Until the device has done all it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def kernel_ms(self, work: Callable[[], object], waits: bool = False) -> float:
        """Of work alone, its operands not in the cache: recorded, so without its launches, unless it `waits`."""
        if self.device.type != "cuda":
            return self.host_ms(work)
        work()
        self.wait()
        again = work
        if not waits:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                work()
            again = graph.replay
        times = []
        for _ in range(self.repeats + 2):
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._flush.zero_()
            began.record()
            again()
            ended.record()
            self.wait()
            times.append(began.elapsed_time(ended))
        return statistics.median(times[2:])

    def host_ms(self, work: Callable[[], object]) -> float:
        """From the call until the device has done it, as a caller feels it."""
        times = []
        for _ in range(self.repeats + 2):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            times.append((time.perf_counter() - began) * 1e3)
        return statistics.median(times[2:])


def measured_bandwidth(clock: Clock) -> dict[str, float]:
    """GB/s of reading and of copying, much larger than the cache: the floor is set by the better of them."""
    count = 1 << 30 if clock.device.type == "cuda" else 1 << 16
    data = torch.ones(count, dtype=torch.float32, device=clock.device)
    other = torch.empty_like(data)
    read = data.nbytes / clock.kernel_ms(lambda: data.sum()) / 1e6
    copied = 2 * data.nbytes / clock.kernel_ms(lambda: other.copy_(data)) / 1e6
    return {"read_gb_s": read, "copy_gb_s": copied, "best_gb_s": max(read, copied)}


class Report:
    """Sections of results: printed as tables as they come, and written to a file each time."""

    def __init__(self, path: Path | None, facts: Mapping[str, Any]) -> None:
        self._path = path
        self.results: dict[str, Any] = dict(facts)

    def section(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print a table of rows that share their columns, and keep it."""
        self.results[name] = list(rows)
        self.save()
        if not rows:
            return
        columns = list(rows[0])
        cells = [columns, *([_shown(row.get(column)) for column in columns] for row in rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        print(f"\n{name}")
        for line in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), flush=True)

    def save(self) -> None:
        """Write what there is, whole or not at all."""
        if self._path is not None:
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps(self.results, indent=1) + "\n")
            part.replace(self._path)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
