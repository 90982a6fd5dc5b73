"""`paceline doctor`: each check tells good from bad, and says what to do about bad."""

from __future__ import annotations

import io
import json
import shutil
import socket
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console

from paceline.actors.errors import ConfigError
from paceline.cluster import doctor_command
from paceline.cluster.cli import main
from paceline.cluster.config import ClusterConfig, load_config
from paceline.cluster.doctor_command import Check, doctor, examine
from paceline.cluster.serve_command import serve

Usage = namedtuple("Usage", "total used free")
Memory = namedtuple("Memory", "total available")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PACELINE_CACHE", str(folder))
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings whose port is free."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    path = tmp_path / "cluster.yaml"
    path.write_text(f"http: {{port: {port}}}")
    return path


def by_name(checks: list[Check]) -> dict[str, Check]:
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def test_a_good_machine_has_no_failure(config: Path) -> None:
    checks = by_name(examine(config))
    assert [check for check in checks.values() if check.state == "fail"] == []
    assert checks["ray"].found.startswith("2.60.")
    assert checks["torch"].found.startswith(torch.__version__)
    assert "loopback round trip" in checks["grpc"].found
    assert "is free" in checks["http port"].found


def test_json_is_one_document_and_goes_with_the_exit_status(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--config", str(config), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert {"name", "state", "found", "advice"} == set(document["checks"][0])
    config.write_text("drafters: 7")
    assert main(["doctor", "--config", str(config), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    settings = document["checks"][0]
    assert settings["state"] == "fail"
    assert "drafters" in settings["found"]
    assert len(document["checks"]) == 13  # wrong settings do not stop the other checks


@pytest.mark.parametrize(
    ("settings", "check", "words"),
    [
        ("http: {host: 0.0.0.0, port: PORT}", "settings", "0.0.0.0"),
        (
            "http: {port: PORT}\ntarget: {resources: {num_gpus: 99}}",
            "resources",
            "target needs num_gpus 99; free: num",
        ),
        (
            "http: {port: PORT}\ndrafters: [{name: a, kind: ngram, resources: {num_gpus: 99.5}}]",
            "resources",
            "drafter a needs num_gpus 99.5; free: num_gpus",
        ),
        (
            "http: {port: PORT}\ndrafters: [{name: a, kind: early_exit, device: 'cuda:99'}]",
            "resources",
            "drafter a needs device 'cuda:99'",
        ),
    ],
)
def test_what_serve_refuses_doctor_refuses(
    config: Path, settings: str, check: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "PACELINE_API_KEYS"):
        monkeypatch.delenv(name, raising=False)
    port = config.read_text().rpartition(" ")[2].rstrip("}")
    config.write_text(settings.replace("PORT", port))
    found = by_name(examine(config))[check]
    assert found.state == "fail"
    assert words in found.found
    assert found.advice
    if check == "settings":
        with pytest.raises(ConfigError) as refused:
            serve(load_config(config), console=Console(file=io.StringIO()))
        assert str(refused.value) == found.found


def test_lines_carry_the_advice(config: Path) -> None:
    out = io.StringIO()
    doctor(config, console=Console(file=out, width=200))
    shown = out.getvalue()
    assert "! model" in shown
    assert "`paceline pull embedded` fetches it" in shown


def test_a_taken_port_fails(config: Path) -> None:
    settings = doctor_command.load_config(config)
    with socket.create_server(("127.0.0.1", settings.http.port)):
        check = doctor_command.check_http(settings)
    assert check.state == "fail"
    assert f"--port {settings.http.port + 1}" in check.found


def test_a_device_that_is_not_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert doctor_command.check_devices(ClusterConfig()).state == "ok"
    wanted = ClusterConfig.model_validate({"drafters": [{"name": "a", "kind": "lm", "device": "cuda:1"}]})
    check = doctor_command.check_devices(wanted)
    assert (check.state, "cuda:1" in check.found) == ("fail", True)


@pytest.mark.parametrize(
    ("flags", "state", "said"),
    [
        ({"avx2", "avx512_bf16", "amx_bf16"}, "ok", "AMX"),
        ({"avx2", "avx512_bf16"}, "ok", "AVX512-BF16"),
        ({"avx2"}, "warn", "no bfloat16"),
        ({"sse2"}, "warn", "no AVX2"),
        (set(), "ok", "logical cores"),
    ],
)
def test_the_processor_says_what_to_expect(
    flags: set[str], state: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_command, "_cpu_flags", lambda: flags)
    check = doctor_command.check_processor()
    assert check.state == state
    assert said in check.found


@pytest.mark.parametrize(("free_gib", "state"), [(1.5, "fail"), (3, "warn"), (8, "ok")])
def test_memory(free_gib: float, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(16 * 2**30, int(free_gib * 2**30)))
    assert doctor_command.check_memory().state == state


@pytest.mark.parametrize(("free_mib", "state"), [(64, "warn"), (256, "ok")])
def test_shared_memory(free_mib: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, free_mib * 2**20))
    assert doctor_command.check_shared_memory().state == state


def test_disk_is_looked_at_where_the_cache_will_be(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def usage(place: Path) -> Usage:
        asked.append(Path(place))
        return Usage(0, 0, 2**29)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    check = doctor_command.check_disk()
    assert check.state == "warn"
    assert cache.parent in asked  # the cache itself is not there yet


def test_a_model_folder_is_found_or_not(tmp_path: Path) -> None:
    settings = ClusterConfig.model_validate({"target": {"model": str(tmp_path)}})
    check = doctor_command.check_model(settings)
    assert check.state == "warn"
    assert "config.json is missing" in check.found
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert doctor_command.check_model(settings).state == "ok"


def test_a_check_that_breaks_is_a_failed_check(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ImportError("libtorch.so is not there")

    monkeypatch.setattr(torch, "ones", broken)
    check = by_name(examine(config))["torch"]
    assert check.state == "fail"
    assert "libtorch.so is not there" in check.found
