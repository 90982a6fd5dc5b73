"""`GET /openapi.json`: the API's own description, made of the models that requests are read with.

FastAPI cannot make it, since bodies are read by hand. `OPERATIONS` is the one list of what is described; a test holds
it against the routes, and real replies against the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from pydantic import BaseModel, TypeAdapter

from paceline.cluster import reply_shapes as shapes
from paceline.cluster.access import OPEN_PATHS
from paceline.cluster.backend import ClusterStatus
from paceline.cluster.config import DrafterConfig
from paceline.cluster.drafter_control import DrafterView
from paceline.cluster.drafters_api import LONGEST_WAIT_S, OPERATOR_HEADER, WAIT_S, DrainRequest
from paceline.cluster.explain_api import MOST_LISTED
from paceline.cluster.explanation import Explanation, RequestList
from paceline.cluster.openai_requests import ChatRequest, CompletionRequest
from paceline.cluster.request_body import RequestBody
from paceline.cluster.tokenize_endpoints import DetokenizeRequest, TokenizeRequest

_SCHEMAS = "#/components/schemas/"
_BODY_ERRORS = {400: "a field is wrong; `param` names it", 413: "the body is too large", 415: "the body is not JSON"}
_MODEL_ERROR = {404: "the model is not served here"}
_BUSY = {429: "all places are taken; `Retry-After` says when to come back", 503: "no target answers"}
_ALWAYS = {401: "an API key is missing or wrong", 500: "a failure of the server"}

_OPERATOR_ERRORS = {403: "no operator's token is set, and the caller is not on the server itself"}
_DRAFTER_ERRORS = {
    404: "there is no drafter of that name",
    409: "it is being changed at this moment",
    503: "whoever keeps the drafters does not answer",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One endpoint. `reply` and `event` are shapes; the path's parameters are texts."""

    path: str
    method: str
    summary: str
    reply: type[Any]
    errors: dict[int, str]
    body: type[BaseModel] | None = None
    event: type[BaseModel] | None = None  # of its stream
    query: tuple[dict[str, Any], ...] = ()
    status: int = 200  # of what is done
    operator: bool = False  # whether it takes the operator's token


_SECONDS = {
    "name": "seconds",
    "in": "query",
    "required": False,
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 30, "default": 5},
}
_LIMIT = {
    "name": "limit",
    "in": "query",
    "required": False,
    "schema": {"type": "integer", "minimum": 1, "maximum": MOST_LISTED, "default": 50},
}
_WAIT = {
    "name": "wait_s",
    "in": "query",
    "required": False,
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_WAIT_S, "default": WAIT_S},
}
OPERATIONS = (
    Operation(
        "/v1/chat/completions",
        "post",
        "Answer a conversation",
        shapes.ChatCompletion,
        _BODY_ERRORS | _MODEL_ERROR | _BUSY,
        ChatRequest,
        shapes.ChatCompletionChunk,
    ),
    Operation(
        "/v1/completions",
        "post",
        "Continue texts",
        shapes.TextCompletion,
        _BODY_ERRORS | _MODEL_ERROR | _BUSY,
        CompletionRequest,
        shapes.TextCompletionChunk,
    ),
    Operation(
        "/tokenize",
        "post",
        "Token ids of a text or a conversation",
        shapes.TokenizeReply,
        _BODY_ERRORS | _MODEL_ERROR,
        TokenizeRequest,
    ),
    Operation(
        "/detokenize",
        "post",
        "Text of token ids",
        shapes.DetokenizeReply,
        _BODY_ERRORS | _MODEL_ERROR,
        DetokenizeRequest,
    ),
    Operation("/v1/models", "get", "The served model, as a list", shapes.ModelList, {}),
    Operation("/v1/models/{name}", "get", "The served model", shapes.ModelCard, _MODEL_ERROR),
    Operation("/v1/paceline/status", "get", "Every actor, and what the selector has learned", ClusterStatus, {}),
    Operation(
        "/v1/paceline/trace",
        "get",
        "What every process does in the next seconds",
        shapes.TraceReply,
        {400: "`seconds` is out of bounds"},
        query=(_SECONDS,),
    ),
    Operation(
        "/v1/paceline/requests",
        "get",
        "The newest requests, a line each",
        RequestList,
        {400: "`limit` is out of bounds", 503: "the selector does not answer"},
        query=(_LIMIT,),
    ),
    Operation(
        "/v1/paceline/requests/{id}",
        "get",
        "One request, round by round",
        Explanation,
        {404: "nothing is kept of such a request", 503: "the selector does not answer"},
    ),
    Operation(
        "/v1/paceline/drafters",
        "get",
        "The drafters, with their replicas and statistics",
        shapes.DrafterList,
        {503: "whoever keeps them does not answer"},
    ),
    Operation(
        "/v1/paceline/drafters",
        "post",
        "Add a drafter, and wait until it can be used",
        DrafterView,
        _BODY_ERRORS | _OPERATOR_ERRORS | {409: "the name is taken, or the resources are", 503: "it did not come up"},
        DrafterConfig,
        query=(_WAIT,),
        status=201,
        operator=True,
    ),
    Operation(
        "/v1/paceline/drafters/{name}/drain",
        "post",
        "Give a drafter no new sequences",
        DrafterView,
        _BODY_ERRORS | _OPERATOR_ERRORS | _DRAFTER_ERRORS,
        DrainRequest,
        operator=True,
    ),
    Operation(
        "/v1/paceline/drafters/{name}",
        "delete",
        "Take a drafter away now",
        shapes.DrafterDeleted,
        _OPERATOR_ERRORS | _DRAFTER_ERRORS,
        operator=True,
    ),
    Operation("/ready", "get", "Whether requests can be served", shapes.ReadyReply, {503: "no target answers"}),
    Operation("/health", "get", "Whether the endpoint answers", shapes.HealthReply, {}),
)


def openapi_document(model: str, *, keyed: bool) -> dict[str, Any]:
    """The whole document, OpenAPI 3.1.

    Args:
        model: The served one's name: the only one that requests may give.
        keyed: Whether requests need an API key.
    """
    return {
        "openapi": "3.1.0",
        "info": {"title": "paceline", "version": metadata.version("paceline"), "description": _DESCRIPTION},
        "paths": _paths(model, keyed=keyed),
        "components": {
            "schemas": _components(model),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "operator": {"type": "apiKey", "in": "header", "name": OPERATOR_HEADER},
            },
        },
        "security": [{"key": []}] if keyed else [],
    }


_DESCRIPTION = (
    "OpenAI's API, with fields of our own under `paceline`. Every field has an effect or is refused by name; null "
    "means absent. Fields that only go together are checked beyond what schemas can say."
)


def _paths(model: str, *, keyed: bool) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        described = _described(operation, model)
        if operation.operator:  # without a token where none is set, from the server itself
            keys: dict[str, list[str]] = {"key": []} if keyed else {}
            described["security"] = [keys | {"operator": []}, keys]
        if operation.path in paths:
            described["operationId"] += f"_{operation.method}"
        paths.setdefault(operation.path, {})[operation.method] = described
    return paths


def _described(operation: Operation, model: str) -> dict[str, Any]:
    replies: dict[str, Any] = {"application/json": {"schema": _named(operation.reply)}}
    if operation.event is not None:
        said = {"anyOf": [_named(operation.event), _named(shapes.ErrorReply)]}
        news = {"type": "string", "contentMediaType": "application/json", "contentSchema": said}
        data = {"anyOf": [news, {"const": "[DONE]", "description": "the last one"}]}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        replies["text/event-stream"] = {"schema": event | {"description": "one event"}}
    parameters = list(operation.query)
    for name in re.findall(r"{(\w+)}", operation.path):
        served = operation.path.startswith("/v1/models/")
        values: dict[str, Any] = {"enum": [model]} if served else {"type": "string", "minLength": 1}
        parameters.append({"name": name, "in": "path", "required": True, "schema": values})
    described: dict[str, Any] = {
        "operationId": operation.path.strip("/").replace("/", "_").replace("{", "").replace("}", "").replace("v1_", ""),
        "summary": operation.summary,
        "responses": {str(operation.status): {"description": "done", "content": replies}} | _refusals(operation),
    }
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _named(operation.body)}},
        }
    if operation.path in OPEN_PATHS:
        described["security"] = []
    return described


def _refusals(operation: Operation) -> dict[str, Any]:
    refusals: dict[str, Any] = {}
    for status, why in sorted((operation.errors | _ALWAYS).items()):
        refusals[str(status)] = {
            "description": why,
            "content": {"application/json": {"schema": _named(shapes.ErrorReply)}},
        }
        if status in (429, 503):
            retry = {"description": "seconds", "schema": {"type": "string", "pattern": "^[0-9]+$"}}
            refusals[str(status)]["headers"] = {"Retry-After": retry}
    return refusals


def _named(shape: type[Any]) -> dict[str, Any]:
    return {"$ref": _SCHEMAS + shape.__name__}


def _components(model: str) -> dict[str, Any]:
    bodies = [operation.body for operation in OPERATIONS if operation.body is not None]
    requests = [body for body in bodies if issubclass(body, RequestBody)]
    schemas = {name: _with_nulls(schema) for name, schema in _schemas(requests).items()}
    schemas |= _schemas(body for body in bodies if body not in requests)
    for body in requests:
        held = schemas[body.__name__]
        if "model" not in held.get("properties", {}):
            continue
        needed = "model" in held.get("required", [])
        held["properties"]["model"] = {"title": "Model", "enum": [model] if needed else [model, None]}
        for field, accepted in body.neutral.items():
            schemas[body.__name__]["properties"][field] = {
                "enum": [*accepted, None],
                "description": "not supported: only what asks for nothing",
            }
    said: list[type[Any]] = [shapes.ErrorReply]
    for operation in OPERATIONS:
        said += [operation.reply] if operation.event is None else [operation.reply, operation.event]
    return schemas | _schemas(said)


def _schemas(kinds: Iterable[type[Any]]) -> dict[str, Any]:
    """The schemas of models and dataclasses, and of what they are made of, by name."""
    schemas: dict[str, Any] = {}
    for kind in kinds:
        schema = TypeAdapter(kind).json_schema(ref_template=_SCHEMAS + "{model}")
        schemas |= schema.pop("$defs", {})
        schemas[kind.__name__] = schema
    return schemas


def _with_nulls(schema: dict[str, Any]) -> dict[str, Any]:
    """Null means absent for every field that need not be there."""
    required = schema.get("required", [])
    properties = {
        name: field if name in required else _or_null(field) for name, field in schema.get("properties", {}).items()
    }
    return schema | ({"properties": properties} if properties else {})


def _or_null(field: dict[str, Any]) -> dict[str, Any]:
    if any(choice == {"type": "null"} for choice in field.get("anyOf", [])):
        return field
    notes = {name: field[name] for name in ("title", "description", "default") if name in field}
    rest = {name: value for name, value in field.items() if name not in notes}
    if notes.get("default") == []:  # as it is held here, which is not how it would be written
        del notes["default"]
    return notes | {"anyOf": [rest, {"type": "null"}]}
