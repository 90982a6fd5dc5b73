"""What a draft head's folder says of it: shapes, the target's layers that feed it, and how far it can be trusted.

Read by the `head` kind, by the cluster (the target must capture those layers) and by `paceline train`. No torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from paceline.actors.errors import ModelSourceError

FORMAT = "paceline-head-1"
CONFIG_FILE = "head.json"
WEIGHTS_FILE = "head.safetensors"
WINDOW_MOST = 1024  # rows of features in one message


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """A head for one target. `width`, `vocab_size`, `rope_theta` and `rms_eps` are the target's own.

    `feature_layers` counts as `Llama` does: l is the residual stream after l layers, the last one the final norm's
    output. `window` is how many of a prompt's last tokens the head looks at. Catching up measures the acceptance of a
    chain's first level; times `calibration`, in (0, 1], it tells the length of chains (see `head`).
    """

    vocab_size: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    rope_theta: float
    rms_eps: float
    draft_vocab: int
    feature_layers: tuple[int, ...]
    window: int = 64
    calibration: float = 1.0

    @classmethod
    def read(cls, folder: Path) -> HeadConfig:
        """Read a folder's head.json.

        Raises:
            ModelSourceError: it is not there, or no description of a head.
        """
        path = folder / CONFIG_FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelSourceError(f"{path}: cannot be read: {error}") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            found = document.get("format") if isinstance(document, dict) else document
            raise ModelSourceError(f"{path}: format: expected {FORMAT!r}, got {found!r}")
        config = cls(**{item.name: _value(path, document, item.name, item.type) for item in fields(cls)})
        for name, most in (("calibration", 1.0), ("window", WINDOW_MOST)):
            if getattr(config, name) > most:
                raise ModelSourceError(f"{path}: {name}: expected at most {most}, got {getattr(config, name)}")
        return config

    def write(self, folder: Path) -> None:
        """Write head.json."""
        document = {"format": FORMAT, **asdict(self)}
        (folder / CONFIG_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _value(path: Path, document: dict[str, Any], name: str, kind: Any) -> Any:
    value = document.get(name)
    if kind == "int" and isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if kind == "float" and isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12:
        return float(value)
    if kind.startswith("tuple") and isinstance(value, list) and _ascending(value):
        return tuple(value)
    expected = {"int": "a positive integer", "float": "a positive number"}.get(kind, "ascending layers from 1 on")
    raise ModelSourceError(f"{path}: {name}: expected {expected}, got {value!r}")


def _ascending(layers: list[Any]) -> bool:
    numbers = all(isinstance(item, int) and not isinstance(item, bool) and item > 0 for item in layers)
    return bool(layers) and numbers and layers == sorted(set(layers))
