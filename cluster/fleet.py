"""The actors behind the target: one selector and the drafters, started, watched, added, drained and removed.

What there is to be is the roster: the configuration's drafters at first, then what the operator makes of it. It is
saved before anything is done, so that neither a restart of this process nor of the selector brings back what was
removed, or loses what was added. `Fleet` runs as a Serve deployment of one replica, which makes its actors go when the
application is deleted; `fleet_actors` holds them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray.serve.exceptions import RayServeException

from paceline.actors.errors import Conflict, NotReady, RequestError, UnknownDrafter
from paceline.actors.messages import Member, SelectorSnapshot, replica_name
from paceline.actors.priority import wait_for_gaps
from paceline.actors.tracer import Span
from paceline.cluster.backend import ActorStatus
from paceline.cluster.config import ClusterConfig, DrafterConfig
from paceline.cluster.drafter_control import DrafterView, check_drafter
from paceline.cluster.engine_limits import feature_layers
from paceline.cluster.explanation import Explanation, RequestList
from paceline.cluster.fleet_actors import FleetActors, cause
from paceline.cluster.fleet_view import FleetOverview, as_heard, drafter_view, start_failure
from paceline.cluster.membership import MAX_REPLICAS
from paceline.cluster.metrics.fleet_metrics import FleetMetrics, WatchedActor
from paceline.cluster.metrics.publisher import MetricPublisher
from paceline.cluster.naming import namespace, selector_name
from paceline.cluster.placement import drafter_demands, lacking_device, misfit, ray_nodes
from paceline.cluster.roster import Roster, RosterEntry
from paceline.cluster.roster_store import forget_other_rosters, load_roster, save_roster

logger = logging.getLogger(__name__)

_POLL_S = 0.2
_EXPLAIN_S = 5.0
_SAVE_S = 2.0
_END_S = 5.0  # that a killed process may take to be gone


class Fleet:
    """Keeps the cluster's detached actors in being.

    Args:
        config: The cluster as it is brought up.
        bring_up: An id of this bring-up, under which the roster is kept.
    """

    def __init__(self, config: dict[str, Any], bring_up: str) -> None:
        wait_for_gaps()
        self._config = ClusterConfig.model_validate(config)
        application = serve.get_replica_context().app_name
        space = namespace(application)
        self._key = f"{space}/{bring_up}"
        self._roster = load_roster(self._key) or Roster.of(self._config.drafters)
        self._number = self._roster.added
        self._selector = selector_name(self._config)
        self._adding: dict[str, RosterEntry] = {}
        self._changing: set[str] = set()
        self._drained_since_s: dict[str, float] = {}
        self._layers = feature_layers(self._config)
        self._actors = FleetActors(self._config, space, self._key)
        save_roster(self._key, self._roster)
        forget_other_rosters(self._key)
        self._actors.end_strangers(self._roster)
        self._actors.ensure(self._roster)
        drafters = {drafter.name: drafter.replicas for drafter in self._config.drafters}
        metrics = FleetMetrics(self._watched, drafters, lambda deployment: _running(application, deployment))
        self._metrics = MetricPublisher("fleet", metrics.gather, application, self._config.metrics)

    # ------------------------------------------------------------ looking

    async def names(self) -> dict[str, str]:
        """Drafter -> kind."""
        return {entry.config.name: entry.config.kind for entry in self._roster.entries}

    async def overview(self) -> FleetOverview:
        """Ask every actor how it is; one that does not answer in time is down."""
        entries = self._roster.entries
        selector, (replicas, snapshot) = await asyncio.gather(
            self._status("selector", "selector", "cpu", self._selector), self._look(entries)
        )
        actors = [selector, *(actor for actors in replicas for actor in actors)]
        return FleetOverview({entry.config.name: entry.config.kind for entry in entries}, actors, snapshot)

    async def drafters(self) -> list[DrafterView]:
        """Every drafter with its replicas and what the selector knows of it."""
        entries = self._roster.entries
        replicas, snapshot = await self._look(entries)
        return [
            drafter_view(entry, actors, snapshot, settled=self._settled(entry.config.name))
            for entry, actors in zip(entries, replicas, strict=True)
        ]

    async def snapshot(self) -> SelectorSnapshot:
        """The selector's statistics.

        Raises:
            NotReady: the selector is not there.
        """
        reply: SelectorSnapshot = await self._actors.call(self._selector, "snapshot")
        return reply

    async def explain(self, request: str) -> Explanation | None:
        """What the selector keeps of a request; None where it keeps nothing.

        Raises:
            NotReady: the selector does not answer.
        """
        reply: Explanation | None = await self._actors.call(self._selector, "explain", request, within_s=_EXPLAIN_S)
        return reply

    async def requests(self, limit: int) -> RequestList:
        """The newest requests that the selector keeps.

        Raises:
            NotReady: the selector does not answer.
        """
        reply: RequestList = await self._actors.call(self._selector, "requests", limit, within_s=_EXPLAIN_S)
        return reply

    async def save(self) -> None:
        """Have the selector write what it learned; one that does not answer wrote it a while ago."""
        try:
            await self._actors.call(self._selector, "save", within_s=_SAVE_S)
        except (TimeoutError, NotReady, ray.exceptions.RayError) as error:
            logger.warning("the selector did not save its state: %s", cause(error))

    async def trace(self, since_ns: int) -> dict[str, list[Span]]:
        """Spans of the selector's and every drafter's process by actor name; one that does not answer is left out."""
        names = {"selector": self._selector}
        for entry in self._roster.entries:
            drafter = entry.config.name
            names |= {replica_name(drafter, number): full for number, full in enumerate(self._actors.names(entry))}
        asked = [self._actors.call(full, "trace", since_ns) for full in names.values()]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        return {name: reply for name, reply in zip(names, replies, strict=True) if not isinstance(reply, BaseException)}

    # ------------------------------------------------------------ changing

    async def add(self, document: dict[str, Any], wait_s: float) -> None:
        """See `DrafterControl.add_drafter`."""
        drafter = check_drafter(document, (*self._roster.names, *self._adding), self._layers)
        with self._only_change(drafter.name):
            self._check_room(drafter)
            self._number += 1
            entry = RosterEntry(config=drafter, number=self._number)
            self._adding[drafter.name] = entry
            try:
                self._actors.start(entry)
                await self._until_registered(entry, wait_s)
                self._save(self._roster.with_added(entry))
            except BaseException as error:  # also where the caller went away
                logger.warning("drafter %s was not added: %s", drafter.name, error)
                self._actors.end(self._actors.names(entry))
                await self._tell()
                raise
            finally:
                del self._adding[drafter.name]
                await self._tell()

    async def drain(self, name: str) -> None:
        """See `DrafterControl.drain_drafter`."""
        with self._only_change(name):
            if not self._known(name).draining:
                self._save(self._roster.with_draining(name))
                self._drained_since_s[name] = time.monotonic()
            await self._tell()

    async def remove(self, name: str) -> None:
        """See `DrafterControl.remove_drafter`."""
        with self._only_change(name):
            actors = self._actors.names(self._known(name))
            self._save(self._roster.without(name))
            self._drained_since_s.pop(name, None)
            await self._tell()  # first, so that nobody is surprised
            self._actors.end(actors)
            await self._actors.gone(actors, _END_S)

    async def check_health(self) -> None:
        """Serve calls this every few seconds: bring back what is gone for good, and tell the selector the roster."""
        await self._actors.forget_dead(self._roster)
        self._actors.ensure(self._roster)
        await self._tell()

    def __del__(self) -> None:
        if metrics := getattr(self, "_metrics", None):
            metrics.close()
        if actors := getattr(self, "_actors", None):
            actors.end_all()

    # ------------------------------------------------------------ inside

    def _watched(self) -> list[WatchedActor]:
        """The actors whose metrics are exported."""
        watched = [WatchedActor("selector", "selector", "", self._actors.handle(self._selector))]
        for entry in self._roster.entries:
            drafter = entry.config
            watched += [
                WatchedActor(replica_name(drafter.name, number), drafter.kind, drafter.name, self._actors.handle(full))
                for number, full in enumerate(self._actors.names(entry))
            ]
        return watched

    @contextmanager
    def _only_change(self, name: str) -> Iterator[None]:
        if name in self._changing:
            raise Conflict(f"name: the drafter {name!r} is being added, drained or removed at this moment", "name")
        self._changing.add(name)
        try:
            yield
        finally:
            self._changing.remove(name)

    def _known(self, name: str) -> RosterEntry:
        entry = self._roster.find(name)
        if entry is None:
            known = ", ".join(self._roster.names) or "none"
            raise UnknownDrafter(f"name: {name!r:.200} is not one of the drafters ({known})", "name")
        return entry

    def _check_room(self, drafter: DrafterConfig) -> None:
        there = sum(entry.config.replicas for entry in (*self._roster.entries, *self._adding.values()))
        if there + drafter.replicas > MAX_REPLICAS:
            raise RequestError(
                f"replicas: {drafter.replicas}; with the {there} that there are it would be more than {MAX_REPLICAS}",
                "replicas",
            )
        nodes = ray_nodes()
        if (absent := lacking_device(f"drafter {drafter.name}", drafter.device, nodes)) is not None:
            raise RequestError(f"device: {absent}", "device")
        lacking = misfit(drafter_demands(drafter), nodes)
        if lacking is not None:
            raise Conflict(f"resources: {lacking}", "resources")

    def _save(self, roster: Roster) -> None:
        save_roster(self._key, roster)
        self._roster = roster

    async def _tell(self) -> None:
        """Tell the selector the roster; where it does not hear, the next health check repeats it."""
        wanted = {**self._roster.draining, **dict.fromkeys(self._adding, False)}
        try:
            await self._actors.call(self._selector, "follow", wanted)
        except (TimeoutError, NotReady, ray.exceptions.RayError) as error:
            logger.warning("the selector was not told the roster: %s", cause(error))

    async def _until_registered(self, entry: RosterEntry, within_s: float) -> None:
        """Wait until the selector knows all replicas where they are now.

        Raises:
            RequestError: a replica ended for a fault of its settings.
            PacelineError: a replica ended.
            NotReady: it took too long.
        """
        await self._tell()
        deadline = time.monotonic() + within_s
        while True:
            missing = await self._missing(entry)
            if not missing:
                return
            if time.monotonic() > deadline:
                raise NotReady(f"drafter {entry.config.name} has not registered within {within_s:g} s: {missing}")
            await asyncio.sleep(_POLL_S)

    async def _missing(self, entry: RosterEntry) -> str:
        """What is not there of a drafter that is being added; empty where all is."""
        snapshot = await self._snapshot()
        if snapshot is None:
            return "the selector does not answer"
        known = {member.replica: member for member in snapshot.members if _is_up(member, entry)}
        missing = []
        for number, name in enumerate(self._actors.names(entry)):
            try:
                reply = await self._actors.ping(name)
            except ray.exceptions.ActorDiedError as error:
                raise start_failure(entry.config.name, cause(error)) from None
            except (TimeoutError, NotReady, ray.exceptions.RayError):
                missing.append(f"replica {number} does not answer yet")
                continue
            if number not in known or known[number].address != reply["address"]:
                missing.append(f"the selector has not heard of replica {number}")
        return "; ".join(missing)

    async def _snapshot(self) -> SelectorSnapshot | None:
        try:
            return await self.snapshot()
        except (TimeoutError, NotReady, ray.exceptions.RayError):
            return None

    async def _look(self, entries: Sequence[RosterEntry]) -> tuple[list[list[ActorStatus]], SelectorSnapshot | None]:
        """How the drafters' replicas are, and what the selector knows."""
        snapshot, *replicas = await asyncio.gather(
            self._snapshot(), *(asyncio.gather(*self._replicas(entry)) for entry in entries)
        )
        node = ray.util.get_node_ip_address()
        known = [
            as_heard(entry.config.name, actors, snapshot, node) for entry, actors in zip(entries, replicas, strict=True)
        ]
        return known, snapshot

    def _replicas(self, entry: RosterEntry) -> list[Any]:
        """Questions to a drafter's replicas."""
        drafter = entry.config
        return [
            self._status(replica_name(drafter.name, number), drafter.kind, drafter.device, full, drafter)
            for number, full in enumerate(self._actors.names(entry))
        ]

    async def _status(
        self, name: str, kind: str, device: str, actor_name: str, drafter: DrafterConfig | None = None
    ) -> ActorStatus:
        last = self._actors.last_node(actor_name)
        try:
            reply = await self._actors.ping(actor_name)
        except TimeoutError:
            detail = self._waits_for(actor_name, drafter) or "does not answer yet"
            return ActorStatus(name, kind, last, device, "starting", detail=detail)
        except (NotReady, ray.exceptions.RayError) as error:
            return ActorStatus(name, kind, last, device, "down", detail=cause(error)[:200])
        return ActorStatus(
            name, kind, reply["node"], device, "up", reply["pid"], reply["address"], reply.get("sessions", 0)
        )

    def _waits_for(self, actor_name: str, drafter: DrafterConfig | None) -> str | None:
        """The resources that keep an actor from being placed; None where nothing does."""
        if drafter is None or not self._actors.waits_for_a_node(actor_name):
            return None
        return misfit(drafter_demands(drafter)[:1], ray_nodes())

    def _settled(self, name: str) -> bool:
        """Whether targets have heard that a drafter drains; what they opened by then shows in two heartbeats."""
        told_s = time.monotonic() - self._drained_since_s.get(name, -math.inf)
        return told_s > 2 * self._config.network.heartbeat_s


def _is_up(member: Member, entry: RosterEntry) -> bool:
    return member.drafter == entry.config.name and member.up


def _running(application: str, deployment: str) -> int:
    """Replicas of a deployment that run, as Serve sees it; 0 where Serve does not answer."""
    try:
        overview = serve.status().applications.get(application)
    except (ray.exceptions.RayError, RayServeException) as error:
        logger.warning("Serve does not say what runs: %s", error)
        return 0
    if overview is None or deployment not in overview.deployments:
        return 0
    states = overview.deployments[deployment].replica_states
    return sum(count for state, count in states.items() if state == "RUNNING")
