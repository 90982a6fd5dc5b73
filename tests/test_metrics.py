"""Metrics without a cluster: names, what fills them, bounded labels, restarts, and Prometheus's text."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from bad_input_cases import CASES
from engine_rig import GuessHost, rig
from fake_backend import CONFIG, MODEL, FakeBackend, make_api, make_tokenizer, rounds, served, wait_until
from prometheus_client.parser import text_string_to_metric_families
from prometheus_server import DEPLOY, alert_queries, board_queries, require_binaries
from table_model import TableModel

from paceline.actors.errors import ConfigError, EngineError, Overloaded
from paceline.actors.latency_histogram import HistogramCount, LatencyHistogram
from paceline.cluster.config import parse_config
from paceline.cluster.metrics import names, table
from paceline.cluster.metrics.labels import MOST_OTHERS, OTHER, LabelNames
from paceline.cluster.metrics.names import BY_NAME, METRICS
from paceline.cluster.metrics.ray_export import middles
from paceline.cluster.metrics.samples import MOST_SILENT, Samples, Totals
from paceline.cluster.metrics.target_metrics import TargetMetrics
from paceline.cluster.metrics.text import exposition

ROOT = Path(__file__).resolve().parent.parent


def test_names_are_prometheus_names_and_defined_once() -> None:
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"paceline_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert bool(metric.bounds_s) == (metric.kind == "histogram")
        assert metric.help.endswith("."), metric.name


def test_no_other_source_file_writes_a_metric_name() -> None:
    for folder in ("actors", "cluster"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "names.py":
                found = [metric.name for metric in METRICS if metric.name in path.read_text()]
                assert not found, f"{path.relative_to(ROOT)}: {found}"


class TestHistogram:
    def test_bounds_are_inclusive_and_the_last_bucket_is_open(self) -> None:
        histogram = LatencyHistogram((0.1, 1.0))
        for seconds in (0.05, 0.1, 0.5, 1.0, 7.0):
            histogram.observe(seconds)
        histogram.observe(0.2, times=3)
        assert histogram.count.counts == (2, 5, 1)
        assert histogram.count.total == 8
        assert histogram.count.sum_s == pytest.approx(9.25)

    def test_quantiles_lie_on_a_line_through_their_bucket(self) -> None:
        histogram = LatencyHistogram((1.0, 2.0, 4.0))
        assert histogram.quantile_s(0.5) is None
        histogram.observe(0.5, times=10)
        histogram.observe(3.0, times=10)
        assert histogram.quantile_s(0.25) == pytest.approx(0.5)
        assert histogram.quantile_s(0.75) == pytest.approx(3.0)
        histogram.observe(100.0, times=80)
        assert histogram.quantile_s(0.99) == 4.0

    def test_bounds_that_do_not_ascend_are_refused(self) -> None:
        with pytest.raises(ValueError, match="ascending"):
            LatencyHistogram((1.0, 1.0))

    def test_a_middle_lies_in_each_bucket(self) -> None:
        for metric in METRICS:
            if metric.bounds_s:
                histogram = LatencyHistogram(metric.bounds_s)
                for seconds in middles(metric.bounds_s):
                    histogram.observe(seconds)
                assert set(histogram.count.counts) == {1}


class TestSamples:
    def test_wrong_labels_and_values_are_refused(self) -> None:
        samples = Samples()
        with pytest.raises(ValueError, match="expected \\('drafter',\\)"):
            samples.add(names.ROUNDS, 1)
        with pytest.raises(ValueError, match="histogram"):
            samples.add(names.TTFT_SECONDS, 1.0)
        with pytest.raises(ValueError, match="histogram"):
            samples.add(names.TTFT_SECONDS, HistogramCount((1, 2), 1.0))

    def test_they_survive_the_board(self) -> None:
        samples = Samples()
        samples.add(names.ROUNDS, 3, "ngram")
        samples.add(names.QUEUE_SECONDS, LatencyHistogram(names.QUEUE_SECONDS.bounds_s).count)
        assert Samples.decode(samples.encode()).values == samples.values

    def test_samples_of_an_unknown_name_are_left_out(self) -> None:
        assert not Samples.decode(b'[["paceline_of_tomorrow_total", ["x"], 3]]').values


def sampled(rounds_played: int, running: int, *seconds: float) -> Samples:
    samples = Samples()
    samples.add(names.ROUNDS, rounds_played, "ngram")
    samples.add(names.RUNNING, running)
    histogram = LatencyHistogram(names.QUEUE_SECONDS.bounds_s)
    for value in seconds:
        histogram.observe(value)
    samples.add(names.QUEUE_SECONDS, histogram.count)
    return samples


class TestTotals:
    def test_replicas_add_up_and_a_restart_is_no_step_back(self) -> None:
        totals = Totals()
        totals.take("a", sampled(10, 2, 0.02))
        totals.take("b", sampled(5, 1))
        assert totals.samples().values[names.ROUNDS.name, ("ngram",)] == 15
        assert totals.samples().values[names.RUNNING.name, ()] == 3
        totals.take("a", sampled(4, 1, 0.02, 0.02))  # began anew
        assert totals.samples().values[names.ROUNDS.name, ("ngram",)] == 19
        waited = totals.samples().values[names.QUEUE_SECONDS.name, ()]
        assert isinstance(waited, HistogramCount)
        assert waited.total == 2

    def test_a_process_that_is_gone_keeps_its_counts_and_loses_its_gauges(self) -> None:
        totals = Totals()
        totals.take("a", sampled(10, 2))
        totals.take("b", sampled(5, 1))
        totals.keep({"b"})
        values = totals.samples().values
        assert values[names.ROUNDS.name, ("ngram",)] == 15
        assert values[names.RUNNING.name, ()] == 1

    def test_a_process_that_was_only_late_is_not_counted_twice(self) -> None:
        totals = Totals()
        totals.take("a", sampled(10, 2))
        totals.keep(set())
        totals.take("a", sampled(12, 2))
        assert totals.samples().values[names.ROUNDS.name, ("ngram",)] == 12
        assert totals.samples().values[names.RUNNING.name, ()] == 2

    def test_what_is_remembered_of_gone_processes_is_bounded(self) -> None:
        totals = Totals()
        for number in range(3 * MOST_SILENT):
            totals.take(str(number), sampled(1, 1))
            totals.keep(set())
        assert len(totals._last) <= MOST_SILENT + 1
        assert totals.samples().values[names.ROUNDS.name, ("ngram",)] == 3 * MOST_SILENT

    def test_of_two_targets_the_fuller_one_is_told(self) -> None:
        totals = Totals()
        for source, ratio in (("a", 0.25), ("b", 0.75)):
            samples = Samples()
            samples.add(names.KV_USAGE, ratio)
            totals.take(source, samples)
        assert totals.samples().values[names.KV_USAGE.name, ()] == 0.75


def test_the_text_is_what_prometheus_reads() -> None:
    samples = sampled(3, 1, 0.02, 9.0)
    samples.add(names.ROUNDS, 2, 'odd "name"\\\n')
    families = {family.name: family for family in text_string_to_metric_families(exposition(samples))}
    assert families["paceline_rounds"].type == "counter"
    assert {s.labels["drafter"]: s.value for s in families["paceline_rounds"].samples} == {
        "ngram": 3,
        'odd "name"\\\n': 2,
    }
    buckets = families["paceline_request_queue_time_seconds"].samples
    by_bound = {float(s.labels["le"]): s.value for s in buckets if s.name.endswith("_bucket")}
    assert by_bound[0.01] == 0
    assert by_bound[0.05] == 1
    assert by_bound[15.0] == by_bound[math.inf] == 2
    assert {s.name.rsplit("_", 1)[1]: s.value for s in buckets if "le" not in s.labels} == {
        "count": 2,
        "sum": pytest.approx(9.02),
    }


def test_drafter_names_that_come_and_go_make_a_bounded_number_of_series() -> None:
    """A thousand drafters join one after the other, and fail each in its own way."""
    faults = Counter(late=1, invalid_ids=2, failure_internal=1, quarantined=1, bytes_sent=7)
    seen: dict[str, Counter[str]] = {}
    pool = SimpleNamespace(
        counters=lambda: seen,
        waits=lambda: {name: LatencyHistogram(names.RPC_SECONDS.bounds_s).count for name in seen},
        connected=lambda: list(seen)[-1:],
    )
    with rig(TableModel(), {}) as running:
        metrics = TargetMetrics(running.engine, pool, SimpleNamespace(rounds_dropped=0), ["ngram"])  # type: ignore[arg-type]
        for number in range(1000):
            seen[f"drafter-{number}"] = faults
            running.engine.counts.rounds[f"drafter-{number}"] += 1
            if number % 100 == 0:
                metrics.gather()
        samples = metrics.gather()
    drafters = {labels[0] for metric, labels, _ in samples if metric.labels[:1] == ("drafter",)}
    assert len(drafters) <= MOST_OTHERS + 4  # and `ngram`, `plain`, `none`, `other`
    assert {"ngram", "plain", OTHER} <= drafters
    rounds_played = [value for metric, _, value in samples if metric is names.ROUNDS]
    assert sum(value for value in rounds_played if isinstance(value, int | float)) == 1000, "nothing is lost"


def test_configured_names_always_have_their_own() -> None:
    name = LabelNames(["ngram"], most_others=1)
    assert [name("a"), name("b"), name("a"), name("ngram")] == ["a", OTHER, "a", "ngram"]


class TestTarget:
    def test_counts_agree_with_what_requests_were_told(self) -> None:
        model = TableModel()
        hosts = {"good": GuessHost(model, 0.3), "liar": GuessHost(model, behaviour="liar")}
        with rig(model, hosts) as running:
            outcomes = [running.submit([1, 2, 3], 20, streamed=True) for _ in range(4)]
            for outcome in outcomes:
                outcome.wait()
            metrics = TargetMetrics(running.engine, running.pool, SimpleNamespace(rounds_dropped=0), list(hosts))  # type: ignore[arg-type]
            values = metrics.gather().values
        chunks = [chunk for outcome in outcomes for chunk in outcome.chunks]
        drafted = [chunk for chunk in chunks if chunk.drafter == "good"]
        assert drafted
        assert values[names.GENERATION_TOKENS.name, ()] == sum(len(chunk.token_ids) for chunk in chunks) == 80
        assert values[names.PROMPT_TOKENS.name, ()] == 12
        assert values[names.SPEC_DRAFTS.name, ("good",)] == len(drafted)
        assert values[names.SPEC_DRAFT_TOKENS.name, ("good",)] == sum(chunk.drafted for chunk in drafted)
        accepted = sum(chunk.accepted for chunk in drafted)
        assert values[names.SPEC_ACCEPTED_TOKENS.name, ("good",)] == accepted
        per_position = [
            value for (name, labels), value in values.items() if name == names.SPEC_ACCEPTED_TOKENS_PER_POS.name
        ]
        assert sum(value for value in per_position if not isinstance(value, HistogramCount)) == accepted
        assert values[names.ROUNDS.name, ("plain",)] == sum(not chunk.drafter for chunk in chunks if chunk.token_ids)
        lies = values[names.FALLBACKS.name, ("liar", "bad_draft")]
        assert not isinstance(lies, HistogramCount)
        assert lies >= 1
        assert values[names.QUARANTINES.name, ("liar",)] == 1
        waited, queued = values[names.RPC_SECONDS.name, ("good",)], values[names.QUEUE_SECONDS.name, ()]
        assert isinstance(waited, HistogramCount)
        assert waited.total > 0
        assert isinstance(queued, HistogramCount)
        assert queued.total == 4

    def test_kv_usage_is_what_admission_goes_by(self) -> None:
        model = TableModel()
        with rig(model, {}, max_sequences=1, max_tokens_in_flight=100) as running:
            outcome = running.submit([1] * 10, 40)
            seen = []
            outcome.heard = lambda: seen.append(running.engine.kv_usage)
            outcome.wait()
        assert seen[0] == pytest.approx(0.5)

    def test_rounds_for_which_there_is_no_drafter_are_told(self) -> None:
        model = TableModel()
        with rig(model, {}) as running:
            running.submit([1, 2], 10).wait()
            running.submit([1, 2], 10, speculate=False).wait()
            fallbacks = dict(running.engine.counts.fallbacks)
        assert set(fallbacks) == {"no_drafter"}
        assert 0 < fallbacks["no_drafter"] <= 10


@pytest.fixture(scope="module")
def backend() -> FakeBackend:
    return FakeBackend(lambda generation: rounds([5, 6, 7, 8, 9], [2, 1], "length"))


@pytest.fixture(scope="module")
def url(backend: FakeBackend, tmp_path_factory: pytest.TempPathFactory) -> Any:
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    with served(make_api(backend, tokenizer)) as address:
        yield address


def read(url: str) -> dict[tuple[str, tuple[str, ...]], float]:
    reply = httpx.get(f"{url}/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


def post(url: str, **fields: Any) -> httpx.Response:
    body = {"model": MODEL, "prompt": "the fox", "max_tokens": 8, **fields}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=30)


class TestEndpoint:
    def test_answers_are_counted_by_their_end_and_streams_are_timed(self, url: str, backend: FakeBackend) -> None:
        before = read(url)
        assert post(url, stream=True).status_code == 200
        assert post(url, n=2).status_code == 200
        after = read(url)

        def more(name: str, *labels: str) -> float:
            return after[name, labels] - before[name, labels]

        assert more(names.REQUESTS.name, "length") == 3
        assert more(f"{names.TTFT_SECONDS.name}_count") == 1, "streams only"
        assert more(f"{names.INTER_TOKEN_SECONDS.name}_count") == 3, "every token after the first round's"
        assert more(f"{names.E2E_SECONDS.name}_count") == 2

    def test_a_failure_in_mid_answer_is_an_error(self, url: str, backend: FakeBackend) -> None:
        before, script = read(url), backend.script
        backend.script = lambda generation: [*rounds([5, 6], [1], None), EngineError("lost")]
        try:
            assert post(url).status_code == 500
            assert "lost" in post(url, stream=True).text
        finally:
            backend.script = script
        after = read(url)
        assert after[names.REQUESTS.name, ("error",)] - before[names.REQUESTS.name, ("error",)] == 2
        assert after[names.REFUSED.name, ("500",)] - before[names.REFUSED.name, ("500",)] == 1

    def test_a_client_that_leaves_is_an_abort(self, url: str, backend: FakeBackend) -> None:
        before = read(url)[names.REQUESTS.name, ("abort",)]
        backend.delay_s = 0.3
        try:
            body = {"model": MODEL, "prompt": "the fox", "max_tokens": 8, "stream": True}
            with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as reply:
                next(reply.iter_lines())
            wait_until(lambda: read(url)[names.REQUESTS.name, ("abort",)] == before + 1, 10, "it is counted")
        finally:
            backend.delay_s = 0.0

    def test_refusals_are_counted_by_status_and_end_no_answer(self, url: str, backend: FakeBackend) -> None:
        before, script = read(url), backend.script
        backend.script = lambda generation: [Overloaded("full")]
        try:
            assert post(url).status_code == 429
            assert post(url, stream=True).status_code == 429
        finally:
            backend.script = script
        assert post(url, model="no-such-model").status_code == 404
        assert httpx.get(f"{url}/v1/nothing").status_code == 404
        assert httpx.get(f"{url}/elsewhere").status_code == 404
        after = read(url)
        for status, count in (("429", 2), ("404", 2)):
            assert after[names.REFUSED.name, (status,)] - before[names.REFUSED.name, (status,)] == count
        for reason in ("stop", "length", "error", "abort"):
            assert after[names.REQUESTS.name, (reason,)] == before[names.REQUESTS.name, (reason,)]

    def test_nothing_that_a_client_sends_becomes_a_label(self, url: str) -> None:
        before = set(read(url))
        for case in CASES[::8]:
            post(url, model=f"model-of-{case.name}", user=f"user-of-{case.name}")
            httpx.request(f"ODD{len(case.name)}", f"{url}/v1/path-of-{case.name}")
        fresh = set(read(url)) - before
        assert {name for name, _ in fresh} <= {names.REFUSED.name}
        assert len(fresh) <= 3

    def test_other_processes_samples_are_there_with_its_own(self, url: str, backend: FakeBackend) -> None:
        backend.samples = {"target": sampled(7, 2)}
        try:
            assert read(url)[names.ROUNDS.name, ("ngram",)] == 7
            assert read(url)[names.RUNNING.name, ()] == 2
            backend.samples = {}
            assert read(url)[names.ROUNDS.name, ("ngram",)] == 7
            assert (names.RUNNING.name, ()) not in read(url)
        finally:
            backend.samples = {}

    def test_where_it_is_not_exported_there_is_no_page(self, backend: FakeBackend, tmp_path: Path) -> None:
        config = parse_config({**CONFIG.model_dump(), "metrics": {"export": ["ray"]}})
        with served(make_api(backend, make_tokenizer(tmp_path), config)) as address:
            assert httpx.get(f"{address}/metrics").status_code == 404


class TestDocument:
    def test_its_table_is_the_newest(self, tmp_path: Path) -> None:
        document = ROOT / "docs" / "metrics.md"
        assert table.main([str(document), "--check"]) == 0, "python -m paceline.cluster.metrics.table docs/metrics.md"
        old = tmp_path / "old.md"
        old.write_text(document.read_text().replace(names.ROUNDS.help, "Something else."))
        assert table.main([str(old), "--check"]) == 1
        assert table.main([str(old)]) == 0
        assert old.read_text() == document.read_text()

    def test_a_file_without_marks_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "page.md").write_text("# Nothing\n")
        with pytest.raises(ConfigError, match="end of metrics"):
            table.main([str(tmp_path / "page.md")])

    def test_it_explains_every_alert_and_no_other(self) -> None:
        told = set(re.findall(r"^\| `(Paceline\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
        assert told == {alert for alert, _ in alert_queries()}


class TestQueries:
    """The board's and the alerts', without a Prometheus; `test_live_metrics` asks a real one."""

    @pytest.mark.parametrize(("title", "query"), [*board_queries("paceline"), *alert_queries()])
    def test_they_name_only_metrics_and_labels_that_there_are(self, title: str, query: str) -> None:
        found = re.findall(r"(paceline_[a-z0-9_]+)(?:\{([^}]*)\})?", query)
        assert found, title
        for written, matchers in found:
            metric = BY_NAME.get(written) or BY_NAME[re.sub(r"_(bucket|count|sum)$", "", written)]
            assert (written != metric.name) == (metric.kind == "histogram"), f"{title}: {written}"
            assert set(re.findall(r"(\w+)[=!]", matchers)) <= set(metric.labels), f"{title}: {written}"

    def test_promtool_takes_configuration_and_rules(self) -> None:
        require_binaries()
        for kind, path in (("config", "prometheus.yml"), ("config", "ray.yml"), ("rules", "alerts.yml")):
            checked = subprocess.run(
                ["promtool", "check", kind, str(DEPLOY / "prometheus" / path)], capture_output=True, text=True
            )
            assert checked.returncode == 0, checked.stdout + checked.stderr

    def test_the_board_can_be_loaded_anywhere(self) -> None:
        """No data source of somebody's Grafana is written into it, and panels do not overlap."""
        board = json.loads((DEPLOY / "grafana" / "paceline.json").read_text())
        assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "prefix"}
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {(x + place["x"], y + place["y"]) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken, panel["title"]
            assert all(x < 24 for x, _ in cells)
            taken |= cells
            for part in (panel, *panel.get("targets", [])):
                assert part.get("datasource", {"uid": "${datasource}"})["uid"] == "${datasource}"
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
