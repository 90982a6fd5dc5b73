"""The safetensors of a model folder, read by memory map: one file or many shards, by tensor name."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from paceline.actors.errors import ModelSourceError


class Checkpoint:
    """Tensors by name, converted to one dtype on one device as they are taken. `llama` reads its weights from it."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Open every *.safetensors file of `folder`.

        Raises:
            ModelSourceError: there is none, or one is damaged.
        """
        self._folder = folder
        self._device = device
        self._dtype = dtype
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                file: Any = safe_open(path, framework="pt", device="cpu")
            except (SafetensorError, OSError) as error:
                raise ModelSourceError(f"{path}: cannot be read ({error}); fetch or copy the file again") from error
            self._files.update(dict.fromkeys(file.keys(), file))
        if not self._files:
            raise ModelSourceError(f"{folder}: holds no *.safetensors weights")

    @property
    def names(self) -> Collection[str]:
        """Every tensor's name."""
        return self._files.keys()

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor.

        Raises:
            ModelSourceError: it is missing.
        """
        if name not in self._files:
            raise ModelSourceError(f"{self._folder}: the weights lack the tensor {name!r} that config.json asks for")
        held: torch.Tensor = self._files[name].get_tensor(name)
        return held.to(device=self._device, dtype=self._dtype)

    def joined(self, names: list[str]) -> torch.Tensor:
        """Several tensors, joined along their rows."""
        return torch.cat([self.tensor(name) for name in names])
