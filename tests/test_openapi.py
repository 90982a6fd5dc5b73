"""The API's own document: complete, valid, and true of what is answered; and requests made from it find no failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from bad_input_cases import CASES, CHAT, COMPLETIONS, Case
from fake_backend import CONFIG, EOS, MODEL, FakeBackend, make_api, make_tokenizer, rounds, served
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from openapi_check import check_reply, operation_of, validator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from paceline.actors.errors import EngineError, NotReady, Overloaded, UnknownDrafter
from paceline.actors.messages import DrafterStatistics, SequenceOpened
from paceline.cluster.config import parse_config
from paceline.cluster.drafter_control import DrafterView, ReplicaView, check_drafter
from paceline.cluster.drafters_api import OPERATOR_HEADER
from paceline.cluster.openapi_document import OPERATIONS, openapi_document
from paceline.cluster.request_log import RequestLog
from paceline.cluster.tokenizer import ChatTokenizer
from paceline.cluster.trace_document import ProcessTrace

DOCUMENT = openapi_document(MODEL, keyed=False)
# The document itself, pages and their feed, and Prometheus' text: not the API.
NOT_DESCRIBED = ("/openapi.json", "/dashboard", "/v1/paceline/live", "/metrics")
TOKEN = "a-secret-of-operators"
DRAFTERS = "/v1/paceline/drafters"
OPERATED = CONFIG.model_copy(update={"http": CONFIG.http.model_copy(update={"operator_token": TOKEN})})
MESSAGES = [{"role": "user", "content": "hello"}]


# Not among them: that whatever fits the schemas is accepted. They cannot tell what only goes together, nor that 1.0 is
# no integer here.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


class QuickBackend(FakeBackend):
    """Traces no longer than a moment, however long it is asked to. It checks drafters, and has always the same ones."""

    async def trace(self, seconds: float) -> list[ProcessTrace]:
        return await super().trace(0.001)

    async def drafters(self) -> list[DrafterView]:
        held = ReplicaView("127.0.0.1", "cpu", "up", 7, "127.0.0.1:1", 1, 64)
        statistics = DrafterStatistics("ngram", 9, 0.75, 2.5, 0.5, 4, 12, 9, 1.25)
        return [DrafterView(name, "ngram", "cpu", {"min_ngram": 1}, "up", [held], statistics) for name in self.names]

    names = ("ngram", "new")

    async def add_drafter(self, document: dict[str, Any], wait_s: float) -> None:
        check_drafter(document, ("ngram",), ())

    async def drain_drafter(self, name: str) -> None:
        if name not in self.names:
            raise UnknownDrafter(f"name: {name!r:.200} is not one of the drafters", "name")

    async def remove_drafter(self, name: str) -> None:
        await self.drain_drafter(name)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def backend(tokenizer: ChatTokenizer) -> FakeBackend:
    made = QuickBackend(lambda _: rounds(tokenizer.encode("the 自行车 stops" + EOS), [3, 1, 2]))
    made.log = RequestLog(8, 8, lambda: 5.0)
    made.log.opened("target", SequenceOpened(1, 10, request="chatcmpl-1-0"))
    return made


@pytest.fixture(scope="module")
def api(backend: FakeBackend, tokenizer: ChatTokenizer) -> FastAPI:
    return make_api(backend, tokenizer, OPERATED)


@pytest.fixture(scope="module")
def client(api: FastAPI) -> Iterator[httpx.Client]:
    headers = {OPERATOR_HEADER: TOKEN}
    with served(api) as url, httpx.Client(base_url=url, timeout=20, headers=headers) as client:
        yield client


def test_every_route_is_described_and_nothing_else(api: FastAPI) -> None:
    routes = {
        (route.path.replace(":path", ""), method.lower())
        for route in api.routes
        for method in route.methods  # type: ignore[attr-defined]
        if not route.path.startswith(NOT_DESCRIBED)  # type: ignore[attr-defined]
    }
    assert routes == {(operation.path, operation.method) for operation in OPERATIONS}
    assert len({o["operationId"] for item in DOCUMENT["paths"].values() for o in item.values()}) == len(OPERATIONS)


def test_the_document_is_served_and_its_schemas_are_schemas(client: httpx.Client) -> None:
    assert client.get("/openapi.json").json() == json.loads(json.dumps(DOCUMENT))
    for name, schema in DOCUMENT["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        for field, described in schema.get("properties", {}).items():
            if "default" in described:
                Draft202012Validator({**described, "components": DOCUMENT["components"]}).validate(described["default"])
            assert described != {}, f"{name}.{field} says nothing"


def test_a_key_is_part_of_it_where_one_is_needed() -> None:
    keyed = openapi_document(MODEL, keyed=True)
    assert keyed["security"] == [{"key": []}]
    assert keyed["paths"]["/health"]["get"]["security"] == []
    assert "security" not in keyed["paths"][CHAT]["post"]


GOOD: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", CHAT, {"messages": MESSAGES}),
    ("POST", CHAT, {"messages": MESSAGES, "n": 2, "logprobs": True, "top_logprobs": 3, "return_token_ids": True}),
    ("POST", CHAT, {"messages": MESSAGES, "stream": True, "logprobs": True, "return_token_ids": True}),
    ("POST", CHAT, {"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}, "n": 2}),
    ("POST", CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "stop": "x"}),
    ("POST", CHAT, {"messages": MESSAGES, "logit_bias": {"5": -1.5, "0": 100}, "stop": ["x", "y"], "seed": -1}),
    ("POST", CHAT, {"messages": MESSAGES, "tools": [], "tool_choice": None, "paceline": {"drafter": "ngram"}}),
    ("POST", CHAT, {"messages": MESSAGES, "paceline": {"enabled": False}, "user": "someone", "min_tokens": 2}),
    ("POST", CHAT, {"messages": MESSAGES, "paceline": {"policy": "hedge", "max_draft": 1}}),
    ("POST", CHAT, {"messages": [{"role": "developer", "content": "a"}, *MESSAGES], "paceline": {"max_draft": 0}}),
    ("POST", COMPLETIONS, {"prompt": "hello"}),
    ("POST", COMPLETIONS, {"prompt": ["a", "b"], "logprobs": 5, "stop_token_ids": [1, 2], "ignore_eos": True}),
    ("POST", COMPLETIONS, {"prompt": [1, 2], "stream": True, "logprobs": 0, "echo": False}),
    ("POST", COMPLETIONS, {"prompt": [[1], [2]], "stream": True, "stream_options": {"include_usage": True}}),
    ("POST", "/tokenize", {"prompt": "hello", "return_token_strs": True}),
    ("POST", "/tokenize", {"messages": MESSAGES, "add_generation_prompt": False}),
    ("POST", "/detokenize", {"tokens": [1, 2, 3]}),
    ("GET", "/v1/models", None),
    ("GET", f"/v1/models/{MODEL}", None),
    ("GET", "/v1/paceline/status", None),
    ("GET", "/v1/paceline/trace?seconds=0.01", None),
    ("GET", "/v1/paceline/requests?limit=3", None),
    ("GET", "/v1/paceline/requests/chatcmpl-1", None),
    ("GET", DRAFTERS, None),
    ("POST", f"{DRAFTERS}?wait_s=5", {"name": "new", "kind": "ngram", "options": {"min_ngram": 1}, "threads": 2}),
    ("POST", f"{DRAFTERS}/ngram/drain", {}),
    ("DELETE", f"{DRAFTERS}/ngram", None),
    ("GET", "/ready", None),
    ("GET", "/health", None),
]


@pytest.mark.parametrize(("method", "path", "fields"), GOOD, ids=str)
def test_good_requests_and_their_replies_are_as_described(
    client: httpx.Client, method: str, path: str, fields: dict[str, Any] | None
) -> None:
    body = fields
    if fields is not None and not path.startswith(DRAFTERS):
        body = {"model": MODEL, **fields}
    if body is not None:
        described = operation_of(DOCUMENT, path.partition("?")[0], method)["requestBody"]["content"]["application/json"]
        validator(DOCUMENT, described["schema"]).validate(body)
    reply = client.request(method, path, json=body)
    assert reply.status_code == (201 if path.startswith(f"{DRAFTERS}?") else 200), reply.text
    check_reply(DOCUMENT, reply)


@pytest.mark.parametrize(
    ("method", "path", "fields", "headers", "status"),
    [
        ("POST", DRAFTERS, {"name": "new", "kind": "ngram", "threads": "2"}, {}, 400),
        ("POST", DRAFTERS, {"name": "ngram", "kind": "ngram"}, {}, 409),
        ("POST", DRAFTERS, {"name": "gone", "kind": "ngram"}, {}, 409),
        ("POST", DRAFTERS, {"name": "new", "kind": "ngram"}, {OPERATOR_HEADER: "wrong"}, 401),
        ("POST", f"{DRAFTERS}?wait_s=0", {"name": "new", "kind": "ngram"}, {}, 400),
        ("POST", f"{DRAFTERS}/nobody/drain", {}, {}, 404),
        ("POST", f"{DRAFTERS}/ngram/drain", {"now": True}, {}, 400),
        ("POST", f"{DRAFTERS}/ngram/drain", None, {}, 415),
        ("DELETE", f"{DRAFTERS}/nobody", None, {}, 404),
    ],
)
def test_what_operators_are_refused_is_as_described(
    client: httpx.Client, method: str, path: str, fields: dict[str, Any] | None, headers: dict[str, str], status: int
) -> None:
    reply = client.request(method, path, json=fields, headers=headers)
    assert reply.status_code == status, reply.text
    check_reply(DOCUMENT, reply)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.status not in (404, 405) or c.code == "model_not_found"], ids=lambda c: c.name
)
def test_refusals_are_as_described(client: httpx.Client, case: Case) -> None:
    content = case.content
    if content is None and case.method == "POST":
        content = json.dumps({"model": MODEL, "messages": MESSAGES} | case.body, default=str).encode()
    headers = {} if case.content_type is None else {"Content-Type": case.content_type}
    check_reply(DOCUMENT, client.request(case.method, case.path, content=content, headers=headers))


@pytest.mark.parametrize("error", [Overloaded("full"), NotReady("not yet"), EngineError("broken")], ids=repr)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_failures_are_as_described(
    client: httpx.Client, backend: FakeBackend, tokenizer: ChatTokenizer, error: Exception, streamed: bool
) -> None:
    script, body = backend.script, {"model": MODEL, "messages": MESSAGES, "stream": streamed}
    try:
        for before in ([], rounds(tokenizer.encode("hello"), [2], None)):
            backend.script = lambda _, before=before: [*before, error]  # type: ignore[misc]
            reply = client.post(CHAT, json=body)
            assert reply.status_code == (200 if streamed and before else error.http_status)  # type: ignore[attr-defined]
            check_reply(DOCUMENT, reply)
    finally:
        backend.script = script


def test_keys_refused_are_as_described(backend: FakeBackend, tokenizer: ChatTokenizer) -> None:
    config = parse_config({"http": {"api_keys": ["some-key-1234"]}})
    with served(make_api(backend, tokenizer, config)) as url, httpx.Client(base_url=url) as client:
        for operation in OPERATIONS:
            reply = client.request(operation.method, operation.path.replace("{name}", MODEL))
            assert reply.status_code == (200 if operation.path in ("/health", "/ready") else 401)
            check_reply(DOCUMENT, reply)


def test_generated_requests_find_no_failure(api: FastAPI, backend: FakeBackend) -> None:
    """Requests made by schemathesis from the document, right ones and wrong ones; the same ones every time."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", api)
    statuses: dict[int, int] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        modes = [schemathesis.GenerationMode.POSITIVE]
        if operation.body or operation.query:
            modes.append(schemathesis.GenerationMode.NEGATIVE)
        for mode in modes:

            @settings(
                max_examples=100,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: schemathesis.Case) -> None:
                reply = case.call(headers={OPERATOR_HEADER: TOKEN})
                assert reply.status_code < 500, (case.body, reply.text)
                statuses[reply.status_code] = statuses.get(reply.status_code, 0) + 1
                # Null means absent, also for a field that is not known, which schemas have no word for.
                strict = [] if "null" in json.dumps(case.body, default=str) else [negative_data_rejection]
                case.validate_response(reply, checks=CHECKS + strict)

            check()
    assert statuses[200] > 100, statuses
    assert statuses[400] > 100, statuses
    assert not backend.running
