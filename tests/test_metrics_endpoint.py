"""`/metrics` over a scripted cluster: how answers end, what is refused, what is timed, and no label from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from bad_input_cases import CASES
from fake_backend import CONFIG, MODEL, FakeBackend, make_api, make_tokenizer, rounds, served, wait_until
from prometheus_client.parser import text_string_to_metric_families
from test_metrics import sampled

from paceline.actors.errors import EngineError, Overloaded
from paceline.cluster.config import parse_config
from paceline.cluster.metrics import names


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
        for reason in ("stop", "length", "error", "abort", "shutdown"):
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
