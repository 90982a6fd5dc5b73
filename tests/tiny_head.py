"""A tiny draft head in a folder for a tiny target, with random weights or trained a little, and features for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from paceline.actors.bfloat16 import to_bits
from paceline.actors.drafter import Drafter
from paceline.actors.head_config import WEIGHTS_FILE
from paceline.actors.head_weights import NORMS, head_tensors, matrix_shapes
from paceline.actors.messages import Commit, Draft, Open, Probs, Propose
from paceline.cluster.training.head_module import HeadModule
from paceline.cluster.training.head_start import new_head


def make_tiny_head(
    folder: Path, target: Path, layers: Sequence[int], ids: Sequence[int], seed: int = 0, calibration: float = 1.0
) -> HeadModule:
    """Write a head whose weights are random on top of the target's last layer; its weights are those written."""
    head = new_head(target, torch.tensor(list(ids)), layers, 64, None, seed)
    with torch.no_grad():
        for weight in head.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    folder.mkdir(parents=True, exist_ok=True)
    matrices = {name: getattr(head, name).weight for name in matrix_shapes(head.config)}
    norms = {name: getattr(head, name) for name in NORMS}
    save_file(head_tensors(matrices, norms, head.ids), folder / WEIGHTS_FILE)
    replace(head.config, calibration=calibration).write(folder)
    return head


class WithFeatures:
    """A kind that reads features, fed ones that depend on nothing but the position: for tests of what all kinds owe."""

    features = None

    def __init__(self, drafter: Drafter) -> None:
        assert drafter.features is not None
        self.inner = drafter
        self.vocab_size = drafter.vocab_size
        self._window = drafter.features.window
        rows = np.random.default_rng(5).standard_normal((512, drafter.features.row_width))
        self._rows = to_bits(torch.from_numpy(rows).float())

    def open(self, opens: Sequence[Open]) -> None:
        self.inner.open([replace(item, features=self._some(1, len(item.tokens))) for item in opens])

    def commit(self, commits: Sequence[Commit]) -> list[Probs]:
        return self.inner.commit(
            [replace(item, features=self._some(item.start, item.start + len(item.tokens))) for item in commits]
        )

    def propose(self, proposes: Sequence[Propose]) -> list[Draft]:
        return self.inner.propose(proposes)

    def close(self, seqs: Sequence[int]) -> None:
        self.inner.close(seqs)

    def _some(self, start: int, stop: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
        """Rows that go with the tokens at positions `start` .. `stop` - 1."""
        return self._rows[max(start - 1, stop - 1 - self._window) : stop - 1]
