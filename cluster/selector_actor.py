"""The selector as a Ray actor: the core, its gRPC server, and the calls that Ray makes.

`fleet` makes it under a name, and Ray restarts it after a crash, on a new port and knowing nothing but what
`state_keeper` restores: drafters register anew, targets announce their running sequences anew, and meanwhile everybody
goes on by what they last heard. It imports no model code.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import ray

from paceline.actors.channel import ANY_PORT
from paceline.actors.messages import SelectorSnapshot
from paceline.actors.priority import yield_to_others
from paceline.actors.tracer import TRACER, Span
from paceline.cluster.config import ClusterConfig
from paceline.cluster.explanation import Explanation, RequestList
from paceline.cluster.membership import MAX_REPLICAS
from paceline.cluster.roster_store import load_roster
from paceline.cluster.selector import Selector
from paceline.cluster.selector_server import SelectorServer
from paceline.cluster.state_keeper import StateKeeper


class SelectorActor:
    """The cluster's one selector.

    Args:
        config: `ClusterConfig.model_dump()`.
        roster_key: Where the roster is that was drained from or left since (`roster_store`).
    """

    def __init__(self, config: dict[str, Any], roster_key: str) -> None:
        yield_to_others()
        settings = ClusterConfig.model_validate(config)
        network = settings.network
        self._node: str = ray.util.get_node_ip_address()
        selector = Selector(settings.selector, settings.speculation, network.heartbeat_s, time.monotonic)
        if (roster := load_roster(roster_key)) is not None:
            selector.follow(roster.draining)
        self._server = SelectorServer(
            selector,
            host=self._node if network.host == "node" else network.host,
            token=network.token,
            max_message_bytes=network.max_message_bytes,
            heartbeat_s=network.heartbeat_s,
            ports=network.ports or ANY_PORT,
            # A stream each, twice over while a restarted peer's old one has not been missed yet, and short calls.
            # Drafters come and go, and threads are only made when they are needed.
            workers=16 + 2 * (2 * MAX_REPLICAS + settings.target.replicas),
        )
        self._keeper: StateKeeper | None = None
        if settings.selector.state_file is not None:
            path = Path(settings.selector.state_file)
            self._keeper = StateKeeper(self._server, path, settings.selector.state_interval_s)
            self._keeper.start()
        self._address = self._server.start()

    def address(self) -> str:
        """`host:port` of the gRPC server."""
        return self._address

    def ping(self) -> dict[str, Any]:
        """Where it runs, where it listens, and how many sequences it learns for."""
        return {
            "node": self._node,
            "pid": os.getpid(),
            "address": self._address,
            "sessions": self._server.snapshot().sequences,
        }

    def snapshot(self) -> SelectorSnapshot:
        """Members and statistics."""
        return self._server.snapshot()

    def explain(self, request: str) -> Explanation | None:
        """One of the newest requests; None where it is not kept."""
        return self._server.explain(request)

    def requests(self, limit: int) -> RequestList:
        """The newest requests."""
        return self._server.requests(limit)

    def follow(self, roster: dict[str, bool]) -> None:
        """Take the roster, drafter -> whether it drains."""
        self._server.follow(roster)

    def save(self) -> None:
        """Write what was learned now, where the settings name a file: the cluster is about to be stopped."""
        if self._keeper is not None:
            self._keeper.save()

    def trace(self, since_ns: int) -> list[Span]:
        """What this process did since a moment."""
        return TRACER.since(since_ns)

    def counts(self) -> dict[str, int]:
        """What was refused or lost, by reason."""
        return self._server.counts()
