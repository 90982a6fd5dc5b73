"""Calm progress of a start-up: one line per step with what it took, and a spinner where there is a terminal.

`serve_command` uses it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text


class StartProgress:
    """Prints steps to a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def note(self, text: str) -> None:
        """A line of its own."""
        self._console.print(Text(f"  {text}", style="dim"), soft_wrap=True)

    def done(self, text: str, took_s: float) -> None:
        """A finished step."""
        self._console.print(
            Text("✓ ", style="green").append(text, style="default").append(f"  {took_s:.1f} s", style="dim"),
            soft_wrap=True,
        )

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[Callable[[str], None]]:
        """Around a step. Yields a function that says what it is waiting for; an exception leaves the step unticked."""
        started, detail = time.monotonic(), ""

        def line() -> Spinner:
            shown = f"{text}{': ' + detail if detail else ''}  {time.monotonic() - started:.0f} s"
            spinner.update(text=Text(shown))
            return spinner

        def say(what: str) -> None:
            nonlocal detail
            if what and what != detail and not self._console.is_terminal:
                self.note(what)  # no spinner to show it
            detail = what

        spinner = Spinner("dots", style="cyan")
        with Live(get_renderable=line, console=self._console, refresh_per_second=8, transient=True):
            yield say
        self.done(text, time.monotonic() - started)
