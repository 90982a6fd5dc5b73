"""Prompts for benchmarks: JSON lines, gzip or not, in any of three shapes.

{"domain", "prompt"} as in `benchmarks/prompts`; {"prompt", "response"}, whose domain is the file's folder; and
Spec-Bench's {"question_id", "category", "turns": [...]}, of which the first turn is used.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt and the domain it is counted under."""

    domain: str
    text: str


def read_prompts(path: Path) -> list[Prompt]:
    """Read a file.

    Raises:
        ValueError: a line is not JSON or has none of the known shapes; the message names file and line.
    """
    prompts = []
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
                if "turns" in item:
                    prompts.append(Prompt(str(item["category"]), str(item["turns"][0])))
                else:
                    prompts.append(Prompt(str(item.get("domain", path.parent.name)), str(item["prompt"])))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise ValueError(f"{path}:{number}: not a prompt ({error!r})") from None
    if not prompts:
        raise ValueError(f"{path}: holds no prompts")
    return prompts
