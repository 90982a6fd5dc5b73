"""Metrics without a cluster: names, what fills them, bounded labels, restarts, and Prometheus's text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
from engine_rig import GuessHost, rig
from prometheus_client.parser import text_string_to_metric_families
from table_model import TableModel

from paceline.actors.latency_histogram import HistogramCount, LatencyHistogram
from paceline.actors.messages import Member
from paceline.cluster.metrics import names
from paceline.cluster.metrics.labels import MOST_OTHERS, OTHER, LabelNames
from paceline.cluster.metrics.names import BY_NAME, METRICS
from paceline.cluster.metrics.ray_export import middles
from paceline.cluster.metrics.samples import MOST_SILENT, Samples, Totals
from paceline.cluster.metrics.target_metrics import TargetMetrics
from paceline.cluster.metrics.text import exposition
from paceline.kernels.decoder_ops import BLOCK

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


def board_of(drafters: Iterable[str]) -> SimpleNamespace:
    """A link to a selector that knows these drafters, as they are when it is asked."""
    return SimpleNamespace(rounds_dropped=0, members=lambda: [Member(name, "ngram", "") for name in drafters])


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
        metrics = TargetMetrics(running.engine, pool, board_of(seen), ["ngram"])  # type: ignore[arg-type]
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


def test_usable_is_told_of_the_drafters_that_there_are_now() -> None:
    there, connected = ["ngram", "joined"], ["ngram", "joined"]
    pool = SimpleNamespace(counters=dict, waits=dict, connected=lambda: connected)
    with rig(TableModel(), {}) as running:
        metrics = TargetMetrics(running.engine, pool, board_of(there), ["ngram"])  # type: ignore[arg-type]

        def usable() -> dict[str, object]:
            return {labels[0]: value for metric, labels, value in metrics.gather() if metric is names.USABLE}

        assert usable() == {"ngram": 1, "joined": 1}
        connected.remove("joined")
        assert usable() == {"ngram": 1, "joined": 0}, "its line is lost, it did not leave"
        there.remove("ngram")
        connected.remove("ngram")
        assert usable() == {"joined": 0}, "one that was removed is not told of, configured or not"
        values = metrics.gather().values
    assert values[names.FALLBACKS.name, ("ngram", "late")] == 0
    assert values[names.FALLBACKS.name, ("joined", "late")] == 0


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
            metrics = TargetMetrics(running.engine, running.pool, board_of(hosts), list(hosts))  # type: ignore[arg-type]
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

    def test_kv_usage_is_what_is_held_and_not_what_is_allowed(self) -> None:
        model = TableModel()
        with rig(model, {}, max_sequences=1, max_tokens_in_flight=100 - BLOCK) as running:
            outcome = running.submit([1] * 10, 40)
            seen = []
            outcome.heard = lambda: seen.append(running.engine.kv_usage)
            outcome.wait()
        assert seen[0] == pytest.approx(0.1)  # the prompt; the last token's keys come with the next round
        assert max(seen) == pytest.approx(0.48)  # one round before the end, which lets go of all

    def test_rounds_for_which_there_is_no_drafter_are_told(self) -> None:
        model = TableModel()
        with rig(model, {}) as running:
            running.submit([1, 2], 10).wait()
            running.submit([1, 2], 10, speculate=False).wait()
            fallbacks = dict(running.engine.counts.fallbacks)
        assert set(fallbacks) == {"no_drafter"}
        assert 0 < fallbacks["no_drafter"] <= 10
