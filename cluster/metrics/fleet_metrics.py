"""Samples of what the fleet watches: drafters and the selector, and whether each actor answers.

Drafters on cheap devices only count; the fleet asks them every few seconds and exports for them. An actor that does not
answer is down, and is not asked again before it has answered or failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle

from paceline.actors.drafter_host import WORK
from paceline.actors.messages import SelectorSnapshot, replica_name
from paceline.cluster.metrics import names
from paceline.cluster.metrics.labels import LabelNames
from paceline.cluster.metrics.samples import Samples, Totals

ANSWER_S = 1.0
_SERVE_ACTORS = {"Target": "target", "Ingress": "ingress"}  # deployments and what we call their actors


@dataclass(frozen=True, slots=True)
class WatchedActor:
    """One actor. `drafter` is the name it drafts under; empty for the selector. `handle` None: there is no actor."""

    name: str
    kind: str
    drafter: str
    handle: ActorHandle[Any] | None


class FleetMetrics:
    """Gathers the fleet's samples.

    Args:
        actors: Those that there should be now.
        drafters: The configured drafters' replicas by name: each has a label of its own.
        replicas: How many replicas of a Serve deployment run.
    """

    def __init__(
        self,
        actors: Callable[[], Sequence[WatchedActor]],
        drafters: Mapping[str, int],
        replicas: Callable[[str], int],
    ) -> None:
        self._actors = actors
        self._replicas = replicas
        labels = (replica_name(name, number) for name, count in drafters.items() for number in range(count))
        self._name = LabelNames((*labels, "selector", *_SERVE_ACTORS.values()))
        self._counted = Totals()  # counters that go on where an actor restarts
        self._asked: dict[str, tuple[Any, list[Any]]] = {}  # by actor: its handle, and the answers awaited

    def gather(self) -> Samples:
        """Ask every actor, and wait a second at most."""
        samples = Samples()
        watched = self._actors()
        answers = self._answers(watched)
        for actor in watched:
            answer = answers.get(actor.name)
            samples.add(names.ACTOR_UP, float(answer is not None), self._name(actor.name), actor.kind)
            if answer is not None:
                counted = Samples()
                if actor.drafter:
                    self._drafter(self._name(actor.drafter), answer[0], counted)
                else:
                    self._selector(answer[0], answer[1], counted)
                self._counted.take(actor.name, counted)
        self._counted.keep(answers)
        samples.values.update(self._counted.samples().values)
        for deployment, name in _SERVE_ACTORS.items():
            samples.add(names.ACTOR_UP, float(self._replicas(deployment) > 0), name, name)
        return samples

    def _answers(self, watched: Sequence[WatchedActor]) -> dict[str, list[Any]]:
        for actor in watched:
            if actor.handle is not None and (
                actor.name not in self._asked or self._asked[actor.name][0] is not actor.handle
            ):
                handle: Any = actor.handle
                calls = [handle.counters] if actor.drafter else [handle.snapshot, handle.counts]
                self._asked[actor.name] = handle, [call.remote() for call in calls]
        known = {actor.name for actor in watched if actor.handle is not None}
        self._asked = {name: asked for name, asked in self._asked.items() if name in known}
        everything = [reference for _, references in self._asked.values() for reference in references]
        done, _ = ray.wait(everything, num_returns=len(everything), timeout=ANSWER_S) if everything else ([], [])
        answers: dict[str, list[Any]] = {}
        for name, (_, references) in list(self._asked.items()):
            if all(reference in done for reference in references):
                del self._asked[name]
                try:
                    answers[name] = ray.get(references)
                except ray.exceptions.RayError:
                    continue  # it died, or restarts
        return answers

    @staticmethod
    def _drafter(drafter: str, counters: dict[str, float], samples: Samples) -> None:
        samples.add(names.DRAFTER_SESSIONS, counters["sessions"], drafter)
        samples.add(names.SCORED_POSITIONS, counters["scored"], drafter)
        samples.add(names.SCORES_DROPPED, counters["scores_dropped"], drafter)
        for work in WORK:
            samples.add(names.BUSY_SECONDS, counters[work], drafter, work)

    def _selector(self, snapshot: SelectorSnapshot, counts: dict[str, int], samples: Samples) -> None:
        samples.add(names.SELECTOR_SEQUENCES, snapshot.sequences)
        up = {member.drafter for member in snapshot.members if member.up}
        for item in snapshot.drafters:
            if item.drafter in up:
                label = self._name(item.drafter)
                samples.add(names.DRAFTER_WEIGHT, item.weight, label)
                samples.add(names.DRAFTER_EAL, item.eal, label)
                samples.add(names.DRAFTER_ACCEPTANCE, item.gamma, label)
        for reason, amount in counts.items():
            if reason != "scores_dropped_by_drafters":  # told by drafter
                samples.add(names.SELECTOR_DISCARDS, amount, reason)
