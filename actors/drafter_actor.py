"""A drafter as a Ray actor: one drafter kind, its gRPC server, and its link to the selector, in one process.

Light kinds stay light: this module imports neither torch nor transformers; a kind imports what it needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from paceline.actors.channel import PortRange
from paceline.actors.drafter_host import DrafterHost
from paceline.actors.drafter_registry import MODEL_KINDS, DrafterContext, build_drafter
from paceline.actors.drafter_server import DrafterServer
from paceline.actors.messages import Heartbeat
from paceline.actors.model_facts import Quantization, vocabulary_size
from paceline.actors.model_source import resolve
from paceline.actors.priority import wait_for_gaps, yield_to_others
from paceline.actors.score_link import ScoreLink
from paceline.actors.tracer import TRACER, Span


@dataclass(frozen=True, slots=True)
class DrafterSpec:
    """Everything a drafter's process needs to know. `host` may be `node`, the Ray node's own address."""

    name: str
    kind: str
    options: dict[str, Any]
    device: str
    threads: int
    max_sessions: int
    target_model: str
    target_dtype: str
    target_quantization: Quantization
    host: str
    ports: PortRange
    token: str | None
    max_message_bytes: int
    heartbeat_s: float
    selector_name: str
    namespace: str
    replica: int = 0


class DrafterActor:
    """One drafter replica. Ray restarts it after a crash; it then registers its new address with the selector."""

    def __init__(self, spec: DrafterSpec) -> None:
        self._spec = spec
        if spec.device == "cpu" and spec.kind in MODEL_KINDS:
            yield_to_others()
        else:
            wait_for_gaps()
        self._node = ray.util.get_node_ip_address()
        folder = resolve(spec.target_model, progress=False)
        drafter = build_drafter(spec.kind, spec.options, _context(spec, folder.path))
        self._features = drafter.features
        self._host = DrafterHost(drafter, spec.max_sessions)
        self._scores = ScoreLink(
            selector_resolver(spec.selector_name, spec.namespace),
            self._heartbeat,
            token=spec.token,
            max_message_bytes=spec.max_message_bytes,
            interval_s=spec.heartbeat_s,
        )
        self._server = DrafterServer(
            self._host,
            self._scores.put,
            host=self._node if spec.host == "node" else spec.host,
            token=spec.token,
            max_message_bytes=spec.max_message_bytes,
            ports=spec.ports,
        )
        self._address = self._server.start()
        self._scores.start()

    def ping(self) -> dict[str, Any]:
        """Where it runs, where it listens, and how many sequences it holds."""
        return {
            "node": self._node,
            "pid": os.getpid(),
            "address": self._address,
            "sessions": self._host.sessions,
        }

    def counters(self) -> dict[str, float]:
        """Sequences held, and since it started: seconds by `drafter_host.WORK`, positions scored, scores dropped."""
        host = self._host
        counted = {"sessions": host.sessions, "scored": host.scored, "scores_dropped": self._scores.dropped}
        return {**host.busy_s, **counted}

    def trace(self, since_ns: int) -> list[Span]:
        """What this process did since a moment."""
        return TRACER.since(since_ns)

    def _heartbeat(self) -> Heartbeat:
        spec = self._spec
        return Heartbeat(
            drafter=spec.name,
            kind=spec.kind,
            address=self._address,
            node=self._node,
            device=spec.device,
            pid=os.getpid(),
            sessions=self._host.sessions,
            capacity=spec.max_sessions,
            feature_layers=() if self._features is None else self._features.layers,
            feature_window=0 if self._features is None else self._features.window,
            replica=spec.replica,
        )


def selector_resolver(name: str, namespace: str) -> Callable[[], str]:
    """A call that asks Ray for the selector's present address (it moves when the selector restarts).

    The call raises while the selector is not there.
    """

    def resolve_address() -> str:
        actor = ray.get_actor(name, namespace=namespace)
        return str(ray.get(actor.address.remote(), timeout=5))

    return resolve_address


def _context(spec: DrafterSpec, path: Path) -> DrafterContext:
    return DrafterContext(
        target_path=path,
        vocab_size=vocabulary_size(path),
        device=spec.device,
        dtype=spec.target_dtype,
        quantization=spec.target_quantization,
        threads=spec.threads,
        seed=int.from_bytes(os.urandom(4), "little"),
    )
