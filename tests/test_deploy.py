"""The files of `deploy/`: against the schemas of those who read them, and against each other."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from paceline.actors.errors import ConfigError
from paceline.cluster import cli
from paceline.cluster.access import check_exposure, with_environment_keys
from paceline.cluster.config import ClusterConfig, parse_config

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Serve's own, when it is imported
    from ray.serve.schema import ServeDeploySchema

    from paceline.cluster.app import build_app

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
CLUSTERS = ("onprem.yaml", "aws.yaml", "gcp.yaml")
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    return document


def settings_of(served: dict[str, Any]) -> ClusterConfig:
    (application,) = served["applications"]
    return parse_config(application["args"])


def asked(config: ClusterConfig) -> list[dict[str, float]]:
    """What every actor asks of one node."""
    actors = [config.target.resources] * config.target.replicas
    actors += [config.selector.resources, *(drafter.resources for drafter in config.drafters)]
    return [{"CPU": item.num_cpus, "GPU": item.num_gpus, **item.custom} for item in actors]


def unplaced(config: ClusterConfig, nodes: list[dict[str, float]]) -> list[dict[str, float]]:
    """The actors that find no room when each takes the first node with enough left."""
    free = [dict(node) for node in nodes]
    homeless = []
    for actor in asked(config):
        wanted = {name: amount for name, amount in actor.items() if amount}
        home = next((node for node in free if all(node.get(n, 0) >= a for n, a in wanted.items())), None)
        if home is None:
            homeless.append(actor)
            continue
        for name, amount in wanted.items():
            home[name] -= amount
    return homeless


HEAD = {"node:__internal_head__": 1.0}


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_file_is_what_ray_up_takes(name: str) -> None:
    validate_config(prepare_config(load(name)))
    with pytest.raises(ValidationError, match="'min_worker' was unexpected"):
        validate_config(prepare_config(load(name) | {"min_worker": 1}))


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_file_starts_ray_as_targets_need_it(name: str) -> None:
    """What the first real runs showed to be missing."""
    document = load(name)
    head, worker = (document[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker"))
    for command in (head, worker):
        assert "unset OMP_NUM_THREADS" in command
        assert {"--node-manager-port=6380", "--object-manager-port=6381"} <= set(command.split())
    assert "RAY_worker_niceness=0" in head
    assert "RAY_health_check_period_ms=1000" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--address=$RAY_HEAD_IP:6379" in worker
    assert any("PYTHONSAFEPATH=1" in command for command in document["setup_commands"])
    assert document["file_mounts"] == {"~/paceline": "."}


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_the_clouds_node_types_have_room_for_what_is_served(name: str) -> None:
    document = load(name)
    types = document["available_node_types"]
    cpus = {"CPU": 8}  # of the AWS types, which Ray finds out by itself
    head = {**cpus, **types[document["head_node_type"]]["resources"], **HEAD}
    workers = [{**cpus, **kind["resources"]} for kind in types.values() for _ in range(kind["min_workers"])]
    assert workers, "drafters are there from the start"
    assert unplaced(settings_of(load("serve.yaml")), [head, *workers]) == []
    assert "drafter" not in head, "no drafter takes the target's host"


def test_the_hosts_on_premise_have_room_for_what_is_served() -> None:
    document = load("onprem.yaml")
    head, worker = (
        {"CPU": 2, **json.loads(re.search(r"--resources='(.*?)'", document[f"{kind}_start_ray_commands"][-1])[1])}
        for kind in ("head", "worker")
    )
    nodes = [{**head, **HEAD}, *[worker] * len(document["provider"]["worker_ips"])]
    assert unplaced(settings_of(load("serve.yaml")), nodes) == []
    assert len(unplaced(settings_of(load("serve.yaml")), nodes[:-1])) == 2, "the hosts are full: none doubles up"


def test_the_serve_config_is_what_serve_deploy_takes() -> None:
    document = load("serve.yaml")
    schema = ServeDeploySchema.model_validate(document)
    assert schema.applications[0].import_path == f"{build_app.__module__}:{build_app.__name__}"
    config = settings_of(document)
    assert (config.http.host, config.http.port) == (schema.http_options.host, schema.http_options.port)
    assert config.network.token is None, "a secret that everybody can read is none"
    for drafter in config.drafters:
        if "model" in drafter.options:
            assert (ROOT / drafter.options["model"].removeprefix("~/paceline/")).is_dir()


def test_kuberay_serves_the_same_on_a_gpu() -> None:
    document, plain = load("kuberay.yaml"), load("serve.yaml")
    served = yaml.safe_load(document["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(served)
    target = served["applications"][0]["args"]["target"]
    assert target.pop("device") == "cuda"
    assert target["resources"].pop("num_gpus") == 1
    assert served == plain


def test_kuberays_groups_have_room_for_what_is_served() -> None:
    document = load("kuberay.yaml")
    cluster = document["spec"]["rayClusterConfig"]
    groups = cluster["workerGroupSpecs"]
    nodes = [pod_resources(cluster["headGroupSpec"]) | HEAD]
    nodes += [pod_resources(group) for group in groups for _ in range(group["minReplicas"])]
    assert unplaced(settings_of(yaml.safe_load(document["spec"]["serveConfigV2"])), nodes) == []
    assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in groups)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cluster["rayVersion"] == PINS["ray"]
    for group in (cluster["headGroupSpec"], *groups):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        (container,) = pod["containers"]
        assert container["image"].endswith(f"/paceline:{project['version']}-cuda")
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/var/cache/paceline"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def pod_resources(group: dict[str, Any]) -> dict[str, float]:
    """What Ray finds in a pod of a group: as KubeRay tells it, or says on its own."""
    (container,) = group["template"]["spec"]["containers"]
    limits, start = container["resources"]["limits"], group["rayStartParams"]
    custom = json.loads(json.loads(start["resources"])) if "resources" in start else {}
    cpus = float(start.get("num-cpus", limits["cpu"]))
    return {"CPU": cpus, "GPU": float(limits.get("nvidia.com/gpu", 0)), **custom}


DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def copied() -> list[str]:
    """What the image takes from the build's context."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_the_image_copies_what_is_there_and_not_ignored() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert sorted(copied()) == sorted(let_in), "all that it copies, and nothing else, is sent to the build"
    for source in copied():
        assert (ROOT / source).exists(), source
    shut_out = [rule for rule in rules[1:] if not rule.startswith("!")]
    for path in (ROOT / "zoo").rglob("*.safetensors"):
        assert not any(fnmatch.fnmatch(str(path.relative_to(ROOT)), rule) for rule in shut_out)


def test_the_image_installs_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {folder.split("/")[0] for folder in project["tool"]["setuptools"]["package-dir"].values()}
    assert folders | {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]} <= set(
        copied()
    )
    version = re.search(r"^ARG PYTHON=3\.(\d+)$", DOCKERFILE, re.MULTILINE)
    assert version is not None
    assert int(version[1]) >= int(project["project"]["requires-python"].removeprefix(">=3."))


def test_the_image_runs_without_root_away_from_the_sources() -> None:
    lines = DOCKERFILE.splitlines()
    (user,) = (line.split()[1] for line in lines if line.startswith("USER "))
    assert f"--uid {user}" in DOCKERFILE
    assert int(user) > 0
    assert [line for line in lines if line.startswith("WORKDIR ")][-1] == "WORKDIR /srv/paceline"
    assert "PYTHONSAFEPATH=1" in DOCKERFILE.split("AS runtime-cpu")[1]
    assert "127.0.0.1:8000/ready" in DOCKERFILE
    assert "VOLUME /var/cache/paceline" in lines
    assert "PACELINE_CACHE=/var/cache/paceline" in DOCKERFILE
    stages = set(re.findall(r" AS runtime-(\w+)$", DOCKERFILE, re.MULTILINE))
    assert stages == {"cpu", "cuda"}, "the values of the argument DEVICE"


def run_lines(page: Path) -> list[list[str]]:
    """The words of every `docker run` of a file that begins a line, or a comment."""
    lines = re.findall(r"^(?:#\s+)?(docker run .+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_the_image_is_run_alike_in_its_header_and_in_the_document_and_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    (header,), (written,) = run_lines(DEPLOY / "Dockerfile"), run_lines(ROOT / "docs" / "cluster.md")
    assert header == written
    variables = [written[place + 1] for place, word in enumerate(written) if word == "-e"]
    (command,) = re.findall(r"^CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)
    serve = cli.parser().parse_args(json.loads(command)[1:])
    settings = parse_config(load(Path(serve.file).name))
    with pytest.raises(ConfigError, match="PACELINE_API_KEYS"):
        check_exposure(with_environment_keys(settings).http, serve.host)
    for variable in variables:
        monkeypatch.setenv(*variable.split("=", 1))
    check_exposure(with_environment_keys(settings).http, serve.host)
