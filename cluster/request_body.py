"""A JSON body as a request: what is understood, and how the rest is refused. The bodies of all endpoints are of these.

Every field either has an effect or is refused by name. Fields that clients send out of habit are let through where
their value asks for nothing (`best_of: 1`); null means absent. Types are strict: no "5" for 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from paceline.cluster.http_errors import RefusedRequest
from paceline.cluster.json_body import check_media_type, parse_object

_LONG_BODY = 64 * 1024  # bytes; a longer one is parsed on another thread
Neutral = Mapping[str, tuple[Any, ...]]


class Strict(BaseModel):
    """An object of which every field is known, has the right type, and stays as it is."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RequestBody(Strict):
    """A whole body."""

    neutral: ClassVar[Neutral] = {}  # values that ask for nothing that is not done anyway, of fields not supported

    def check(self) -> None:
        """What no field can see alone.

        Raises:
            RefusedRequest: two fields contradict one another.
        """


R = TypeVar("R", bound=RequestBody)


async def read_request(request: Request, kind: type[R]) -> R:
    """The body of an HTTP request.

    Raises:
        RefusedRequest: it is not announced as JSON, is not JSON, or is refused by `parse_request`.
    """
    check_media_type(request.headers.get("content-type", ""))
    body = await request.body()

    def parse() -> R:
        return parse_request(kind, parse_object(body))

    return await asyncio.to_thread(parse) if len(body) > _LONG_BODY else parse()


def parse_request(kind: type[R], document: dict[str, Any]) -> R:
    """Check a JSON object.

    Raises:
        RefusedRequest: a field is unknown, missing, of the wrong type, out of range or not supported.
    """
    given = _without_nulls(document)
    for name in [name for name in given if name in kind.neutral]:
        value = given.pop(name)
        if not any(_same(value, accepted) for accepted in kind.neutral[name]):
            raise RefusedRequest(f"{name}: {value!r:.80} is not supported here", name, "unsupported_parameter")
    try:
        request = kind.model_validate(given)
    except ValidationError as error:
        raise _refusal(error) from None
    request.check()
    return request


def _without_nulls(value: Any) -> Any:
    """Null means absent, in objects at every depth; elements of lists stay where they are."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) if isinstance(item, dict) else item for item in value]
    return value


def _same(value: Any, accepted: Any) -> bool:
    """Equal, and true is not 1."""
    return isinstance(value, bool) == isinstance(accepted, bool) and bool(value == accepted)


def _refusal(error: ValidationError) -> RefusedRequest:
    item = error.errors(include_url=False)[0]
    param = ""
    for part in item["loc"]:
        param += f"[{part}]" if isinstance(part, int) else f".{part}" if param else part
    match item["type"]:
        case "missing":
            return RefusedRequest(f"{param}: is required", param, "missing_required_parameter")
        case "extra_forbidden":
            return RefusedRequest(f"{param}: is not a field that is known here", param, "unknown_parameter")
        case _:
            return RefusedRequest(f"{param}: {_expectation(item)} (got {item['input']!r:.80})", param)


def _expectation(item: ErrorDetails) -> str:
    """What a field should have been, in a client's words rather than in those of our classes."""
    limits = item.get("ctx", {})
    match item["type"]:
        case "model_type":
            return "expected an object"
        case "too_short":
            return f"expected at least {limits['min_length']} item(s)"
        case "too_long":
            return f"expected at most {limits['max_length']} item(s)"
        case "string_too_long":
            return f"expected at most {limits['max_length']} characters"
        case _:
            message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            return message if message.startswith("expected") else f"expected {message}"
