"""How the files that few can try are held against published schemas, with schemas of our own; and that they are still
those that were held against the real ones, which are not kept here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import check_manifests
import pytest
import yaml
from check_manifests import DEFINITION, STAMPS, Definition, Unchecked, digest, fetched, of_botocore, of_discovery
from jsonschema import Draft7Validator

FIELDS: dict[str, Any] = {
    "spec": {
        "type": "object",
        "required": ["properties"],
        "properties": {
            "properties": {"type": "integer"},
            "port": {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "memory": {"x-kubernetes-int-or-string": True, "pattern": "^[0-9]+([KMG]i)?$"},
            "open": {"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": True},
        },
    },
    "apiVersion": {"type": "string"},
    "kind": {"type": "string"},
    "metadata": {"type": "object"},
}
VERSION = {"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "properties": FIELDS}}}
THINGS = {"spec": {"names": {"kind": "Thing"}, "versions": [VERSION]}}
THING: dict[str, Any] = {"apiVersion": "x/v1", "kind": "Thing", "metadata": {"name": "a"}}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"spec": {"properties": 1, "port": "http"}}, []),
        ({"spec": {"properties": 1, "open": {"any": 1}}}, []),
        ({"spec": {"properties": 1, "memory": "4Gi"}}, []),
        ({"spec": {"properties": 1, "memory": "4GiB"}}, ["spec.memory: '4GiB' does not match '^[0-9]+([KMG]i)?$'"]),
        ({"spec": {}}, ["spec: 'properties' is a required property"]),
        (
            {"spec": {"properties": 1, "prot": 1}},
            ["spec: Additional properties are not allowed ('prot' was unexpected)"],
        ),
        ({"spec": {"properties": 1}, "kind": "Other"}, ["x/v1 Other is not what this definition defines"]),
    ],
)
def test_a_manifest_against_its_definition(changed: dict[str, Any], expected: list[str]) -> None:
    assert check_manifests.violations(THING | changed, THINGS) == expected


def test_what_is_fetched_is_what_was_pinned(tmp_path: Path) -> None:
    published = tmp_path / "crd.yaml"
    published.write_text("spec: {}")
    pinned = Definition("1", published.as_uri(), hashlib.sha256(b"spec: {}").hexdigest())
    assert fetched(pinned) == b"spec: {}"
    published.write_text("spec: {more: 1}")
    with pytest.raises(Unchecked, match=f"expected sha256 {pinned.sha256}, got"):
        fetched(pinned)
    published.unlink()
    with pytest.raises(Unchecked, match="--definition takes a file that you have"):
        fetched(pinned)


SHAPES = {
    "Run": {
        "type": "structure",
        "required": ["Count"],
        "members": {"Count": {"shape": "Int"}, "Disks": {"shape": "Disks"}, "Tags": {"shape": "Tags"}},
    },
    "Int": {"type": "integer"},
    "Text": {"type": "string"},
    "Kind": {"type": "string", "enum": ["gp2", "gp3"]},
    "Disks": {"type": "list", "member": {"shape": "Disk"}},
    "Disk": {"type": "structure", "members": {"Kind": {"shape": "Kind"}, "type": {"shape": "Text"}}},
    "Tags": {"type": "map", "key": {"shape": "Text"}, "value": {"shape": "Text"}},
}
SCHEMAS = {
    "Run": {
        "id": "Run",
        "type": "object",
        "properties": {
            "size": {"type": "string", "format": "int64"},
            "disks": {"type": "array", "items": {"$ref": "Disk"}},
            "tags": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    },
    "Disk": {
        "id": "Disk",
        "type": "object",
        "properties": {"kind": {"type": "string", "enum": ["gp2", "gp3"]}, "type": {"type": "string"}},
    },
}


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"Count": 1, "Disks": [{"Kind": "gp3", "type": "x"}], "Tags": {"any": "x"}}, None),
        ({}, ""),
        ({"Count": "1"}, "Count"),
        ({"Count": 1, "Disk": []}, ""),
        ({"Count": 1, "Disks": {"Kind": "gp3"}}, "Disks"),
        ({"Count": 1, "Disks": [{"Kind": "gp3"}, {"Kind": "gp4"}]}, "Disks.1.Kind"),
        ({"Count": 1, "Disks": [{"Kin": "gp3"}]}, "Disks.0"),
        ({"Count": 1, "Tags": {"any": 1}}, "Tags.any"),
    ],
)
def test_a_request_against_amazons_shapes(given: dict[str, Any], path: str | None) -> None:
    assert wrong(given, of_botocore({"shapes": SHAPES}, "Run")) == path


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"size": 40, "disks": [{"kind": "gp3", "type": "x"}], "tags": {"any": "x"}}, None),
        ({"size": "40"}, None),
        ({"size": 1.5}, "size"),
        ({"disk": []}, ""),
        ({"disks": {"kind": "gp3"}}, "disks"),
        ({"disks": [{"kind": "gp4"}]}, "disks.0.kind"),
        ({"disks": [{"kin": "gp3"}]}, "disks.0"),
        ({"tags": {"any": 1}}, "tags.any"),
    ],
)
def test_a_request_against_googles_schemas(given: dict[str, Any], path: str | None) -> None:
    assert wrong(given, of_discovery({"schemas": SCHEMAS}, "Run")) == path


def wrong(given: dict[str, Any], schema: dict[str, Any]) -> str | None:
    """Where the one error is; None where there is none."""
    found = list(Draft7Validator(schema).iter_errors(given))
    assert len(found) <= 1
    return ".".join(map(str, found[0].absolute_path)) if found else None


def test_it_says_what_is_wrong_and_stamps_only_what_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_manifests, "STAMPS", tmp_path / "checked.json")
    definition = tmp_path / "crd.yaml"
    fields = {**FIELDS, "spec": {"type": "object"}}
    services = {"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "properties": fields}}}
    definition.write_text(yaml.safe_dump({"spec": {"names": {"kind": "RayService"}, "versions": [services]}}))
    asked = ["kuberay.yaml", "--stamp", "--definition", str(definition)]
    assert check_manifests.main(asked) == 0
    found = hashlib.sha256(definition.read_bytes()).hexdigest()
    assert capsys.readouterr().out == f"kuberay.yaml: valid by a definition with sha256 {found}, RayService\n"
    stamp = json.loads((tmp_path / "checked.json").read_text())["kuberay.yaml"]
    assert stamp["sha256"] == digest("kuberay.yaml")
    (tmp_path / "checked.json").unlink()
    definition.write_text(yaml.safe_dump(THINGS))
    assert check_manifests.main(asked) == 1
    assert capsys.readouterr().out == "kuberay.yaml: ray.io/v1 RayService is not what this definition defines\n"
    assert not (tmp_path / "checked.json").exists()


@pytest.mark.parametrize("name", ["kuberay.yaml", "aws.yaml", "gcp.yaml"])
def test_it_is_what_was_checked(name: str) -> None:
    stamp = json.loads(STAMPS.read_text(encoding="utf-8"))[name]
    assert stamp["sha256"] == digest(name), f"changed: python deploy/check_manifests.py {name} --stamp"
    if name == "kuberay.yaml":
        assert stamp["by"].startswith(f"{DEFINITION.version},")
