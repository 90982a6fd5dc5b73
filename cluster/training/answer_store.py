"""The target's answers to training prompts: JSON lines, appended as they come, so that a broken run loses none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from paceline.actors.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Answer:
    """What the target said to one prompt; ids, not text, since a head learns ids."""

    index: int  # of the prompt, over all files
    domain: str
    temperature: float
    prompt_ids: list[int]
    answer_ids: list[int]
    looped: bool  # it was cut where it began to repeat itself for good


class AnswerStore:
    """One file of answers.

    Args:
        path: Made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Iterator[Answer]:
        """All answers, in the order they came. A last line that was cut off is left out.

        Raises:
            ConfigError: a line before the last is damaged.
        """
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield Answer(**json.loads(line))
                except (ValueError, TypeError) as error:
                    if not line.endswith("\n"):
                        return
                    raise ConfigError(f"{self.path}:{number}: not an answer ({error}); delete the line") from None

    def append(self, answers: list[Answer]) -> None:
        """Add answers; a line that a broken run left unfinished is taken away first."""
        with self.path.open("ab+") as file:
            size = file.seek(0, 2)
            if size:
                file.seek(max(0, size - (1 << 20)))
                tail = file.read()
                if not tail.endswith(b"\n"):
                    file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
            file.write("".join(json.dumps(asdict(answer)) + "\n" for answer in answers).encode())
