"""A Kubernetes manifest against the schema that its custom resource definition publishes, strictly.

The definition is not ours to keep: fetch KubeRay's, and run this file as a script.

    git clone --depth 1 https://github.com/ray-project/kuberay
    python tests/crd_schema.py deploy/kuberay.yaml kuberay/ray-operator/config/crd/bases/ray.io_rayservices.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator


def strict(schema: Any) -> Any:
    """A structural schema as JSON Schema: unknown fields are errors there unless it says otherwise."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {}
    for key, value in schema.items():
        if key == "properties":  # names of fields, which may be those of keywords
            made[key] = {name: strict(field) for name, field in value.items()}
        elif key in ("default", "enum", "required", "description"):
            made[key] = value
        else:
            made[key] = strict(value)
    if "properties" in made and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def violations(document: dict[str, Any], definition: dict[str, Any]) -> list[str]:
    """What of a manifest its definition does not allow, each with the field's path."""
    version = document.get("apiVersion", "").rpartition("/")[2]
    schemas = {item["name"]: item["schema"]["openAPIV3Schema"] for item in definition["spec"]["versions"]}
    if document.get("kind") != definition["spec"]["names"]["kind"] or version not in schemas:
        return [f"{document.get('apiVersion')} {document.get('kind')} is not what this definition defines"]
    schema = strict(schemas[version])
    schema["properties"]["metadata"] = {"type": "object"}  # the API server's own
    return [
        f"{'.'.join(map(str, error.absolute_path)) or 'manifest'}: {error.message}"
        for error in Draft7Validator(schema).iter_errors(document)
    ]


def main() -> int:
    """Print what is wrong; exit 1 where something is."""
    manifest, definition = (yaml.safe_load(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:3])
    found = violations(manifest, definition)
    print("\n".join(found) or f"{sys.argv[1]}: valid {manifest['apiVersion']} {manifest['kind']}")  # noqa: T201
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
