"""What one process publishes and what the ingress finds, over a key-value store in place of Ray's."""

from __future__ import annotations

import threading

import pytest
from fake_backend import wait_until
from ray.experimental import internal_kv
from test_metrics import sampled

from paceline.cluster.config import ClusterConfig, MetricsConfig, parse_config
from paceline.cluster.metrics import names
from paceline.cluster.metrics.board import MetricBoard
from paceline.cluster.metrics.publisher import MetricPublisher
from paceline.cluster.metrics.samples import Samples

HTTP = MetricsConfig(export=("http",), interval_s=0.2)


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[bytes, bytes], bytes]:
    """Ray's key-value store, as a dict."""
    held: dict[tuple[bytes, bytes], bytes] = {}

    def put(key: bytes, value: bytes, overwrite: bool = True, *, namespace: bytes) -> bool:
        held[namespace, key] = value
        return True

    def keys(prefix: bytes, *, namespace: bytes) -> list[bytes]:
        return [key for space, key in held if space == namespace and key.startswith(prefix)]

    monkeypatch.setattr(internal_kv, "_internal_kv_put", put)
    monkeypatch.setattr(internal_kv, "_internal_kv_list", keys)
    monkeypatch.setattr(internal_kv, "_internal_kv_get", lambda key, *, namespace: held.get((namespace, key)))
    monkeypatch.setattr(internal_kv, "_internal_kv_del", lambda key, *, namespace: held.pop((namespace, key), None))
    return held


def rounds_of(board: MetricBoard) -> dict[str, object]:
    return {source: samples.values[names.ROUNDS.name, ("ngram",)] for source, samples in board.read().items()}


class TestBoard:
    def test_every_replica_is_found_and_other_applications_are_not(self) -> None:
        board = MetricBoard("paceline", 10.0)
        board.put("target-1", sampled(3, 1))
        MetricBoard("paceline", 10.0).put("target-2", sampled(4, 1))
        MetricBoard("another", 10.0).put("target-3", sampled(5, 1))
        assert rounds_of(board) == {"target-1": 3, "target-2": 4}
        board.remove("target-1")
        assert rounds_of(board) == {"target-2": 4}

    def test_what_a_killed_process_left_goes_when_it_is_stale(self, store: dict[tuple[bytes, bytes], bytes]) -> None:
        now_s = [100.0]
        reader = MetricBoard("paceline", 10.0, clock=lambda: now_s[0])
        dead, alive = MetricBoard("paceline", 10.0), MetricBoard("paceline", 10.0)
        dead.put("dead", sampled(3, 1))
        for number in range(4):
            alive.put("alive", sampled(number, 1))
            assert set(rounds_of(reader)) == ({"alive", "dead"} if number < 3 else {"alive"})
            now_s[0] += 4.0
        assert len(store) == 1

    def test_a_process_that_was_late_is_there_again(self) -> None:
        now_s = [100.0]
        reader, writer = MetricBoard("paceline", 10.0, clock=lambda: now_s[0]), MetricBoard("paceline", 10.0)
        writer.put("target", sampled(3, 1))
        assert rounds_of(reader) == {"target": 3}
        now_s[0] += 60.0
        assert rounds_of(reader) == {}
        writer.put("target", sampled(5, 1))
        assert rounds_of(reader) == {"target": 5}


class TestPublisher:
    def test_it_goes_on_where_gathering_fails_and_takes_its_samples_along(self) -> None:
        calls = []

        def gather() -> Samples:
            calls.append(1)
            if len(calls) == 2:
                raise RuntimeError("an actor is gone")
            return sampled(len(calls), 1)

        board = MetricBoard("paceline", 10.0)
        publisher = MetricPublisher("target", gather, "paceline", HTTP)
        wait_until(lambda: rounds_of(board).get("target") == 3, 20, "the third look is on the board")
        publisher.close()
        assert rounds_of(board) == {}

    def test_where_nothing_is_exported_nothing_is_gathered(self) -> None:
        before = threading.active_count()
        settings = parse_config({"metrics": {"export": []}}).metrics
        MetricPublisher("target", lambda: pytest.fail("gathered"), "paceline", settings)
        assert threading.active_count() == before

    @pytest.mark.parametrize("metrics", [{"export": ["statsd"]}, {"interval_s": 0}, {"port": 1}])
    def test_wrong_settings_are_refused_by_name(self, metrics: dict[str, object]) -> None:
        from paceline.actors.errors import ConfigError

        with pytest.raises(ConfigError, match=f"metrics.{next(iter(metrics))}"):
            parse_config({"metrics": metrics})

    def test_both_ways_are_on_by_default(self) -> None:
        assert ClusterConfig().metrics.export == ("http", "ray")
