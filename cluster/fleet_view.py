"""How the fleet's drafters look from outside: what their processes answered, put together with what the selector knows.

Plain functions; `fleet` asks and calls them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import psutil

from paceline.actors.errors import PacelineError, RequestError
from paceline.actors.messages import SelectorSnapshot
from paceline.cluster.backend import ActorStatus
from paceline.cluster.drafter_control import DrafterCondition, DrafterView, ReplicaView
from paceline.cluster.roster import RosterEntry

_AT_FAULT = ("ConfigError", "ModelSourceError")  # a drafter's process that ends with one was asked for wrongly


@dataclass(frozen=True, slots=True)
class FleetOverview:
    """All of it at one moment, in one answer."""

    kinds: dict[str, str]  # drafter -> kind
    actors: list[ActorStatus]  # the selector, then the drafters' replicas
    snapshot: SelectorSnapshot | None  # None: the selector does not answer


def as_heard(
    drafter: str, actors: Sequence[ActorStatus], snapshot: SelectorSnapshot | None, node: str = ""
) -> list[ActorStatus]:
    """A drafter's replicas: one that was slow to answer (a busy machine) is up as long as the selector hears it.

    The selector misses a dead one only after some heartbeats; on `node`, the caller's own, its process is looked for.
    """
    members = snapshot.members if snapshot is not None else ()
    heard = {
        member.replica: member
        for member in members
        if member.drafter == drafter and member.up and (member.node != node or psutil.pid_exists(member.pid))
    }
    known = []
    for number, actor in enumerate(actors):
        member = heard.get(number)
        if actor.state == "starting" and member is not None:
            actor = replace(
                actor,
                state="up",
                node=member.node,
                pid=member.pid,
                address=member.address,
                sessions=member.sessions,
                detail="",
            )
        known.append(actor)
    return known


def drafter_view(
    entry: RosterEntry, actors: Sequence[ActorStatus], snapshot: SelectorSnapshot | None, *, settled: bool
) -> DrafterView:
    """One drafter. `settled`: targets have had time to hear that it drains, and to show what they opened by then."""
    drafter = entry.config
    replicas = [
        ReplicaView(a.node, a.device, a.state, a.pid, a.address, a.sessions, drafter.max_sessions, a.detail)
        for a in actors
    ]
    return DrafterView(
        drafter.name,
        drafter.kind,
        drafter.device,
        dict(drafter.options),
        _condition(entry, replicas, settled),
        replicas,
        next((known for known in snapshot.drafters if known.drafter == drafter.name), None) if snapshot else None,
    )


def start_failure(drafter: str, reason: str) -> PacelineError:
    """Why a drafter's process ended, as an error: the caller's where its settings were at fault."""
    kind, _, message = reason.partition(": ")
    if kind in _AT_FAULT:
        field = message.partition(":")[0]
        param = field if field.startswith("options.") else None
        return RequestError(f"drafter {drafter} did not start: {message}", param)
    return PacelineError(f"drafter {drafter} did not start: {reason}")


def _condition(entry: RosterEntry, replicas: Sequence[ReplicaView], settled: bool) -> DrafterCondition:
    if entry.draining:
        return "drained" if settled and not any(replica.sessions for replica in replicas) else "draining"
    states = {replica.state for replica in replicas}
    return "up" if "up" in states else "starting" if "starting" in states else "down"
