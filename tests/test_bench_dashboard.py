"""The dashboard's benchmark: whose processor time counts as whose, and what pages added."""

from __future__ import annotations

import pytest
from bench_dashboard import IDLE, OURS, REST, ROLES, STREAM, Window, role_of, row_of, spent_by_role


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("ray::ServeReplica:paceline:Ingress", "ingress"),
        ("ray::ServeReplica:paceline:Target", "target"),
        ("ray::ProxyActor", "proxy"),
        ("ray::DrafterActor.ping", "drafters"),
        ("/opt/ray/core/src/ray/raylet/raylet --store_socket_name=ray::ProxyActor", REST),
    ],
)
def test_roles_go_by_the_title(title: str, role: str) -> None:
    assert role_of(title) == role


def test_a_process_that_came_in_between_counts_from_its_start() -> None:
    spent = spent_by_role(
        {1: ("ingress", 5.0), 2: ("proxy", 1.0)}, {1: ("ingress", 5.5), 3: ("proxy", 0.25), 4: ("proxy", 0.5)}
    )
    assert {role: seconds for role, seconds in spent.items() if seconds} == {"ingress": 0.5, "proxy": 0.75}


def window(load: str, pages: int, **used: float) -> Window:
    return Window(load, pages, dict.fromkeys((*ROLES, REST), 0.0) | used, 10.0, 10 * pages, 5.0 * pages, 24.0)


def test_pages_cost_the_difference_to_none() -> None:
    kinds = {
        (load, pages): [window(load, pages, ingress=1.0 + pages + step, target=50.0 * pages) for step in (0.0, 0.5)]
        for load in (IDLE, STREAM)
        for pages in (0, 2)
    }
    idle, streams = row_of(IDLE, 2, kinds), row_of(STREAM, 2, kinds)
    assert idle["added_percent"] == pytest.approx(102.0)
    assert streams["added_percent"] == pytest.approx(2.0), f"in {OURS}, not in the target"
    assert streams["error_percent"] == pytest.approx(0.25 * 2**0.5)
    assert (streams["messages_per_s"], streams["kib_per_s"]) == (1.0, 0.5), "to each page"
