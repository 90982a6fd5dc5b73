"""`paceline status`: the actors of a running cluster, and what the selector has learned of its drafters."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from paceline.cluster.backend import ActorStatus, ClusterStatus
from paceline.cluster.client import Client


def status(url: str, console: Console | None = None) -> int:
    """Print the status. Returns 0 where the target answers, else 1.

    Args:
        url: Where the endpoint is.
        console: Where to print; default standard output.

    Raises:
        PacelineError: nothing answers, or not paceline.
    """
    console = console or Console()
    with Client(url) as client:
        held = client.status()
    console.print(
        f"{held.model}: {'ready' if held.ready else 'not ready'}, {held.mode}, policy {held.policy}, "
        f"{held.running} running, {held.waiting} waiting\n",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    console.print(actor_table(held.actors))
    if held.drafters:
        console.print()
        console.print(drafter_table(held))
    return 0 if held.ready else 1


def actor_table(actors: list[ActorStatus]) -> Table:
    """Every actor, a line each; a column for what is wrong only where something is."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    troubled = any(actor.detail for actor in actors)
    for column in ("actor", "kind", "node", "device", "state", "pid", *(["detail"] if troubled else [])):
        table.add_column(column, no_wrap=column != "detail")
    for actor in actors:
        state = f"[{'green' if actor.state == 'up' else 'red'}]{actor.state}[/]"
        row = [actor.name, actor.kind, actor.node or "-", actor.device, state, str(actor.pid) if actor.pid else "-"]
        table.add_row(*row, *([actor.detail] if troubled else []))
    return table


def drafter_table(held: ClusterStatus) -> Table:
    """Every drafter's statistics.

    `weight` is the selector's cluster-wide share; `acceptance` and `EAL` (tokens of a round, had it drafted alone)
    are discounted means over every committed position; `kept` is accepted over drafted tokens, in the rounds it was
    played in.
    """
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("drafter", no_wrap=True)
    for column in ("weight", "acceptance", "EAL", "rounds", "share", "kept", "draft ms"):
        table.add_column(column, justify="right", no_wrap=True)
    total = sum(drafter.rounds for drafter in held.drafters)
    for drafter in held.drafters:
        table.add_row(
            drafter.name if drafter.up else f"{drafter.name} [red]down[/]",
            f"{drafter.weight:.2f}",
            f"{drafter.gamma:.2f}",
            f"{drafter.eal:.2f}",
            str(drafter.rounds),
            _share(drafter.rounds, total),
            _share(drafter.accepted, drafter.drafted),
            f"{drafter.draft_ms:.1f}",
        )
    return table


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"
