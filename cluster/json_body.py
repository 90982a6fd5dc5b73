"""A request's body as a JSON object, more strictly than Python reads it. `api` calls it.

NaN and infinities, lone surrogates, and a key given twice are refused by name: each would turn up later as something
stranger than a 400. So is a body that is not announced as JSON: a browser sends those to any address, a local server's
included, for any page that asks; JSON it sends only where the server agrees beforehand, which this one never does.
"""

from __future__ import annotations

import json
import math
from typing import Any

from paceline.cluster.http_errors import RefusedRequest, UnsupportedMediaType

_CODE = "invalid_json"
_MAX_DEPTH = 32
_JSON = "application/json"


def check_media_type(header: str) -> None:
    """See that a `Content-Type` says JSON, whatever its parameters.

    Raises:
        UnsupportedMediaType: it says something else, or is empty.
    """
    if header.partition(";")[0].strip().lower() != _JSON:
        raise UnsupportedMediaType(f"Content-Type: expected {_JSON}, got {header[:80] or 'none'!r}")


def parse_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RefusedRequest: it is not JSON in UTF-8, not an object, or holds a value that JSON has not.
    """
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_once)
        if not isinstance(document, dict):
            raise RefusedRequest(f"body: expected a JSON object, got {_kind(document)}", code=_CODE)
        _check(document, "", _MAX_DEPTH)
    except UnicodeDecodeError as error:
        raise RefusedRequest(f"body: is not UTF-8 (byte {error.start})", code=_CODE) from None
    except json.JSONDecodeError as error:
        raise RefusedRequest(f"body: is not JSON: {error}", code=_CODE) from None
    except ValueError as error:  # an integer of thousands of digits
        raise RefusedRequest(f"body: is not JSON that can be read: {error}", code=_CODE) from None
    except RecursionError:
        raise RefusedRequest("body: is nested too deeply", code=_CODE) from None
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, value in pairs:
        if name in document:
            raise RefusedRequest(f"{name}: is given twice", name, _CODE)
        document[name] = value
    return document


def _check(value: Any, path: str, depth: int) -> None:
    if depth == 0:
        raise RecursionError
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise RefusedRequest(f"{path}: expected a finite number, got {value}", path)
    elif isinstance(value, dict):
        for name, item in value.items():
            inner = f"{path}.{name}" if path else name
            _check_text(name, inner)
            _check(item, inner, depth - 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if not isinstance(item, int):
                _check(item, f"{path}[{index}]", depth - 1)


def _check_text(text: str, path: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RefusedRequest(f"{path}: holds a lone surrogate at character {error.start}", path) from None


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
