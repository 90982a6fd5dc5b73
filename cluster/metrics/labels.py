"""Values that labels may take: bounded, whatever names come and go.

A label's value makes series that Prometheus keeps for weeks. So a name is a label's value only where it is the
configuration's, or among the first few others; and nothing that a client sends ever is.
"""

from __future__ import annotations

from collections.abc import Iterable

MOST_OTHERS = 32  # names beyond the configured ones that get series of their own in a process's life
OTHER = "other"


class LabelNames:
    """The names that one process uses as values of a label.

    Args:
        configured: Names that always may be used.
        most_others: How many more may.
    """

    def __init__(self, configured: Iterable[str], most_others: int = MOST_OTHERS) -> None:
        self._known = set(configured)
        self._left = most_others

    def __call__(self, name: str) -> str:
        """The name, or `other` where there are too many."""
        if name not in self._known:
            if self._left <= 0:
                return OTHER
            self._left -= 1
            self._known.add(name)
        return name
