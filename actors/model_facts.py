"""What can be said of a model from its folder's JSON files alone, without loading it and without torch.

Ingress and drafter processes, which never hold the target, ask here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

from paceline.actors.errors import ModelSourceError

Quantization = Literal["none", "int8", "int4"]  # how weights are held; `linear` has the layers
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)


def eos_ids(path: Path) -> frozenset[int]:
    """The token ids that end a text: of generation_config.json, else of config.json; empty where neither says.

    Raises:
        ModelSourceError: config.json is missing, or a file is not JSON.
    """
    files = [path / "generation_config.json"] if (path / "generation_config.json").is_file() else []
    for file in [*files, path / "config.json"]:
        found = read_json(file).get("eos_token_id")
        if found is not None:
            return frozenset([found] if isinstance(found, int) else found)
    return frozenset()


def vocabulary_size(path: Path) -> int:
    """How many token ids the model knows.

    Raises:
        ModelSourceError: config.json does not say, or cannot be read.
    """
    return _integer(path, "vocab_size")


def max_positions(path: Path) -> int:
    """The longest context, prompt and answer together.

    Raises:
        ModelSourceError: config.json does not say, or cannot be read.
    """
    return _integer(path, "max_position_embeddings")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder.

    Raises:
        ModelSourceError: the file is missing, or holds something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelSourceError(f"{path.parent}: not a model folder ({path.name} is missing)") from None
    except (OSError, ValueError) as error:
        raise ModelSourceError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(document, dict):
        raise ModelSourceError(f"{path}: expected a JSON object")
    return document


def _integer(path: Path, field: str) -> int:
    value = read_json(path / "config.json").get(field)
    if not isinstance(value, int):
        raise ModelSourceError(f"{path / 'config.json'}: {field}: expected an integer, got {value!r}")
    return value
