"""Holds a reply against the API's own document."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
from jsonschema import Draft202012Validator


def validator(document: dict[str, Any], reference: dict[str, str]) -> Draft202012Validator:
    """Checks against one of the document's schemas, given as a `$ref`."""
    return Draft202012Validator({**reference, "components": document["components"]})


def operation_of(document: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    """What the document says of one path and method."""
    fitting = [item for item in document["paths"] if re.fullmatch(re.sub(r"{\w+}", ".+", item), path)]
    described: dict[str, Any] = document["paths"][path if path in fitting else fitting[0]][method.lower()]
    return described


def check_reply(document: dict[str, Any], reply: httpx.Response) -> None:
    """Status, kind and body of a reply, or of each event of a stream, must be as its operation says."""
    path, method = reply.request.url.path, reply.request.method
    said = operation_of(document, path, method)["responses"][str(reply.status_code)]
    kind = reply.headers["content-type"].partition(";")[0]
    content = said["content"][kind]
    if kind == "application/json":
        validator(document, content["schema"]).validate(reply.json())
        return
    lines = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    assert lines
    shape, failure = content["schema"]["properties"]["data"]["anyOf"][0]["contentSchema"]["anyOf"]
    for line in lines:
        event = json.loads(line)
        validator(document, failure if "error" in event else shape).validate(event)
