"""A drafter of the zoo, placed for a measurement: in the target's process, in one of its own, or far away.

`bench_link.py` makes them; Ray has no part in it. Network delay is injected where a reply is taken, since neither the
target nor the drafter can tell on which half of the way it was spent.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from paceline.actors.drafter_host import DrafterHost
from paceline.actors.drafter_link import GrpcLink, Link, Received, Traffic
from paceline.actors.drafter_registry import DrafterContext, build_drafter
from paceline.actors.drafter_server import DrafterServer
from paceline.actors.local_link import LocalLink
from paceline.actors.messages import DrafterBatch, DraftTiming, Member, RoundContext, SequenceOpened, SequenceRound
from paceline.actors.model_facts import vocabulary_size
from paceline.actors.model_source import resolve
from paceline.actors.priority import yield_to_others

MESSAGE_BYTES = 16 * 1024 * 1024


def host_of(kind: str, options: dict[str, Any]) -> tuple[DrafterHost, Member]:
    """A drafter's sessions, and the member that a selector would know it as."""
    path = resolve("embedded").path
    drafter = build_drafter(kind, options, DrafterContext(path, vocabulary_size(path), threads=2))
    features = drafter.features
    layers, window = ((), 0) if features is None else (features.layers, features.window)
    member = Member("drafter", kind, "", feature_layers=tuple(layers), feature_window=window)
    return DrafterHost(drafter, 64), member


def serve(kind: str, options: dict[str, Any], address: Any) -> None:
    """A drafter's process: says where it listens, and serves until it is ended."""
    torch.set_num_threads(2)
    yield_to_others()
    host, _ = host_of(kind, options)
    server = DrafterServer(
        host, lambda scores: None, host="127.0.0.1", token=None, max_message_bytes=MESSAGE_BYTES, max_targets=16
    )
    address.send(server.start())
    while os.getppid() != 1:
        time.sleep(1.0)


class DrafterProcess:
    """A drafter in a process of its own, behind its gRPC server."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        here, there = multiprocessing.get_context("spawn").Pipe()
        spawn = multiprocessing.get_context("spawn").Process
        self._process = spawn(target=serve, args=(kind, options, there), daemon=True)
        self._process.start()
        if not here.poll(60):
            raise SystemExit(f"a {kind} drafter's process did not start within 60 s")
        self.address: str = here.recv()

    def connect(self, rtt_ms: float) -> Link:
        """A line to it, `rtt_ms` longer than the loopback's own round trip."""
        link = GrpcLink("drafter", self.address, token=None, max_message_bytes=MESSAGE_BYTES)
        deadline = time.monotonic() + 10
        while not link.up:
            if time.monotonic() > deadline:
                raise SystemExit(f"no line to the drafter at {self.address}")
            time.sleep(0.01)
        return FarLink(link, rtt_ms / 1e3) if rtt_ms else link

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.join(10)


def local_link(host: DrafterHost) -> Link:
    """A line within this process."""
    return LocalLink(host, lambda scores: None)


class FarLink:
    """A line whose every reply takes `rtt_s` longer. Implements `drafter_link.Link`."""

    def __init__(self, near: Link, rtt_s: float) -> None:
        self._near = near
        self._rtt_s = rtt_s
        self._held: Received | None = None

    @property
    def traffic(self) -> Traffic:
        """What went over it."""
        return self._near.traffic

    @property
    def up(self) -> bool:
        """Whether messages can be sent."""
        return self._near.up

    @property
    def generation(self) -> int:
        """Grows with every connection."""
        return self._near.generation

    def send(self, batch: DrafterBatch) -> None:
        """Send at once; the reply bears the delay."""
        self._near.send(batch)

    def receive(self, timeout_s: float) -> Received | None:
        """The next reply, once its delay is over."""
        deadline = time.monotonic() + timeout_s
        if self._held is None:
            self._held = self._near.receive(timeout_s)
        if self._held is None:
            return None
        due = self._held.at_s + self._rtt_s
        if due > max(deadline, time.monotonic()):
            time.sleep(max(deadline - time.monotonic(), 0.0))
            return None
        time.sleep(max(due - time.monotonic(), 0.0))
        received, self._held = Received(self._held.reply, due), None
        return received

    def close(self) -> None:
        """Give the line up."""
        self._near.close()


class OneDrafterBoard:
    """All weight on the one drafter."""

    def __init__(self, member: Member) -> None:
        self._members = (member,)

    @property
    def weights_number(self) -> int:
        """No update has come."""
        return 0

    def weights(self, seq: int) -> Mapping[str, float]:
        """The drafter's."""
        return {"drafter": 1.0}

    def lengths(self, seq: int) -> Mapping[str, int]:
        """The target sets them."""
        return {}

    def members(self) -> Sequence[Member]:
        """The drafter."""
        return self._members

    def opened(self, sequence: SequenceOpened) -> None:
        """Nobody listens."""

    def played(
        self,
        rounds: Sequence[SequenceRound],
        drafts: Sequence[DraftTiming],
        verify_ms: float,
        verify_tokens: int,
        context: RoundContext = RoundContext(),
    ) -> None:
        """Nobody listens."""

    def closed(self, seq: int) -> None:
        """Nobody listens."""
