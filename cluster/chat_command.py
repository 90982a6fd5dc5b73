"""`paceline chat`: a conversation in the terminal that shows who is pulling.

Each piece of text is coloured by the drafter that proposed it; after each answer one line says how fast it came and
whose rounds it took. Where the output is not a terminal, it is the bare text.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from paceline.actors.errors import NotReady, PacelineError
from paceline.cluster.client import Client, Ending, Piece

# As readable on dark as on light terminals; plain rounds keep the terminal's own colour.
_COLOURS = ("green", "cyan", "magenta", "yellow", "blue", "red")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a model's text must not steer the terminal
_HELP = "/reset forgets the conversation, /quit ends it, Ctrl-C interrupts an answer"


@dataclass(slots=True)
class _Answer:
    """One answer as it comes."""

    text: str = ""
    tokens: int = 0
    rounds: Counter[str | None] = field(default_factory=Counter)
    started_s: float = field(default_factory=time.monotonic)
    first_s: float | None = None  # when its first piece came

    def add(self, piece: Piece) -> None:
        if self.first_s is None:
            self.first_s = time.monotonic()
        self.text += piece.text
        self.tokens += piece.accepted + 1  # what the ending's exact count replaces
        self.rounds[piece.drafter] += 1

    def summary(self) -> str:
        """Speed, tokens per round, and the share of rounds by drafter."""
        taken_s = max(time.monotonic() - self.started_s, 1e-9)
        rounds = max(self.rounds.total(), 1)
        shares = ", ".join(f"{name or 'plain'} {count / rounds:.0%}" for name, count in self.rounds.most_common())
        return f"{self.tokens / taken_s:.1f} tokens/s, {self.tokens / rounds:.2f} tokens per round; rounds: {shares}"


class Chat:
    """One conversation with one endpoint.

    Args:
        client: The endpoint.
        model: The model's name; None takes the one that is served.
        temperature: Sampling temperature; None leaves it to the server.
        max_tokens: Most tokens of an answer; None leaves it to the server.
        console: Where to print.

    Raises:
        PacelineError: the endpoint does not answer.
    """

    def __init__(
        self, client: Client, *, model: str | None, temperature: float | None, max_tokens: int | None, console: Console
    ) -> None:
        self._client = client
        self._temperature, self._max_tokens = temperature, max_tokens
        self._console = console
        self._messages: list[dict[str, str]] = []
        self._colours: dict[str, str] = {}
        self.model = model or _only_model(client)

    def introduce(self) -> None:
        """Name the model, the colours and the commands; nothing where the output is not a terminal."""
        if not self._console.is_terminal:
            return
        legend = Text().append(self.model, style="bold").append("; drafters:")
        for drafter in self._client.status().drafters:
            legend.append(" ").append(drafter.name, style=self._colour(drafter.name))
        self._console.print(legend.append("; plain rounds have no colour"))
        self._console.print(_HELP, style="dim", markup=False, highlight=False)

    def reset(self) -> None:
        """Forget the conversation."""
        self._messages.clear()

    def ask(self, text: str) -> None:
        """Ask, and print the answer while it comes. Ctrl-C ends the answer; what came of it stays in the conversation.

        Raises:
            PacelineError: the server refuses or is gone; the question is then forgotten.
        """
        messages = [*self._messages, {"role": "user", "content": text}]
        answer, interrupted = _Answer(), False
        try:
            self._stream(messages, answer)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self._console.print()
        if answer.text:
            self._messages = [*messages, {"role": "assistant", "content": answer.text}]
        if self._console.is_terminal:
            self._console.print(("interrupted; " if interrupted else "") + answer.summary(), style="dim", markup=False)

    def _stream(self, messages: list[dict[str, str]], answer: _Answer) -> None:
        events = self._client.chat(self.model, messages, temperature=self._temperature, max_tokens=self._max_tokens)
        with contextlib.closing(events):  # closing the connection is what stops the generation
            for event in events:
                if isinstance(event, Ending):
                    answer.tokens = event.completion_tokens or answer.tokens
                else:
                    answer.add(event)
                    shown = _CONTROL.sub("", event.text)
                    self._console.print(Text(shown, style=self._colour(event.drafter)), end="", soft_wrap=True)

    def _colour(self, drafter: str | None) -> str:
        if drafter is None:
            return "default"
        return self._colours.setdefault(drafter, _COLOURS[len(self._colours) % len(_COLOURS)])


def chat(
    url: str,
    *,
    model: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    once: str | None = None,
    console: Console | None = None,
) -> int:
    """Run the command. Returns the exit status.

    Args:
        url: Where the endpoint is.
        model: As `Chat`.
        temperature: As `Chat`.
        max_tokens: As `Chat`.
        once: Ask this and end; None reads lines until the input ends.
        console: Where to print; default standard output.

    Raises:
        PacelineError: the endpoint does not answer; with `once`, also where it refuses.
    """
    console = console or Console(highlight=False)
    with Client(url) as client:
        session = Chat(client, model=model, temperature=temperature, max_tokens=max_tokens, console=console)
        if once is not None:
            session.ask(once)
            return 0
        session.introduce()
        while (line := _read(console)) is not None:
            _handle(session, line, console)
            if line == "/quit":
                break
    return 0


def _handle(session: Chat, line: str, console: Console) -> None:
    if line == "/reset":
        session.reset()
        console.print("forgotten", style="dim")
    elif line.startswith("/") and line != "/quit":
        console.print(f"unknown command {line.split()[0]}; {_HELP}", style="yellow", markup=False)
    elif line and line != "/quit":
        try:
            session.ask(line)
        except PacelineError as error:  # the conversation goes on
            console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)


def _read(console: Console) -> str | None:
    """The next line; None at the end of the input. Ctrl-C only abandons the line."""
    while True:
        try:
            return (console.input("[bold]you>[/] ") if console.is_terminal else input()).strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            console.print("\n(/quit or Ctrl-D ends)", style="dim")


def _only_model(client: Client) -> str:
    models = client.models()
    if not models:
        raise NotReady(f"{client.url} serves no model")
    return models[0]
