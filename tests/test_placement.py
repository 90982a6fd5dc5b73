"""What does not fit says what it needs and what is free."""

from __future__ import annotations

from typing import Any

import pytest

from paceline.cluster.config import DrafterConfig, parse_config
from paceline.cluster.placement import Demand, Node, demands, drafter_demands, lacking_device, misfit


def drafter(**fields: Any) -> DrafterConfig:
    return DrafterConfig.model_validate({"name": "math", "kind": "ngram", **fields})


def node(address: str, total: dict[str, float], **free: float) -> Node:
    return Node(address, {**total, **free}, total)


GPU = node("10.0.0.1", {"num_cpus": 8, "num_gpus": 1}, num_gpus=0.1)
CPU = node("10.0.0.2", {"num_cpus": 4})


@pytest.mark.parametrize(
    ("device", "nodes", "expected"),
    [
        ("cpu", [], None),
        ("cuda", [CPU, GPU], None),
        ("cuda:0", [GPU], None),
        ("cuda:1", [GPU], "target needs device 'cuda:1'; the nodes have at most 1 GPUs each, as Ray counts them"),
        ("cuda", [CPU], "target needs device 'cuda'; the nodes have at most 0 GPUs each, as Ray counts them"),
    ],
)
def test_a_device_is_somewhere(device: str, nodes: list[Node], expected: str | None) -> None:
    assert lacking_device("target", device, nodes) == expected


def test_who_asks_for_nothing_fits_anywhere() -> None:
    assert misfit(drafter_demands(drafter(replicas=9)), [CPU]) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num_gpus": 0.1}, None),
        (
            {"num_gpus": 0.25},
            "drafter math needs num_gpus 0.25; free: num_gpus 0.1 of 1 on 10.0.0.1; num_gpus 0 of 0 on 10.0.0.2",
        ),
        (
            {"num_cpus": 2, "custom": {"drafter": 1}},
            "drafter math needs drafter 1, num_cpus 2; free: drafter 0 of 0, num_cpus 8 of 8 on 10.0.0.1; "
            "drafter 0 of 0, num_cpus 4 of 4 on 10.0.0.2",
        ),
        ({"num_cpus": 8}, None),
        ({"num_cpus": 8.5}, "drafter math needs num_cpus 8.5; free: num_cpus 8 of 8 on"),
    ],
)
def test_one_drafter_on_two_nodes(fields: dict[str, Any], expected: str | None) -> None:
    found = misfit(drafter_demands(drafter(resources=fields)), [GPU, CPU])
    assert found is None if expected is None else (found or "").startswith(expected)


def test_each_actor_needs_a_node_of_its_own_size_and_replicas_add_up() -> None:
    assert misfit([Demand("a", {"num_cpus": 10})], [GPU, CPU]) is not None, "12 free, on two nodes"
    three = drafter(replicas=3, resources={"num_cpus": 4})
    assert misfit(drafter_demands(three), [GPU, CPU]) is None
    four = drafter(replicas=4, resources={"num_cpus": 4})
    found = misfit(drafter_demands(four), [GPU, CPU])
    assert found is not None
    assert "needs num_cpus 4 for each of its 4 replicas (there is room for 3); free: num_cpus 0 of 8" in found


def test_large_ones_are_placed_first_so_that_small_ones_do_not_stand_in_their_way() -> None:
    asked = [Demand("small", {"num_cpus": 1}), Demand("large", {"num_cpus": 8})]
    assert misfit(asked, [node("a", {"num_cpus": 8}), node("b", {"num_cpus": 1})]) is None


def test_a_configuration_asks_for_target_selector_and_every_replica() -> None:
    config = parse_config(
        {
            "target": {"replicas": 2, "resources": {"num_gpus": 1}},
            "drafters": [{"name": "math", "kind": "ngram", "replicas": 3, "resources": {"custom": {"drafter": 0.5}}}],
        }
    )
    asked = [(demand.who, dict(demand.resources)) for demand in demands(config)]
    assert asked == [
        *[("target", {"num_gpus": 1.0})] * 2,
        ("selector", {}),
        *[("drafter math", {"drafter": 0.5})] * 3,
    ]
