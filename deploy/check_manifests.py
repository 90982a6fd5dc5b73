"""The files of this folder that few can try, against what their readers publish, strictly: unknown fields are errors.

    python deploy/check_manifests.py kuberay.yaml                     by KubeRay's definition, fetched: DEFINITION below
    python deploy/check_manifests.py kuberay.yaml --definition FILE   by that of the operator that you run
    python deploy/check_manifests.py aws.yaml gcp.yaml                by what the clouds' own Python packages say

Nothing of theirs is kept here. `--stamp` notes in `checked.json` what was valid, and `tests/test_deploy.py` fails where
a file is not any more what was checked. What Ray itself reads of these files is checked by the tests, too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonschema import Draft7Validator

DEPLOY = Path(__file__).resolve().parent
STAMPS = DEPLOY / "checked.json"
FETCH_S = 60
_AS_IT_IS = ("default", "enum", "required", "description")  # keywords whose values hold no schemas


class Definition(NamedTuple):
    """A published file, pinned."""

    version: str
    url: str
    sha256: str


DEFINITION = Definition(
    "KubeRay 1.7.0",
    "https://raw.githubusercontent.com/ray-project/kuberay/v1.7.0"
    "/ray-operator/config/crd/bases/ray.io_rayservices.yaml",
    "0a8fc325e6e22b9231c1f282b309555e2ecf94227ca20a03df3d1d9a403907ab",
)


class Unchecked(Exception):  # noqa: N818 - nothing is wrong with the file, as far as is known
    """A file could not be checked; the message says what is missing."""


# ---------------------------------------------------------------- Kubernetes: a custom resource definition


def strict(schema: Any) -> Any:
    """A structural schema as JSON Schema: unknown fields are errors there unless it says otherwise."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"], **({"pattern": schema["pattern"]} if "pattern" in schema else {})}
    made = {}
    for key, value in schema.items():
        if key == "properties":  # names of fields, which may be those of keywords
            made[key] = {name: strict(field) for name, field in value.items()}
        else:
            made[key] = value if key in _AS_IT_IS else strict(value)
    if "properties" in made and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def violations(document: dict[str, Any], definition: dict[str, Any]) -> list[str]:
    """What of a manifest its custom resource definition does not allow, each with the field's path."""
    version = document.get("apiVersion", "").rpartition("/")[2]
    schemas = {item["name"]: item["schema"]["openAPIV3Schema"] for item in definition["spec"]["versions"]}
    if document.get("kind") != definition["spec"]["names"]["kind"] or version not in schemas:
        return [f"{document.get('apiVersion')} {document.get('kind')} is not what this definition defines"]
    schema = strict(schemas[version])
    schema["properties"]["metadata"] = {"type": "object"}  # the API server's own
    return _errors(document, schema)


def fetched(definition: Definition) -> bytes:
    """A pinned file, from where it is published.

    Raises:
        Unchecked: it cannot be had, or is not the one that was pinned.
    """
    try:
        with urllib.request.urlopen(definition.url, timeout=FETCH_S) as reply:
            content: bytes = reply.read()
    except OSError as error:
        raise Unchecked(f"{definition.url}: {error}; --definition takes a file that you have") from error
    found = hashlib.sha256(content).hexdigest()
    if found != definition.sha256:
        raise Unchecked(f"{definition.url}: expected sha256 {definition.sha256}, got {found}")
    return content


# ---------------------------------------------------------------- clouds: the request that makes an instance


def of_botocore(model: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A shape of botocore's model of a service (its `service-2.json`) as JSON Schema."""
    return {**_ref(name), "definitions": {key: _shape(item) for key, item in model["shapes"].items()}}


def _shape(shape: Mapping[str, Any]) -> dict[str, Any]:
    match shape["type"]:
        case "structure":
            members = {name: _ref(member["shape"]) for name, member in shape["members"].items()}
            required = shape.get("required", [])
            return {"type": "object", "properties": members, "required": required, "additionalProperties": False}
        case "list":
            return {"type": "array", "items": _ref(shape["member"]["shape"])}
        case "map":
            return {"type": "object", "additionalProperties": _ref(shape["value"]["shape"])}
        case "string":
            return {"type": "string", **({"enum": shape["enum"]} if "enum" in shape else {})}
        case "integer" | "long":
            return {"type": "integer"}
        case "boolean":
            return {"type": "boolean"}
        case "float" | "double":
            return {"type": "number"}
        case _:
            return {}  # timestamps and bytes


def of_discovery(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A schema of a Google API's discovery document as JSON Schema."""
    return {**_ref(name), "definitions": {key: _discovered(item) for key, item in document["schemas"].items()}}


def _discovered(schema: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return _ref(schema["$ref"])
    if schema["type"] == "any":
        return {}
    made: dict[str, Any] = {"type": schema["type"]}
    if schema.get("format") in {"int64", "uint64"}:  # text in their JSON; numbers are taken, too
        made["type"] = ["string", "integer"]
    if "enum" in schema:
        made["enum"] = schema["enum"]
    if "items" in schema:
        made["items"] = _discovered(schema["items"])
    if schema["type"] == "object":
        made["properties"] = {key: _discovered(item) for key, item in schema.get("properties", {}).items()}
        rest = schema.get("additionalProperties")
        made["additionalProperties"] = _discovered(rest) if rest else False
    return made


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/definitions/{name}"}


# ---------------------------------------------------------------- our files


def checked_part(name: str) -> dict[str, Any]:
    """What of a file its publisher's schema speaks of; to KubeRay `serveConfigV2` is text, whose schema is Ray's."""
    document: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    if name == "kuberay.yaml":
        return {**document, "spec": {**document["spec"], "serveConfigV2": ""}}
    return {kind: node["node_config"] for kind, node in document["available_node_types"].items()}


def digest(name: str) -> str:
    """Of that part, however it is written down."""
    return hashlib.sha256(json.dumps(checked_part(name), sort_keys=True).encode()).hexdigest()


def check(name: str, definition: Path | None) -> tuple[str, list[str]]:
    """One file: by what it was checked, and what is wrong.

    Raises:
        Unchecked: there is nothing here to check it by.
    """
    if name == "kuberay.yaml":
        content = fetched(DEFINITION) if definition is None else definition.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        source = DEFINITION.version if found == DEFINITION.sha256 else f"a definition with sha256 {found}"
        return f"{source}, RayService", violations(checked_part(name), yaml.safe_load(content))
    source, schema, added = _aws() if name == "aws.yaml" else _gcp()
    return source, [
        f"{kind}.{error}" for kind, node in checked_part(name).items() for error in _errors(node | added, schema)
    ]


def _aws() -> tuple[str, dict[str, Any], dict[str, Any]]:
    try:
        import botocore
        from botocore.loaders import Loader
    except ImportError:
        raise Unchecked("needs `pip install botocore`") from None
    model = Loader().load_service_model("ec2", "service-2")
    # Ray adds how many; networks, keys and tags, too.
    return f"botocore {botocore.__version__}, RunInstances", of_botocore(model, "RunInstancesRequest"), _HOW_MANY


_HOW_MANY = {"MinCount": 1, "MaxCount": 1}


def _gcp() -> tuple[str, dict[str, Any], dict[str, Any]]:
    try:
        from googleapiclient.discovery_cache import get_static_doc
    except ImportError:
        raise Unchecked("needs `pip install google-api-python-client`") from None
    document = json.loads(get_static_doc("compute", "v1"))
    return f"Compute Engine's v1, revision {document['revision']}, Instance", of_discovery(document, "Instance"), {}


def _errors(document: Any, schema: dict[str, Any]) -> list[str]:
    return list(_told(Draft7Validator(schema).iter_errors(document)))


def _told(errors: Any) -> Iterator[str]:
    for error in errors:
        yield f"{'.'.join(map(str, error.absolute_path)) or 'manifest'}: {error.message:.300}"


def main(arguments: list[str] | None = None) -> int:
    """Print what is wrong; 1 where something is, or could not be looked at."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=["kuberay.yaml", "aws.yaml", "gcp.yaml"], metavar="FILE")
    parser.add_argument("--definition", type=Path, metavar="FILE", help="KubeRay's ray.io_rayservices.yaml")
    parser.add_argument("--stamp", action="store_true", help=f"note in {STAMPS.name} what is valid")
    options = parser.parse_args(arguments)
    failed = False
    for name in options.names:
        try:
            source, wrong = check(name, options.definition)
        except Unchecked as error:
            source, wrong = "", [f"not checked: {error}"]
        for line in wrong or [f"valid by {source}"]:
            print(f"{name}: {line}")
        failed |= bool(wrong)
        if options.stamp and not wrong:
            stamps = json.loads(STAMPS.read_text(encoding="utf-8")) if STAMPS.exists() else {}
            stamps[name] = {"by": source, "on": f"{datetime.now(UTC):%Y-%m-%d}", "sha256": digest(name)}
            STAMPS.write_text(json.dumps(stamps, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
