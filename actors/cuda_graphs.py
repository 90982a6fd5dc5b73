"""Forwards as CUDA graphs: some 300 launches recorded once for a size, and replayed by one call.

A forward of few rows is over sooner on a GPU than its launches are on the host. The one idea: sizes come in buckets of
(sequences, rows, logits); a bucket's graph reads its `ForwardInputs` where it was recorded, and what does not fill them
pads. A bucket is recorded when it is first needed. `llama` keeps one of these where its model is on a CUDA device and
its pool has a bound, so that blocks stay where they are; other forwards, and longer ones, are launched one by one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from paceline.actors.causal_model import Step
from paceline.actors.forward_inputs import ForwardInputs, RowLayout, lay_out
from paceline.actors.llama_cache import LlamaCache

ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# Inputs on the device and how many rows' logits are wanted -> logits [wanted, vocab], features [rows, width] or None.
Body = Callable[[ForwardInputs, int], tuple[torch.Tensor, torch.Tensor | None]]
Replay = Callable[[], None]
Recorder = Callable[[Callable[[], None]], Replay]


@dataclass(frozen=True, slots=True)
class _Recorded:
    """One bucket's graph."""

    host: ForwardInputs  # pinned, where there is a device to copy to
    device: ForwardInputs
    replay: Replay
    features: list[torch.Tensor | None]  # one: where the graph leaves them


class CudaGraphs:
    """Graphs of one model, sharing memory: one runs at a time, and what it leaves is copied before the next.

    Args:
        body: The forward's work on the device.
        device: Where.
        logits: [max(ROWS), vocab_size] in the model's dtype, on the device: where every graph leaves its own.
        width: Most blocks of a sequence.
        record: Runs a piece of work once, and returns what repeats it: `CudaRecorder`, or on a CPU, in tests, nothing
            but the work itself.
    """

    def __init__(self, body: Body, device: torch.device, logits: torch.Tensor, width: int, record: Recorder) -> None:
        self._body = body
        self._device = device
        self._logits = logits
        self._width = width
        self._record = record
        self._recorded: dict[tuple[int, int, int], _Recorded] = {}
        self._copied: Any = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._on_device = torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    @property
    def buckets(self) -> list[tuple[int, int, int]]:
        """(sequences, rows, logits) that were recorded."""
        return list(self._recorded)

    @staticmethod
    def fits(sequences: int, rows: int) -> bool:
        """Whether there is a bucket for a forward."""
        return rows <= ROWS[-1] and sequences <= SEQUENCES[-1]

    def run(
        self, steps: Sequence[Step], caches: Sequence[LlamaCache], ids: Sequence[int], wanted: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor | None, RowLayout]:
        """A forward that fits.

        Args:
            steps: Checked by the caller.
            caches: The steps' own; they are extended.
            ids: Of all rows.
            wanted: Rows whose logits are wanted.

        Returns:
            Logits [wanted, vocab] of the caller's own; features [rows, width] or None, to be copied before the next
            forward; and the layout.

        Raises:
            EngineError: the pool has no block left; every cache is as it was.
        """
        layout = lay_out(steps, caches)
        sequences = _at_least(SEQUENCES, len(steps))
        rows = _at_least(ROWS, max(len(ids), sequences))
        # A prompt wants its last row alone, a draft every row.
        key = (sequences, rows, sequences if len(wanted) <= sequences else rows)
        with self._on_device:
            graph = self._recorded.get(key)
            if graph is None:
                graph = self._recorded[key] = self._new(*key)
            if self._copied is not None:
                self._copied.synchronize()  # the last copy from the host's memory; over, but for a round of prompts
            used = graph.host.fill(layout, ids, wanted)
            graph.device.buffer[:used].copy_(graph.host.buffer[:used], non_blocking=True)
            if self._copied is not None:
                self._copied.record()
            graph.replay()
            features = graph.features[0]
            return self._logits[: len(wanted)].clone(), None if features is None else features[: len(ids)], layout

    def _new(self, sequences: int, rows: int, wanted: int) -> _Recorded:
        size = ForwardInputs.size(sequences, rows, self._width)
        pinned = self._device.type == "cuda"
        host = ForwardInputs.of(torch.zeros(size, dtype=torch.int64, pin_memory=pinned), sequences, rows, self._width)
        host.fill(RowLayout((), (), (), (), None), (), ())  # nothing but padding: recording writes to no block
        device = ForwardInputs.of(host.buffer.to(self._device, copy=True), sequences, rows, self._width)
        features: list[torch.Tensor | None] = [None]

        def work() -> None:
            logits, features[0] = self._body(device, wanted)
            self._logits[:wanted].copy_(logits)

        return _Recorded(host, device, self._record(work), features)


class CudaRecorder:
    """Records work as CUDA graphs with one pool of memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None]) -> Replay:
        """Run work, which compiles what it needs, then record it."""
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            work()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        return graph.replay


def _at_least(sizes: Sequence[int], size: int) -> int:
    return sizes[bisect_left(sizes, size)]
