"""Fields of requests that have more than one form: how each is read, and how the API's document describes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

INT64 = 2**63
_MAX_STOPS = 4
_MAX_STOP_CHARACTERS = 1024
_MAX_BIASES = 1024
_MOST_BIAS = 100
_STRING, _ID = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}


def _stops(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ValueError("expected a string or a list of strings")
    if not 1 <= len(stops) <= _MAX_STOPS:
        raise ValueError(f"expected 1 to {_MAX_STOPS} strings")
    if not all(1 <= len(stop) <= _MAX_STOP_CHARACTERS for stop in stops):
        raise ValueError(f"expected strings of 1 to {_MAX_STOP_CHARACTERS} characters")
    return stops


def _joined(content: Any) -> Any:
    """Text of a message given as parts."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.keys() != {"type", "text"} or part["type"] != "text":
            raise ValueError('expected a string or a list of {"type": "text", "text": ...}')
        if not isinstance(part["text"], str):
            raise ValueError("expected the text of each part to be a string")
    if not content:
        raise ValueError("expected at least one part")
    return "".join(part["text"] for part in content)


def _prompts(value: Any) -> list[str] | list[list[int]]:
    """Any of the four forms as a list of texts or a list of lists of ids."""
    whole = [value] if isinstance(value, str) or _is_ids(value) else value
    if not isinstance(whole, list) or not whole:
        raise ValueError("expected a non-empty string, list of strings, list of token ids, or list of such lists")
    if not (all(isinstance(item, str) for item in whole) or all(_is_ids(item) for item in whole)):
        raise ValueError("expected a string, a list of strings, a list of token ids, or a list of such lists")
    if not all(whole):
        raise ValueError("expected no prompt to be empty")
    return whole


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _biases(value: Any) -> tuple[tuple[int, float], ...]:
    """Pairs of token id and bias, by rising id."""
    if not isinstance(value, dict) or len(value) > _MAX_BIASES:
        raise ValueError(f"expected an object of at most {_MAX_BIASES} token ids and their biases")
    biases = {}
    for name, bias in value.items():
        # As JSON would write it, so that one id has one name; longer ones are in no vocabulary.
        if not (name.isascii() and name.isdecimal() and len(name) < 10) or str(int(name)) != name:
            raise ValueError(f"expected token ids as names, got {name!r:.80}")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not abs(bias) <= _MOST_BIAS:
            raise ValueError(f"expected biases from -{_MOST_BIAS} to {_MOST_BIAS}, got {bias!r:.80} for {name}")
        biases[int(name)] = float(bias)
    return tuple(sorted(biases.items()))


def _role(value: Any) -> Any:
    if value in ("tool", "function"):
        raise ValueError("expected system, developer, user or assistant; tools are not supported here")
    return value


def _several(item: dict[str, Any], **limits: int) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1, **limits}


_STOP = {"type": "string", "minLength": 1, "maxLength": _MAX_STOP_CHARACTERS}
_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}

Role = Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(_role)]
Stops = Annotated[
    list[str],
    BeforeValidator(_stops),
    WithJsonSchema({"anyOf": [_STOP, _several(_STOP, maxItems=_MAX_STOPS)]}),
]
Content = Annotated[str, BeforeValidator(_joined), WithJsonSchema({"anyOf": [{"type": "string"}, _several(_PART)]})]
Prompts = Annotated[
    list[str] | list[list[int]],
    PlainValidator(_prompts),
    WithJsonSchema({"anyOf": [_STRING, _several(_STRING), _several(_ID), _several(_several(_ID))]}),
]
Biases = Annotated[
    tuple[tuple[int, float], ...],
    PlainValidator(_biases),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": "^(0|[1-9][0-9]{0,8})$"},
            "additionalProperties": {"type": "number", "minimum": -_MOST_BIAS, "maximum": _MOST_BIAS},
            "maxProperties": _MAX_BIASES,
        }
    ),
]
TokenId = Annotated[int, Field(ge=0, lt=INT64)]
