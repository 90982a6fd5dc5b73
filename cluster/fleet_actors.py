"""The detached Ray actors of one cluster, by the names that settings and roster give them: made, asked, ended.

They are detached, so that none of them dies with the process that happened to start it; Ray restarts each after a
crash. `fleet` decides which there are to be.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterable
from typing import Any

import ray
from ray.actor import ActorHandle

from paceline.actors.channel import ANY_PORT
from paceline.actors.drafter_actor import DrafterActor, DrafterSpec
from paceline.actors.errors import NotReady
from paceline.cluster.config import ClusterConfig, Resources
from paceline.cluster.naming import drafter_name, selector_name
from paceline.cluster.roster import Roster, RosterEntry
from paceline.cluster.selector_actor import SelectorActor

logger = logging.getLogger(__name__)

CALL_S = 0.8
_POLL_S = 0.1
_NOWHERE = "f" * 56  # Ray's node id of an actor that has no node yet
_RAISED = re.compile(r"^\S*?(\w+(?:Error|Exception)): (.+)$", re.MULTILINE)


class FleetActors:
    """Handles to the selector and the drafters' replicas.

    Args:
        config: The cluster as it was brought up.
        namespace: Of its actors.
        roster_key: Under which the selector finds the roster when it is started anew.
    """

    def __init__(self, config: ClusterConfig, namespace: str, roster_key: str) -> None:
        self._config = config
        self._namespace = namespace
        self._roster_key = roster_key
        self._handles: dict[str, ActorHandle[Any]] = {}
        self._nodes: dict[str, str] = {}  # where each was when it answered last

    def names(self, entry: RosterEntry) -> list[str]:
        """The actors of a drafter's replicas, by number."""
        return [drafter_name(self._config, entry, replica) for replica in range(entry.config.replicas)]

    def handle(self, name: str) -> ActorHandle[Any] | None:
        """An actor's handle; None where there is none."""
        return self._handles.get(name)

    def last_node(self, name: str) -> str:
        """Where an actor was when it answered a `ping` last; empty where it never did."""
        return self._nodes.get(name, "")

    def ensure(self, roster: Roster) -> None:
        """Make those that there are to be and that are not there."""
        name = selector_name(self._config)
        if name not in self._handles:
            document = (self._config.model_dump(), self._roster_key)
            self._handles[name] = self._made(name, SelectorActor, self._config.selector.resources, *document)
        for entry in roster.entries:
            self.start(entry)

    def start(self, entry: RosterEntry) -> None:
        """Make those of a drafter's replicas that are not there; returns at once, before they are up."""
        for replica, name in enumerate(self.names(entry)):
            if name not in self._handles:
                spec = self._spec(entry, replica)
                self._handles[name] = self._made(name, DrafterActor, entry.config.resources, spec)

    def end(self, names: Iterable[str]) -> None:
        """Kill actors for good; returns at once."""
        for name in names:
            handle = self._handles.pop(name, None)
            self._nodes.pop(name, None)
            if handle is not None:
                ray.kill(handle, no_restart=True)

    def end_all(self) -> None:
        """Kill all of them."""
        self.end(list(self._handles))

    def end_strangers(self, roster: Roster) -> None:
        """Kill what an earlier configuration of this application left behind, or an addition that was broken off."""
        wanted = {selector_name(self._config), *(name for entry in roster.entries for name in self.names(entry))}
        for entry in ray.util.list_named_actors(all_namespaces=True):
            if entry["namespace"] == self._namespace and entry["name"] not in wanted:
                logger.info("ending %s, which is not wanted here any more", entry["name"])
                ray.kill(ray.get_actor(entry["name"], namespace=self._namespace), no_restart=True)

    async def gone(self, names: Iterable[str], within_s: float) -> bool:
        """Wait until actors that were ended are gone; returns whether they are."""
        left = set(names)
        deadline = time.monotonic() + within_s
        while left:
            there = {
                entry["name"]
                for entry in ray.util.list_named_actors(all_namespaces=True)
                if entry["namespace"] == self._namespace
            }
            left &= there
            if left and time.monotonic() > deadline:
                logger.warning("killed, and still there after %.0f s: %s", within_s, ", ".join(sorted(left)))
                return False
            if left:
                await asyncio.sleep(_POLL_S)
        return True

    async def call(self, name: str, method: str, *arguments: Any, within_s: float = CALL_S) -> Any:
        """Call an actor, and wait for its answer.

        Raises:
            NotReady: it is not there.
            TimeoutError: it does not answer.
            ray.exceptions.RayError: it died, or the call failed.
        """
        handle = self._handles.get(name)
        if handle is None:
            raise NotReady(f"{name} is not there")
        return await asyncio.wait_for(_as_coroutine(getattr(handle, method).remote(*arguments)), within_s)

    async def ping(self, name: str) -> dict[str, Any]:
        """What an actor says of itself: node, pid, address.

        Raises:
            NotReady, TimeoutError, ray.exceptions.RayError: as `call`.
        """
        reply: dict[str, Any] = await self.call(name, "ping")
        self._nodes[name] = reply["node"]
        return reply

    async def forget_dead(self, roster: Roster) -> None:
        """Let go of those that are gone for good (a constructor that failed, say), so that `ensure` makes them anew.

        Not of those of a drafter that is being added: whoever waits for it must hear why it died.
        """

        async def look(name: str) -> None:
            try:
                await self.ping(name)
            except ray.exceptions.ActorDiedError as error:
                logger.warning("%s is gone: %s", name, cause(error))
                self._handles.pop(name, None)
            except (TimeoutError, NotReady, ray.exceptions.RayError):
                return  # restarting or busy: Ray's business

        names = [selector_name(self._config), *(name for entry in roster.entries for name in self.names(entry))]
        await asyncio.gather(*(look(name) for name in names))

    def waits_for_a_node(self, name: str) -> bool:
        """Whether an actor was asked for and Ray has put it nowhere yet."""
        handle = self._handles.get(name)
        if handle is None:
            return False
        known = ray._private.state.actors(handle._actor_id.hex())
        return bool(known) and known["Address"]["NodeID"] in ("", _NOWHERE)

    # ------------------------------------------------------------ inside

    def _made(self, name: str, actor: type, resources: Resources, *arguments: Any) -> ActorHandle[Any]:
        remote: Any = ray.remote(actor)
        handle: ActorHandle[Any] = remote.options(
            name=name,
            namespace=self._namespace,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            resources=dict(resources.custom),
        ).remote(*arguments)
        return handle

    def _spec(self, entry: RosterEntry, replica: int) -> DrafterSpec:
        config, drafter = self._config, entry.config
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
            replica=replica,
        )


def cause(error: BaseException) -> str:
    """What a remote failure was, on one line: the last error that its traceback names, else its last line."""
    text = str(error).strip()
    raised = _RAISED.findall(text)
    if raised:
        kind, message = raised[-1]
        return f"{kind}: {message}"[:500]
    return text.splitlines()[-1][:500] if text else type(error).__name__


async def _as_coroutine(reference: Any) -> Any:
    return await reference
