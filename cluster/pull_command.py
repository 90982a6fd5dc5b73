"""`paceline pull`: fetch a model now, so that later starts need no network."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from paceline.actors.model_source import resolve


def pull(source: str, console: Console | None = None) -> int:
    """Fetch a model, or find it fetched; prints its name and folder. Returns the exit status.

    Args:
        source: `embedded`, a local folder, or a hub id.
        console: Where to print; default standard output.

    Raises:
        ModelSourceError: it cannot be had.
    """
    console = console or Console()
    folder = resolve(source)
    console.print(Text(f"{folder.name}: {folder.path}"), soft_wrap=True)
    return 0
