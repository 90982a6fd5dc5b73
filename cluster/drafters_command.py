"""`paceline drafters`: a running cluster's drafters listed, added, drained and removed, over its HTTP endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from paceline.actors.errors import ConfigError
from paceline.actors.messages import replica_name
from paceline.cluster.client import Client
from paceline.cluster.config import parse_config, with_absolute_folders
from paceline.cluster.drafter_control import DrafterView
from paceline.cluster.yaml_reader import parse_yaml, read_yaml

_COLOURS = {"up": "green", "starting": "yellow", "draining": "yellow", "drained": "yellow", "down": "red"}


def list_drafters(url: str, console: Console | None = None) -> int:
    """Print every drafter. Returns 0.

    Raises:
        PacelineError: nothing answers, or not paceline.
    """
    with Client(url) as client:
        found = client.drafters()
    if found:
        _show(console or Console(), found)
    else:
        _say(console, "no drafters: this cluster decodes plainly")
    return 0


def add_drafter(
    url: str, given: Sequence[str], *, token: str | None, wait_s: float, console: Console | None = None
) -> int:
    """Add the drafter that a file or fields describe, wait until it is up, and print it. Returns 0.

    Raises:
        ConfigError: it is described wrongly.
        PacelineError: the server refuses it, or it did not come up; nothing of it is left there.
    """
    console = console or Console()
    document = described(given)
    with Client(url, operator_token=token) as client:
        client.add_drafter(document, wait_s)
        _show(console, [item for item in client.drafters() if item.name == document["name"]])
    return 0


def drain_drafter(url: str, name: str, *, token: str | None, console: Console | None = None) -> int:
    """Give a drafter no new sequences. Returns 0.

    Raises:
        PacelineError: there is none of that name, or the server refuses.
    """
    with Client(url, operator_token=token) as client:
        client.drain_drafter(name)
        held = sum(r.sessions for item in client.drafters() if item.name == name for r in item.replicas)
        shows = f"paceline drafters list{client.option}"
    _say(console, f"{name} takes no new sequences; it holds {held}. `{shows}` shows when it is drained.")
    return 0


def remove_drafter(url: str, name: str, *, token: str | None, console: Console | None = None) -> int:
    """Take a drafter away. Returns 0.

    Raises:
        PacelineError: there is none of that name, or the server refuses.
    """
    with Client(url, operator_token=token) as client:
        client.remove_drafter(name)
    _say(console, f"{name} is removed")
    return 0


def described(given: Sequence[str]) -> dict[str, Any]:
    """A drafter's settings from one YAML file, or from `field=value` words, with folders named absolutely.

    Folders in a file are those beside it, others those seen from here: as in a configuration.

    Raises:
        ConfigError: the file cannot be read, a word is no field, or a field is wrong.
    """
    if len(given) == 1 and "=" not in given[0]:
        path = Path(given[0])
        document, source, folder = read_yaml(path), str(path), path.resolve().parent
    else:
        document, source, folder = _fields(given), "drafter", Path.cwd()
    if not isinstance(document, dict):
        raise ConfigError(f"{source}: expected the settings of one drafter, got {type(document).__name__}")
    config = with_absolute_folders(parse_config({"drafters": [document]}, source), folder)
    return config.drafters[0].model_dump()


def drafters_table(found: Sequence[DrafterView]) -> Table:
    """A line for each drafter, and one more for each further replica. Statistics are as in `paceline status`."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for column in ("drafter", "kind", "state", "node", "pid"):
        table.add_column(column, no_wrap=True)
    for column in ("sessions", "weight", "EAL", "rounds"):
        table.add_column(column, justify="right", no_wrap=True)
    for drafter in found:
        known = drafter.statistics
        figures = [f"{known.weight:.2f}", f"{known.eal:.2f}", str(known.rounds)] if known else ["-"] * 3
        for number, replica in enumerate(drafter.replicas):
            state = drafter.state if number == 0 else replica.state
            table.add_row(
                replica_name(drafter.name, number),
                drafter.kind,
                f"[{_COLOURS.get(state, 'red')}]{state}[/]",
                replica.node or "-",
                str(replica.pid) if replica.pid else "-",
                f"{replica.sessions}/{replica.capacity}",
                *(figures if number == 0 else [""] * 3),
            )
    return table


def _show(console: Console, found: Sequence[DrafterView]) -> None:
    """The table, and below it what is wrong with whom."""
    console.print(drafters_table(found))
    for drafter in found:
        for number, replica in enumerate(drafter.replicas):
            if replica.detail:
                _say(console, f"{replica_name(drafter.name, number)}: {replica.detail}")


def _fields(words: Sequence[str]) -> dict[str, Any]:
    """`a=1 b.c=x` as nested mappings; values are YAML's."""
    document: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        parts = name.split(".")
        if not equals or not all(parts):
            raise ConfigError(f"{word!r:.80}: expected a field, as in `kind=ngram` or `options.min_ngram=1`")
        try:
            value = parse_yaml(text)
        except yaml.YAMLError:
            raise ConfigError(f"{name}: {text!r:.80} is not a value that YAML has") from None
        place = document
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{name}: {part!r} was given a value of its own before")
        if parts[-1] in place:
            raise ConfigError(f"{name}: is given twice")
        place[parts[-1]] = value
    return document


def _say(console: Console | None, text: str) -> None:
    (console or Console()).print(text, markup=False, highlight=False, soft_wrap=True)
