"""Where a benchmark's result goes: its last line of output, and a file where one is asked for with `--out`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_out(parser: argparse.ArgumentParser) -> None:
    """`--out FILE`; a folder that is not there is an error at once, and not after the measurement."""
    parser.add_argument("--out", type=_file, default=None, help="JSON file to keep the result in, besides printing it")


def put(result: dict[str, Any], out: Path | None) -> None:
    """End with one JSON line; the file's is indented, since people compare them."""
    print(json.dumps(result))
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no folder {path.parent}")
    return path
