"""The actors behind the target: one selector and the drafters, started, watched and taken down together.

They are detached, so that none of them dies with the process that happened to start it; Ray restarts each after a
crash.
`Fleet` runs as a Serve deployment of one replica, which makes them go when the application is deleted.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.serve.exceptions import RayServeException

from paceline.actors.channel import ANY_PORT
from paceline.actors.drafter_actor import DrafterActor, DrafterSpec
from paceline.actors.errors import NotReady
from paceline.actors.messages import SelectorSnapshot
from paceline.actors.tracer import Span
from paceline.cluster.backend import ActorStatus
from paceline.cluster.config import ClusterConfig, DrafterConfig, Resources
from paceline.cluster.explanation import Explanation, RequestList
from paceline.cluster.metrics.fleet_metrics import FleetMetrics, WatchedActor
from paceline.cluster.metrics.publisher import MetricPublisher
from paceline.cluster.naming import drafter_name, namespace, selector_name
from paceline.cluster.selector_actor import SelectorActor

logger = logging.getLogger(__name__)

_PING_S = 0.8
_EXPLAIN_S = 5.0


class Fleet:
    """Keeps the cluster's detached actors in being."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = ClusterConfig.model_validate(config)
        application = serve.get_replica_context().app_name
        self._namespace = namespace(application)
        self._actors: dict[str, ActorHandle[Any]] = {}
        self._remove_strangers()
        self._ensure()
        names = [drafter.name for drafter in self._config.drafters]
        metrics = FleetMetrics(self._watched, names, lambda deployment: _running(application, deployment))
        self._metrics = MetricPublisher("fleet", metrics.gather, application, self._config.metrics)

    async def statuses(self) -> list[ActorStatus]:
        """Ask every actor how it is; one that does not answer in time is down."""
        wanted = [("selector", "selector", "cpu", selector_name(self._config))]
        wanted += [(d.name, d.kind, d.device, drafter_name(self._config, d)) for d in self._config.drafters]
        return list(await asyncio.gather(*(self._status(*item) for item in wanted)))

    async def snapshot(self) -> SelectorSnapshot:
        """The selector's statistics.

        Raises:
            NotReady: the selector does not answer.
        """
        reply: SelectorSnapshot = await asyncio.wait_for(_as_coroutine(self._selector().snapshot.remote()), _PING_S)
        return reply

    async def explain(self, request: str) -> Explanation | None:
        """What the selector keeps of a request; None where it keeps nothing.

        Raises:
            NotReady: the selector does not answer.
        """
        asked = self._selector().explain.remote(request)
        reply: Explanation | None = await asyncio.wait_for(_as_coroutine(asked), _EXPLAIN_S)
        return reply

    async def requests(self, limit: int) -> RequestList:
        """The newest requests that the selector keeps.

        Raises:
            NotReady: the selector does not answer.
        """
        asked = self._selector().requests.remote(limit)
        reply: RequestList = await asyncio.wait_for(_as_coroutine(asked), _EXPLAIN_S)
        return reply

    async def trace(self, since_ns: int) -> dict[str, list[Span]]:
        """Spans of the selector's and every drafter's process by actor name; one that does not answer is left out."""
        names = {"selector": selector_name(self._config)}
        names |= {drafter.name: drafter_name(self._config, drafter) for drafter in self._config.drafters}
        handles = {name: actor for name, full in names.items() if (actor := self._actors.get(full)) is not None}
        asked = [asyncio.wait_for(_as_coroutine(actor.trace.remote(since_ns)), _PING_S) for actor in handles.values()]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        return {
            name: reply for name, reply in zip(handles, replies, strict=True) if not isinstance(reply, BaseException)
        }

    async def check_health(self) -> None:
        """Serve calls this every few seconds: bring back what is gone for good (a constructor that failed, say)."""
        for name, actor in list(self._actors.items()):
            try:
                await asyncio.wait_for(_as_coroutine(actor.ping.remote()), _PING_S)
            except ray.exceptions.ActorDiedError as error:
                logger.warning("%s is gone: %s", name, error)
                del self._actors[name]
            except (TimeoutError, ray.exceptions.RayError):
                continue  # restarting or busy: Ray's business
        self._ensure()

    def __del__(self) -> None:
        metrics = getattr(self, "_metrics", None)
        if metrics is not None:
            metrics.close()
        for actor in self._actors.values():
            ray.kill(actor, no_restart=True)

    async def _status(self, name: str, kind: str, device: str, actor_name: str) -> ActorStatus:
        actor = self._actors.get(actor_name)
        if actor is None:
            return ActorStatus(name, kind, "", device, "down")
        try:
            reply = await asyncio.wait_for(_as_coroutine(actor.ping.remote()), _PING_S)
        except TimeoutError:
            return ActorStatus(name, kind, "", device, "starting", detail="does not answer yet")
        except ray.exceptions.RayError as error:
            return ActorStatus(name, kind, "", device, "down", detail=str(error).strip().splitlines()[-1][:200])
        return ActorStatus(
            name, kind, reply["node"], device, "up", reply["pid"], reply["address"], reply.get("sessions", 0)
        )

    def _selector(self) -> Any:
        actor = self._actors.get(selector_name(self._config))
        if actor is None:
            raise NotReady("the selector is not there")
        return actor

    def _watched(self) -> list[WatchedActor]:
        """The actors whose metrics are exported."""
        config, actors = self._config, self._actors
        selector = WatchedActor("selector", "selector", "", actors.get(selector_name(config)))
        return [selector] + [
            WatchedActor(d.name, d.kind, d.name, actors.get(drafter_name(config, d))) for d in config.drafters
        ]

    def _ensure(self) -> None:
        config = self._config
        options: dict[str, Any] = {
            "namespace": self._namespace,
            "lifetime": "detached",
            "get_if_exists": True,
            "max_restarts": -1,
            "max_task_retries": 0,
        }
        wanted: list[tuple[str, Any, Resources, Any]] = [
            (selector_name(config), SelectorActor, config.selector.resources, config.model_dump())
        ]
        wanted += [(drafter_name(config, d), DrafterActor, d.resources, self._spec(d)) for d in config.drafters]
        for name, actor, resources, argument in wanted:
            if name not in self._actors:
                remote: Any = ray.remote(actor)
                placed = remote.options(name=name, **options, **_placement(resources))
                self._actors[name] = placed.remote(argument)

    def _spec(self, drafter: DrafterConfig) -> DrafterSpec:
        config = self._config
        return DrafterSpec(
            name=drafter.name,
            kind=drafter.kind,
            options=dict(drafter.options),
            device=drafter.device,
            threads=drafter.threads,
            max_sessions=drafter.max_sessions,
            target_model=config.target.model,
            target_dtype=config.target.dtype,
            target_quantization=config.target.quantization,
            host=config.network.host,
            ports=config.network.ports or ANY_PORT,
            token=config.network.token,
            max_message_bytes=config.network.max_message_bytes,
            heartbeat_s=config.network.heartbeat_s,
            selector_name=selector_name(config),
            namespace=self._namespace,
        )

    def _remove_strangers(self) -> None:
        """Kill what an earlier configuration of this application left behind."""
        config = self._config
        wanted = {selector_name(config), *(drafter_name(config, drafter) for drafter in config.drafters)}
        for entry in ray.util.list_named_actors(all_namespaces=True):
            if entry["namespace"] == self._namespace and entry["name"] not in wanted:
                logger.info("removing %s of an earlier configuration", entry["name"])
                ray.kill(ray.get_actor(entry["name"], namespace=self._namespace), no_restart=True)


def _placement(resources: Resources) -> dict[str, Any]:
    return {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus, "resources": dict(resources.custom)}


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


async def _as_coroutine(reference: Any) -> Any:
    return await reference
