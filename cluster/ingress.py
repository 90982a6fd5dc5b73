"""The HTTP ingress as a Serve deployment, and the Ray-backed `Backend` that its endpoints call."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from paceline.actors.errors import EngineError, NotReady, PacelineError
from paceline.actors.generation import Chunk, Generation
from paceline.actors.messages import SelectorSnapshot
from paceline.actors.model_facts import eos_ids, max_positions
from paceline.actors.model_source import resolve
from paceline.actors.priority import wait_for_gaps
from paceline.actors.tracer import TRACER
from paceline.cluster.access import check_exposure
from paceline.cluster.api import create_api
from paceline.cluster.backend import ActorStatus, ClusterStatus, DrafterState, Pulse
from paceline.cluster.config import ClusterConfig
from paceline.cluster.drafter_control import DrafterView
from paceline.cluster.drain_gate import Drain
from paceline.cluster.explanation import Explanation, RequestList
from paceline.cluster.fleet_actors import CALL_S
from paceline.cluster.fleet_view import FleetOverview
from paceline.cluster.metrics.publisher import MetricPublisher, board_of
from paceline.cluster.metrics.samples import Samples
from paceline.cluster.replica_end import end_with_replica
from paceline.cluster.tokenizer import ChatTokenizer
from paceline.cluster.trace_document import ProcessTrace

logger = logging.getLogger(__name__)

_STATUS_S = 0.9
_SAVE_S = 2.5  # the fleet gives the selector less
_OVERVIEW_S = CALL_S + 0.5  # the fleet waits so long for actors that do not answer
_RESUMES = 3
_KINDS_S = 1.0  # that the list of drafters may be old


class RayBackend:
    """The cluster behind Serve handles."""

    def __init__(self, config: ClusterConfig, model_name: str, target: DeploymentHandle[Any], fleet: Any) -> None:
        self._config = config
        self._model_name = model_name
        self._target = target
        self._fleet = fleet
        self._own_name = ray.get_runtime_context().get_actor_name() or ""
        context = serve.get_replica_context()
        self._replica = context.replica_id.unique_id
        self._board = board_of(context.app_name, config.metrics)
        self._kinds = {drafter.name: drafter.kind for drafter in config.drafters}  # as last heard
        self._heard_s = -math.inf
        self._target_node = ""  # where it was when it answered last

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk]:
        """Stream a generation; where its replica dies, go on from what was sent, on another.

        Raises:
            PacelineError: as `Backend.generate` says.
        """
        remaining = replace(generation, caller=self._own_name)
        for _ in range(_RESUMES + 1):
            try:
                async with aclosing(self._attempt(remaining)) as chunks:
                    async for chunk in chunks:
                        sent = tuple(chunk.token_ids)
                        remaining = replace(
                            remaining,
                            prompt=remaining.prompt + sent,
                            max_tokens=remaining.max_tokens - len(sent),
                            answered=remaining.answered + len(sent),
                        )
                        yield chunk
                        if chunk.finish_reason is not None:
                            return
            except (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError) as error:
                logger.warning("the target replica of %s was lost, resuming: %s", generation.request_id, error)
        raise EngineError("the target was lost again and again while this request ran")

    async def _attempt(self, generation: Generation) -> AsyncGenerator[Chunk]:
        stream: Any = self._target.options(stream=True).generate.remote(generation)
        try:
            async for chunks in stream:
                for chunk in chunks:
                    yield chunk
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, PacelineError):
                raise error.cause from None
            raise
        finally:
            stream.cancel()

    async def metrics(self) -> dict[str, Samples]:
        """See `Backend.metrics`."""
        found = await asyncio.to_thread(self._board.read)
        found.pop(self._replica, None)  # the endpoint's own are newer
        return found

    async def trace(self, seconds: float) -> list[ProcessTrace]:
        """Wait for so long, and return what every process that answers did meanwhile."""
        since_ns = time.time_ns()
        await asyncio.sleep(seconds)
        status, target, fleet = await asyncio.gather(
            self.status(), _within(self._target.trace.remote(since_ns)), _within(self._fleet.trace.remote(since_ns))
        )
        spans = {"ingress": TRACER.since(since_ns), "target": target, **(fleet or {})}
        return [
            ProcessTrace(actor.name, actor.node, actor.pid, spans[actor.name])
            for actor in status.actors
            if spans.get(actor.name)
        ]

    async def explain(self, request: str) -> Explanation | None:
        """See `Backend`."""
        found: Explanation | None = await _of_the_selector(self._fleet.explain.remote(request))
        return found

    async def requests(self, limit: int) -> RequestList:
        """See `Backend`."""
        newest: RequestList = await _of_the_selector(self._fleet.requests.remote(limit))
        return newest

    async def pulse(self) -> Pulse | None:
        """See `Backend`."""
        pulse: Pulse | None = await _within(self._target.pulse.remote())
        return pulse

    async def save(self) -> None:
        """Have the selector write its state now, where it keeps one; a selector that is away has written it before."""
        await _within(self._fleet.save.remote(), _SAVE_S)

    async def status(self) -> ClusterStatus:
        """Ask the target and the fleet, side by side."""
        answers: tuple[Any, FleetOverview | None] = await asyncio.gather(
            _within(self._target.state.remote()), _within(self._fleet.overview.remote(), _OVERVIEW_S)
        )
        target, fleet = answers
        if target is not None:
            self._target_node = target["node"]
        if fleet is not None:
            self._heard(fleet.kinds)
        selector = fleet.snapshot if fleet is not None else None
        actors = [
            ActorStatus("ingress", "ingress", ray.util.get_node_ip_address(), "cpu", "up", os.getpid()),
            ActorStatus("target", "target", self._target_node, self._config.target.device, "down")
            if target is None
            else ActorStatus(
                "target", "target", target["node"], target["device"], "up", target["pid"], "", target["running"]
            ),
            *(fleet.actors if fleet is not None else []),
        ]
        usable = target["usable"] if target else []
        return ClusterStatus(
            ready=target is not None,
            mode="speculation" if usable else "plain decoding",
            model=self._model_name,
            policy=self._config.selector.policy,
            selector_up=selector is not None,
            actors=actors,
            drafters=self._drafters(usable, selector),
            running=target["running"] if target else 0,
            waiting=target["waiting"] if target else 0,
        )

    # ------------------------------------------------------------ drafters; see `DrafterControl`

    async def drafter_names(self) -> tuple[str, ...]:
        """The drafters that a request may name, as they were within the last second."""
        if time.monotonic() - self._heard_s > _KINDS_S:
            await self._hear_kinds()
        return tuple(self._kinds)

    async def drafters(self) -> list[DrafterView]:
        """All of them, now."""
        found: list[DrafterView] = await self._asked_of_fleet(self._fleet.drafters.remote())
        return found

    async def add_drafter(self, document: dict[str, Any], wait_s: float) -> None:
        """Add one."""
        await self._asked_of_fleet(self._fleet.add.remote(document, wait_s))
        await self._hear_kinds()

    async def drain_drafter(self, name: str) -> None:
        """Give it no new sequences."""
        await self._asked_of_fleet(self._fleet.drain.remote(name))

    async def remove_drafter(self, name: str) -> None:
        """Take it away now."""
        await self._asked_of_fleet(self._fleet.remove.remote(name))
        await self._hear_kinds()

    async def _hear_kinds(self) -> None:
        kinds = await _within(self._fleet.names.remote())
        if kinds is not None:
            self._heard(kinds)

    def _heard(self, kinds: dict[str, str]) -> None:
        self._kinds, self._heard_s = kinds, time.monotonic()

    async def _asked_of_fleet(self, response: Any) -> Any:
        try:
            return await response
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, PacelineError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise NotReady(f"who keeps the drafters does not answer: {error}") from error

    def _drafters(self, usable: list[str], snapshot: SelectorSnapshot | None) -> list[DrafterState]:
        known = {item.drafter: item for item in snapshot.drafters} if snapshot else {}
        states = []
        for name, kind in self._kinds.items():
            up = name in usable
            item = known.get(name)
            if item is None:
                states.append(DrafterState(name, kind, up, 0.0, 0.0, 0.0, 0, 0, 0, 0.0))
            else:
                states.append(
                    DrafterState(
                        name,
                        kind,
                        up,
                        item.weight,
                        item.gamma,
                        item.eal,
                        item.rounds,
                        item.drafted,
                        item.accepted,
                        item.draft_ms,
                    )
                )
        return states


@serve.ingress()
class Ingress:
    """One ingress replica: the FastAPI application over a `RayBackend`."""

    def __init__(self, config: dict[str, Any], target: DeploymentHandle[Any], fleet: DeploymentHandle[Any]) -> None:
        wait_for_gaps()
        self._settings = ClusterConfig.model_validate(config)
        check_exposure(self._settings.http, _bound_host() or self._settings.http.host)
        self._folder = resolve(self._settings.target.model, progress=False)
        self._name = self._settings.target.name or self._folder.name
        self._backend = RayBackend(self._settings, self._name, target, fleet)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Build the endpoints once the replica is there."""
        path = self._folder.path
        longest = max_positions(path)
        api = create_api(
            self._backend,
            ChatTokenizer(path),
            self._settings,
            self._name,
            min(self._settings.target.max_context or longest, longest),
            eos_ids(path),
        )
        self._drain: Drain = api.state.drain
        self._end = end_with_replica(self._drain, self._settings.http.drain_s)
        context = serve.get_replica_context()
        self._metrics = MetricPublisher(
            context.replica_id.unique_id, api.state.requests.gather, context.app_name, self._settings.metrics
        )
        return api

    async def drain(self) -> tuple[int, int]:
        """Before the cluster is stopped: end what runs (`Drain.end`), and save what was learned."""
        ran, ended = await self._drain.end(self._settings.http.drain_s)
        await self._backend.save()
        return ran, ended

    def __del__(self) -> None:
        metrics = getattr(self, "_metrics", None)
        if metrics is not None:
            metrics.close()


def _bound_host() -> str | None:
    """What Serve's proxies listen on, where there is a Serve."""
    serving = _get_global_client(raise_if_no_controller_running=False)
    return None if serving is None else str(serving.http_config.host)


async def _within(response: Any, seconds: float = _STATUS_S) -> Any:
    """A reply, or None where it does not come in time."""
    try:
        return await asyncio.wait_for(_as_coroutine(response), seconds)
    except (TimeoutError, NotReady, ray.exceptions.RayError):
        return None


async def _of_the_selector(response: Any) -> Any:
    try:
        return await response
    except (TimeoutError, NotReady, ray.exceptions.RayError) as error:
        raise NotReady("the selector does not answer; decoding goes on without it") from error


async def _as_coroutine(response: Any) -> Any:
    return await response
