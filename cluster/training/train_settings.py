"""What `paceline train` is asked for, and the part of it that its data folder was made with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from paceline.actors.errors import ConfigError

MANIFEST = "data.json"


@dataclass(frozen=True, slots=True)
class DataSettings:
    """What decides answers and features; a data folder is made with one of these, and refuses another."""

    target: str = "embedded"
    prompts: tuple[str, ...] = ()
    test_prompts: tuple[str, ...] = ()
    answers: int = 600  # most per domain
    test_answers: int = 24  # most per domain
    max_tokens: int = 160  # of an answer
    max_prompt: int = 640  # tokens; longer prompts are left out, and counted
    prompt_tail: int = 64  # tokens of a prompt that are trained on
    temperatures: tuple[float, ...] = (0.0, 0.7, 0.0, 1.0)  # in turn
    feature_layers: tuple[int, ...] = ()  # empty: a third, two thirds, and the last
    seed: int = 0

    def claim(self, folder: Path) -> None:
        """Make the folder, or see that it was made with these settings.

        Raises:
            ConfigError: it was made with others, or cannot be made.
        """
        document = json.loads(json.dumps(asdict(self)))
        path = folder / MANIFEST
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
                return
            held = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"data: {folder}: {error}") from error
        for name, value in document.items():
            if held.get(name) != value:
                raise ConfigError(
                    f"data: {folder} was made with {name}={held.get(name)!r}, now it is {value!r}; "
                    "give another --data folder, or the same setting"
                )


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """All of it.

    Raises:
        ConfigError: a value is out of range.
    """

    output: Path
    data_folder: Path
    data: DataSettings
    domains: tuple[str, ...] = ()  # trained on; empty: all
    expert_of: Path | None = None
    draft_vocab: int = 8192
    window: int = 128
    inner: int | None = None
    steps: int = 1500
    batch_tokens: int = 2048
    levels: int = 4
    learning_rate: float = 1e-3
    batch: int = 64  # answers generated at once
    device: str = "cpu"
    sources: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        for name in ("draft_vocab", "window", "steps", "batch_tokens", "levels", "batch", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: expected more than 0, got {getattr(self, name)}")
        for item in fields(self.data):
            value = getattr(self.data, item.name)
            if isinstance(value, int) and item.name != "seed" and value < 1:
                raise ConfigError(f"{item.name}: expected at least 1, got {value}")
        if not self.data.temperatures or min(self.data.temperatures) < 0:
            raise ConfigError(f"temperatures: expected numbers from 0 on, got {list(self.data.temperatures)}")
