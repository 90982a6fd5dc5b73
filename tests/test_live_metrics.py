"""A real Prometheus against the running cluster: every name, every query of the board and of the alerts, both ways."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import httpx
import pytest
from live_cluster import DRAFTERS, ask, model_name, prompts, stream, wait_until
from prometheus_server import Prometheus, alert_queries, board_queries, require_binaries

from paceline.cluster.metrics.names import METRICS
from paceline.cluster.served_process import ServedProcess

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", params=["prometheus.yml", "ray.yml"])
def scraped(
    request: pytest.FixtureRequest, live: ServedProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that watched some requests: by every drafter, plainly, streamed and not, sampled, and refused."""
    require_binaries()
    live.wait_for_drafters(set(DRAFTERS), 60)
    by_ray = request.param == "ray.yml"
    target = ray_address(live) if by_ray else live.url.removeprefix("http://")
    with Prometheus(tmp_path_factory.mktemp("prometheus"), request.param, target) as prometheus:
        wait_until(lambda: prometheus.values("up") == [1.0], 30, "Prometheus reaches the cluster")
        traffic(live)
        # Two looks at figures that rose in between, so that there are rates.
        wait_until(lambda: tokens_seen(prometheus) > 0, 60, "the first requests were seen")
        before = tokens_seen(prometheus)
        traffic(live)
        wait_until(lambda: tokens_seen(prometheus) > before, 60, "the second requests were seen")
        yield prometheus


def tokens_seen(prometheus: Prometheus) -> float:
    return sum(prometheus.values("sum(paceline_generation_tokens_total)"))


def traffic(live: ServedProcess) -> None:
    for drafter in DRAFTERS:
        stream(live, prompts()[11], max_tokens=32, paceline={"drafter": drafter})
    ask(live, prompts()[0], max_tokens=24)
    ask(live, prompts()[1], max_tokens=24, temperature=0.7, paceline={"enabled": False})
    refused = httpx.post(f"{live.url}/v1/chat/completions", json={"model": "no-such-model", "messages": []}, timeout=30)
    assert refused.status_code == 400


def ray_address(live: ServedProcess) -> str:
    """Where Ray's agent exports, as `paceline serve` says."""
    found = re.search(r"by Ray at http://([\d.]+:\d+)/metrics", live.log.read_text())
    assert found, live.log.read_text()
    return found[1]


def test_every_name_has_data(scraped: Prometheus) -> None:
    for metric in METRICS:
        name = metric.name + ("_count" if metric.kind == "histogram" else "")
        wait_until(lambda name=name: bool(scraped.values(name)), 30, f"{name} has data")


def test_every_query_of_the_board_has_data(scraped: Prometheus) -> None:
    for panel, query in board_queries("paceline"):
        assert scraped.values(query), f"{panel}: {query}"


def test_acceptance_is_shown_by_drafter_and_position(scraped: Prometheus) -> None:
    (query,) = [query for panel, query in board_queries("paceline") if panel.startswith("Kept by drafter and position")]
    shown: dict[str, dict[int, float]] = {}
    for series in scraped.query(query):
        labels, share = series["metric"], float(series["value"][1])
        if math.isfinite(share):
            shown.setdefault(labels["drafter"], {})[int(labels["position"])] = share
    assert len(shown) >= 2, "each was asked by name"
    assert max(len(shares) for shares in shown.values()) >= 2
    for drafter, shares in shown.items():
        assert sorted(shares) == list(range(len(shares))), drafter


def test_every_alert_can_be_asked_and_none_fires_that_should_not(scraped: Prometheus) -> None:
    for alert, query in alert_queries():
        scraped.query(query)
        assert all(name in {m.name for m in METRICS} for name in metric_names(query)), alert
    assert not {name for name, _ in scraped.firing()} & {"PacelineTargetDown", "PacelineDrafterDown", "PacelineErrors"}


def metric_names(query: str) -> set[str]:
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"paceline_[a-z0-9_]+", query)}


def test_what_was_refused_is_told_and_the_model_that_was_asked_for_is_not(
    live: ServedProcess, scraped: Prometheus
) -> None:
    assert scraped.values('sum(paceline_requests_refused_total{status="400"})')[0] >= 2
    assert "no-such-model" not in httpx.get(f"{live.url}/metrics").text
    assert scraped.values(f'paceline_info{{model="{model_name(live)}"}}') == [1.0]


def test_rays_own_names_are_the_same_with_its_prefix(live: ServedProcess) -> None:
    text = httpx.get(f"http://{ray_address(live)}/metrics", timeout=10).text
    assert not [metric.name for metric in METRICS if f"ray_{metric.name}" not in text]
