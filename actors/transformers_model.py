"""Any decoder that transformers knows and the lean decoder does not: correct, slower, one sequence at a time.

`model_loader` falls back to it. Importing this module imports transformers, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicLayer

from paceline.actors.causal_model import NO_FEATURES, Cache, Step, check_feature_layers, check_feature_range
from paceline.actors.errors import ModelSourceError
from paceline.actors.step_check import check_steps


class TransformersCache:
    """Keys and values of one sequence.

    Sliding-window layers are kept whole (transformers masks them), since a window that was cut cannot be rolled back
    twice.
    """

    def __init__(self, no_features: torch.Tensor | None = None) -> None:
        """An empty cache.

        Args:
            no_features: [0, feature layers * width] of the model's dtype and device; None keeps no features.
        """
        self.past = DynamicCache()
        self._features = no_features  # [length, feature layers * width]

    @property
    def length(self) -> int:
        """Positions held."""
        return int(self.past.get_seq_length())

    def truncate(self, length: int) -> None:
        """Forget positions from `length` on.

        Raises:
            ValueError: `length` is negative or more than is held.
        """
        held = self.length
        if not 0 <= length <= held:
            raise ValueError(f"truncate: length {length}; the cache holds {held} positions")
        if self._features is not None:
            self._features = self._features[:length]
        if length == 0:
            self.past = DynamicCache()
        else:
            self.past.crop(length - held)  # transformers counts what to remove, as a negative number

    def append_features(self, features: torch.Tensor) -> None:
        """Add the features of the positions just run, [positions, feature layers * width]."""
        if self._features is not None:
            self._features = torch.cat((self._features, features))  # as transformers does with the keys

    def features(self, start: int, stop: int) -> torch.Tensor:
        """The features of positions `start` .. `stop` - 1; see `Cache.features`."""
        if self._features is None:
            raise ValueError(NO_FEATURES)
        check_feature_range(start, stop, self.length)
        return self._features[start:stop]


class TransformersModel:
    """A `CausalModel` over AutoModelForCausalLM. Not thread-safe."""

    def __init__(
        self, folder: Path, device: torch.device, dtype: torch.dtype, feature_layers: Sequence[int] = ()
    ) -> None:
        """Load the model.

        Raises:
            ModelSourceError: transformers cannot load it, its state cannot be rolled back, or it has no such layer.
        """
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise ModelSourceError(f"{folder}: transformers cannot load it ({error})") from error
        self._model = model.to(device).eval()
        config = self._model.config.get_text_config(decoder=True)
        if not all(isinstance(layer, DynamicLayer) for layer in DynamicCache(config=config).layers):
            raise ModelSourceError(
                f"{folder}: {config.model_type} keeps a recurrent state, which cannot be rolled back"
            )
        self.feature_layers = check_feature_layers(feature_layers, int(config.num_hidden_layers))
        self._feature_width = len(self.feature_layers) * int(config.hidden_size)
        self.vocab_size = int(config.vocab_size)
        self.max_positions = int(config.max_position_embeddings)
        self.device = device
        self.dtype = dtype

    def new_cache(self, prompt: Sequence[int] = ()) -> TransformersCache:
        """An empty cache that grows as needed; nothing is shared."""
        if not self.feature_layers:
            return TransformersCache()
        return TransformersCache(torch.empty(0, self._feature_width, dtype=self.dtype, device=self.device))

    def positions_held(self, caches: Sequence[Cache]) -> int:
        """The caches' lengths together; see `CausalModel.positions_held`."""
        return sum(cache.length for cache in caches)

    @torch.inference_mode()
    def forward(self, steps: Sequence[Step]) -> torch.Tensor:
        """Append every step's tokens to its cache and return the wanted logits; see `CausalModel.forward`.

        Raises:
            ValueError: as for `Llama.forward`.
        """
        caches, wanted = check_steps(steps, TransformersCache, self.vocab_size, self.max_positions)
        if any(step.parents is not None for step in steps):
            raise ValueError("parents: given; a model that transformers runs takes chains only")
        return torch.cat(
            [
                self._run(step.token_ids, cache, len(rows))
                for step, cache, rows in zip(steps, caches, wanted, strict=True)
            ]
        )

    def _run(self, token_ids: Sequence[int], cache: TransformersCache, rows: int) -> torch.Tensor:
        """Logits of the last `rows` tokens of one step, [rows, vocab]."""
        ids = torch.tensor([list(token_ids)], device=self.device)
        # 0 would mean "all rows" to transformers, so at least one is asked for, and cut here.
        output = self._model(
            input_ids=ids,
            past_key_values=cache.past,
            use_cache=True,
            logits_to_keep=max(rows, 1),
            output_hidden_states=bool(self.feature_layers),
        )
        if self.feature_layers:
            cache.append_features(torch.cat([output.hidden_states[layer][0] for layer in self.feature_layers], dim=-1))
        logits: torch.Tensor = output.logits[0]  # [kept, vocab]
        return logits[len(logits) - rows :]
