"""What the HTTP endpoint needs from the cluster behind it: `app` injects the Ray-backed one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from paceline.actors.generation import Chunk, Generation
from paceline.cluster.drafter_control import DrafterControl
from paceline.cluster.explanation import Explanation, RequestList
from paceline.cluster.metrics.samples import Samples
from paceline.cluster.trace_document import ProcessTrace

Mode = Literal["speculation", "plain decoding"]


@dataclass(frozen=True, slots=True)
class ActorStatus:
    """One actor of the cluster, as the start-up table and `paceline status` show it."""

    name: str
    kind: str  # target, selector, ingress, or the drafter's kind
    node: str  # where it was last, unless it is up; empty where that is not known
    device: str
    state: str  # up, down, starting
    pid: int = 0
    address: str = ""
    sessions: int = 0  # sequences held
    detail: str = ""  # what is wrong, where something is


@dataclass(frozen=True, slots=True)
class DrafterState:
    """One drafter's discounted statistics, as the selector sees them."""

    name: str
    kind: str
    up: bool
    weight: float
    gamma: float
    eal: float
    rounds: int
    drafted: int
    accepted: int
    draft_ms: float


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The whole cluster at one moment."""

    ready: bool  # the target answers
    mode: Mode
    model: str
    policy: str
    selector_up: bool
    actors: list[ActorStatus] = field(default_factory=list)
    drafters: list[DrafterState] = field(default_factory=list)
    running: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Pulse:
    """What changes all the time, as one target replica knows it without asking anyone.

    `decode_ms` and `plain_ms` only grow while the replica lives: the time of its rounds, and what plain decoding would
    have taken for their tokens (`paceline.actors.pace`), held against plain rounds of `plain_sequences` sequences, each
    of `plain_round_ms`. `weights` are those of a new sequence; `known` are the drafters that the selector told it of,
    and `usable` those of them that can be asked. `queue_counts` are requests that left the queue, by how long they
    waited: buckets up to each of `REQUEST_BOUNDS_S`, the last one open.
    """

    replica: str
    running: int
    waiting: int
    known: tuple[str, ...]
    usable: tuple[str, ...]
    weights: dict[str, float]
    decode_ms: float = 0.0
    plain_ms: float = 0.0
    plain_round_ms: float = 0.0
    plain_sequences: int = 0
    queue_counts: tuple[int, ...] = ()


class Generates(Protocol):
    """What runs generations."""

    def generate(self, generation: Generation) -> AsyncIterator[Chunk]:
        """Stream one sequence: one chunk per round, the last one with a finish reason.

        Closing the iterator early frees the sequence everywhere.

        Raises:
            RequestError: the generation cannot be run (too long, unknown drafter, ...).
            Overloaded: the queue is full.
            NotReady: no target is there.
            EngineError: the decoding loop failed.
        """
        ...


class Backend(Generates, DrafterControl, Protocol):
    """The cluster, as the HTTP endpoint sees it."""

    async def metrics(self) -> dict[str, Samples]:
        """The newest metrics of every process but this one, by process."""
        ...

    async def trace(self, seconds: float) -> list[ProcessTrace]:
        """Wait for so long, and return what every process that answers did meanwhile."""
        ...

    async def explain(self, request: str) -> Explanation | None:
        """What is kept of a request; None where nothing is.

        Raises:
            NotReady: the selector does not answer.
        """
        ...

    async def requests(self, limit: int) -> RequestList:
        """The newest requests that are kept, at most so many.

        Raises:
            NotReady: the selector does not answer.
        """
        ...

    async def pulse(self) -> Pulse | None:
        """The target now, at the price of one call; None where it does not answer within a second."""
        ...

    async def status(self) -> ClusterStatus:
        """The state of every actor; answers within a second even where some do not."""
        ...
