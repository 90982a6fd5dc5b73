"""What `paceline train` is asked for, and the part of it that its data folder was made with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from paceline.actors.errors import ConfigError

MANIFEST = "data.json"
DRAFT_VOCAB = 8192  # ids
WINDOW = 64  # tokens of a prompt, as many as are trained on


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

    def claim(self, folder: Path, questions: str) -> None:
        """Make the folder, or see that it was made with these settings for the same questions.

        Args:
            folder: Of the data.
            questions: A hash of what is asked, which the names of the prompt files do not tell.

        Raises:
            ConfigError: it was made with others, or cannot be made.
        """
        document = json.loads(json.dumps({**asdict(self), "questions": questions}))
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
            if held.get(name, value) != value:  # a folder from before the field existed does not say
                raise ConfigError(
                    f"data: {folder} was made with {name}={held[name]!r}, now it is {value!r}; "
                    "give another --data folder, or the same setting (`questions`: the same prompt files)"
                )


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """All of it.

    Raises:
        ConfigError: a value is out of range.
    """

    output: Path
    data: DataSettings
    data_folder: Path | None = None  # None: beside the output
    domains: tuple[str, ...] = ()  # trained on; empty: all
    expert_of: Path | None = None
    draft_vocab: int | None = None  # this and the next two: None takes the default, or the expert's
    window: int | None = None
    inner: int | None = None
    steps: int = 1500
    batch_tokens: int = 2048
    levels: int = 4
    learning_rate: float = 1e-3
    batch: int = 64  # answers generated at once
    device: str = "cpu"
    sources: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if self.output.name in ("", ".."):
            raise ConfigError(f"output: expected a folder with a name of its own, got {str(self.output)!r}")
        own = {name: getattr(self, name) for name in ("draft_vocab", "window", "inner")}
        given = {name: value for name, value in own.items() if value is not None}
        if self.expert_of is not None and given:
            name, value = next(iter(given.items()))
            raise ConfigError(f"{name}: got {value} beside expert_of, whose head keeps its own; leave it out")
        given |= {name: getattr(self, name) for name in ("steps", "batch_tokens", "levels", "batch")}
        given |= {item.name: getattr(self.data, item.name) for item in fields(self.data) if item.name != "seed"}
        for name, value in given.items():
            if isinstance(value, int) and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f"learning_rate: expected a number above 0, got {self.learning_rate}")
        temperatures = self.data.temperatures
        if not temperatures or not all(math.isfinite(value) and value >= 0 for value in temperatures):
            raise ConfigError(f"temperatures: expected numbers from 0 on, got {list(temperatures)}")

    @property
    def data_at(self) -> Path:
        """The folder of answers and features."""
        return self.data_folder or self.output.with_name(self.output.name + ".data")

    @property
    def scratch(self) -> Path:
        """The folder of the training's state."""
        return self.output.with_name(self.output.name + ".training")
