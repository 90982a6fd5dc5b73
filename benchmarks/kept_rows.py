"""Rows of a measurement in a file of JSON lines, so that a run that was interrupted goes on where it stopped.

The first line says what the rows were measured with: rows of another measurement are refused, not mixed in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class KeptRows:
    """All rows so far, in order: `rows`.

    Args:
        path: The file; None keeps nothing.
        settings: What has to be equal for rows to belong together; anything that JSON holds.

    Raises:
        SystemExit: the file's rows were measured with other settings; the message names which.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self._path = path
        self.rows: list[Row] = []
        if path is None:
            return
        settings = json.loads(json.dumps(settings))
        if not path.exists():
            path.write_text(json.dumps({"settings": settings}) + "\n", encoding="utf-8")
            return
        first, *lines = path.read_text(encoding="utf-8").splitlines() or ["{}"]
        held = json.loads(first).get("settings", {})
        changed = sorted(name for name in held.keys() | settings.keys() if held.get(name) != settings.get(name))
        if changed:
            raise SystemExit(f"--rows: {path} was measured with another {', '.join(changed)}; give another file")
        self.rows = [json.loads(line) for line in lines]

    def add(self, row: Row) -> None:
        """Keep one more."""
        self.rows.append(row)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
