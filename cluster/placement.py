"""Whether what the actors ask for is free on Ray's nodes, and if not, what is missing.

An actor needs all its resources on one node. Ray itself only waits; here the wait gets words. `serve_command` looks
before it brings anything up, `fleet` before it adds a drafter, and for those that wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import available_resources_per_node

from paceline.cluster.config import ClusterConfig, DrafterConfig, Resources

_OWN_NAMES = {"CPU": "num_cpus", "GPU": "num_gpus"}  # Ray's names for what our settings call otherwise
_ROUNDING = 1e-4  # Ray counts in ten-thousandths


@dataclass(frozen=True, slots=True)
class Node:
    """One of Ray's nodes: what is free of what it has, by our settings' names."""

    address: str
    free: Mapping[str, float]
    total: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Demand:
    """What one actor asks for."""

    who: str
    resources: Mapping[str, float]


def demands(config: ClusterConfig) -> list[Demand]:
    """Everything that a configuration asks for, the target first."""
    asked = [Demand("target", _needs(config.target.resources))] * config.target.replicas
    asked.append(Demand("selector", _needs(config.selector.resources)))
    return asked + [demand for drafter in config.drafters for demand in drafter_demands(drafter)]


def lacking_of(config: ClusterConfig, nodes: Sequence[Node]) -> str | None:
    """What a configuration asks for and nodes have not free; None where all of it fits."""
    devices = {"target": config.target.device, **{f"drafter {item.name}": item.device for item in config.drafters}}
    absent = (lacking_device(who, device, nodes) for who, device in devices.items())
    return misfit(demands(config), nodes) or next((words for words in absent if words is not None), None)


def drafter_demands(drafter: DrafterConfig) -> list[Demand]:
    """What a drafter's replicas ask for."""
    return [Demand(f"drafter {drafter.name}", _needs(drafter.resources))] * drafter.replicas


def ray_nodes() -> list[Node]:
    """Ray's living nodes, now."""
    free = available_resources_per_node()
    return [
        Node(node["NodeManagerAddress"], _named(free.get(node["NodeID"], {})), _named(node["Resources"]))
        for node in ray.nodes()
        if node["Alive"]
    ]


def misfit(asked: Sequence[Demand], nodes: Sequence[Node]) -> str | None:
    """What does not fit; None where all of it does.

    Each actor is put on the first node that has room, the largest ones first: where even that fails, so may Ray.
    """
    left = [dict(node.free) for node in nodes]
    placed: dict[str, int] = {}
    for demand in sorted(asked, key=lambda item: -sum(item.resources.values())):
        room = next((free for free in left if _fits(demand.resources, free)), None)
        if room is None:
            return _words(demand, asked.count(demand), placed.get(demand.who, 0), nodes, left)
        for name, amount in demand.resources.items():
            room[name] -= amount
        placed[demand.who] = placed.get(demand.who, 0) + 1
    return None


def lacking_device(who: str, device: str, nodes: Sequence[Node]) -> str | None:
    """Why no node has a device (`cpu`, `cuda` or `cuda:N`); None where one has."""
    if device == "cpu":
        return None
    most = max((node.total.get("num_gpus", 0.0) for node in nodes), default=0.0)
    if int(device.partition(":")[2] or 0) < most:
        return None
    return f"{who} needs device {device!r}; the nodes have at most {most:g} GPUs each, as Ray counts them"


def _words(
    demand: Demand, replicas: int, placed: int, nodes: Sequence[Node], left: Sequence[Mapping[str, float]]
) -> str:
    needs = ", ".join(f"{name} {amount:g}" for name, amount in sorted(demand.resources.items()))
    each = f" for each of its {replicas} replicas (there is room for {placed})" if replicas > 1 else ""
    free = "; ".join(_free(demand, node, room) for node, room in zip(nodes, left, strict=True)) or "Ray has no node"
    return f"{demand.who} needs {needs}{each}; free: {free}"


def _free(demand: Demand, node: Node, room: Mapping[str, float]) -> str:
    parts = (f"{name} {room.get(name, 0.0):g} of {node.total.get(name, 0.0):g}" for name in sorted(demand.resources))
    return f"{', '.join(parts)} on {node.address}"


def _fits(needed: Mapping[str, float], free: Mapping[str, float]) -> bool:
    return all(free.get(name, 0.0) >= amount - _ROUNDING for name, amount in needed.items())


def _needs(resources: Resources) -> dict[str, float]:
    return dict(_amounts(resources))


def _amounts(resources: Resources) -> Iterator[tuple[str, float]]:
    asked = {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus, **resources.custom}
    return ((name, amount) for name, amount in asked.items() if amount > 0)


def _named(resources: Mapping[str, Any]) -> dict[str, float]:
    return {_OWN_NAMES.get(name, name): float(amount) for name, amount in resources.items()}
