"""Finds stop strings in text that comes in pieces, and holds back what may be the beginning of one.

The stop that is complete first wins, whatever the pieces were, so the text does not depend on how rounds cut it.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Cuts a text before the first stop string. Each choice of a request has its own.

    Args:
        stops: Non-empty strings; none at all lets everything through.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched = False

    def push(self, text: str) -> str:
        """Add text; returns what is certainly before any stop. After a match (`matched`) everything is dropped."""
        if self.matched:
            return ""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.matched, self._held = True, ""
            return text[: min(found)[1]]  # the earliest end; of those that end together, the longest
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """The end: what was held was no stop after all."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop` without being all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
