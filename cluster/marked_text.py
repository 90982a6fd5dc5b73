"""A part of a document that is made by a program, between two marks: written, or checked to be the newest.

`settings_table` and `metrics.table` are commands over it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paceline.actors.errors import ConfigError


@dataclass(frozen=True, slots=True)
class MarkedText:
    """What stands between `begin` and `end`; `make` makes it anew."""

    begin: str
    end: str
    make: Callable[[], str]

    def filled(self, document: str) -> str:
        """A document with the newest text between its marks.

        Raises:
            ConfigError: a mark is missing.
        """
        before, begin, rest = document.partition(self.begin)
        _, end, after = rest.partition(self.end)
        if not begin or not end:
            raise ConfigError(f"the document has no {self.begin!r} with {self.end!r} after it")
        return f"{before}{self.begin}\n{self.make()}\n{self.end}{after}"

    def command(self, description: str, arguments: list[str] | None = None) -> int:
        """Write it into a file, or with `--check` say by status 1 that the file's is not the newest."""
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("file", type=Path)
        parser.add_argument("--check", action="store_true", help="change nothing; status 1 where it is not the newest")
        given = parser.parse_args(arguments)
        document = given.file.read_text(encoding="utf-8")
        newest = self.filled(document)
        if given.check:
            return int(newest != document)
        given.file.write_text(newest, encoding="utf-8")
        return 0
