"""Prompts for training and benchmarks, gzip or not: JSON lines in any of three shapes, or plain text.

{"domain", "prompt"} as in `benchmarks/prompts`; {"prompt", "response"}, whose domain is the file's folder; and
Spec-Bench's {"question_id", "category", "turns": [...]}, of which the first turn is used. A `.txt` file has a prompt on
each line, and its folder's name for a domain.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

from paceline.actors.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt and the domain it is counted under."""

    domain: str
    text: str


def read_prompts(path: Path) -> list[Prompt]:
    """Read a file.

    Raises:
        ConfigError: the file cannot be read, holds no prompts, or a line is not JSON or has none of the known shapes;
            the message names file and line.
    """
    parse = _plain if ".txt" in path.suffixes[-2:] else _parse
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="\n") as lines:
            prompts = [parse(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as lines of text ({error})") from error
    if not prompts:
        raise ConfigError(f"{path}: holds no prompts; expected one on each line (.txt), or a JSON object with `prompt`")
    return prompts


def _plain(path: Path, number: int, line: str) -> Prompt:
    return Prompt(path.resolve().parent.name, line.strip())


def _parse(path: Path, number: int, line: str) -> Prompt:
    try:
        item = json.loads(line)
        if "turns" in item:
            prompt = Prompt(str(item["category"]), item["turns"][0])
        else:
            prompt = Prompt(str(item.get("domain", path.resolve().parent.name)), item["prompt"])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        expected = 'expected {"prompt": "..."}, or a file named .txt with a prompt on each line'
        raise ConfigError(f"{path}:{number}: not a prompt ({error!r}); {expected}") from None
    if not isinstance(prompt.text, str) or not prompt.text.strip():
        raise ConfigError(f"{path}:{number}: prompt: expected text, got {prompt.text!r}")
    return prompt
