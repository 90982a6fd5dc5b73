"""The command line: what each argument reaches, one line per error, and exit statuses."""

from __future__ import annotations

import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from paceline.actors.errors import ConfigError, ModelSourceError, NotReady
from paceline.actors.model_source import ModelFolder
from paceline.cluster import chat_command, cli, serve_command
from paceline.cluster.config import ClusterConfig, load_config
from paceline.cluster.joined_ray import JoinedRay
from paceline.cluster.local_ray import LocalRay
from paceline.cluster.serve_command import ray_host

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ClusterConfig, dict[str, Any]]]:
    """What `paceline serve` would have served."""
    calls: list[tuple[ClusterConfig, dict[str, Any]]] = []

    def serve(config: ClusterConfig, **options: Any) -> int:
        calls.append((config, options))
        return 0

    monkeypatch.setattr(serve_command, "serve", serve)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return calls


def write(folder: Path, text: str) -> str:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return str(path)


def test_models_beside_the_file_are_found_from_anywhere(
    tmp_path: Path, served: list[tuple[ClusterConfig, dict[str, Any]]]
) -> None:
    text = """
target: {model: ./target}
drafters:
  - {name: near, kind: head, options: {model: ../zoo/near}}
  - {name: far, kind: lm, options: {model: org/far}}
  - {name: none, kind: ngram}
"""
    (tmp_path / "deploy").mkdir()
    assert cli.main(["serve", write(tmp_path / "deploy", text)]) == 0
    config = served[0][0]
    assert config.target.model == str(tmp_path / "deploy" / "target")
    assert [drafter.options.get("model") for drafter in config.drafters] == [
        str(tmp_path / "zoo/near"),
        "org/far",
        None,
    ]


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("paceline: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"paceline {metadata.version('paceline')}\n"


def test_serve_takes_the_file_and_what_overrides_it(served: list[Any], tmp_path: Path) -> None:
    file = write(tmp_path, "http: {port: 9001, host: 127.0.0.2}")
    assert cli.main(["serve", file]) == 0
    assert cli.main(["serve", file, "--port", "9002", "--host", "0.0.0.0", "--address", "auto", "--timeout", "9"]) == 0
    (plain, first), (overridden, second) = served
    assert (plain.http.host, plain.http.port) == ("127.0.0.2", 9001)
    assert first == {"ray_address": None, "ready_s": 120.0}
    assert (overridden.http.host, overridden.http.port) == ("0.0.0.0", 9002)
    assert second == {"ray_address": "auto", "ready_s": 9.0}


def test_serve_joins_the_ray_that_the_environment_names(
    served: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    cli.main(["serve", write(tmp_path, "")])
    cli.main(["serve", write(tmp_path, ""), "--address", "local"])
    assert [options["ray_address"] for _, options in served] == ["10.0.0.1:6379", "local"]


@pytest.mark.parametrize("written", ["1e-3", "1.0e-3", "0.001", "+1E-03", ".1e-2", "0.01e-1", "1.e-3"])
def test_numbers_are_read_as_people_write_them(written: str, tmp_path: Path) -> None:
    assert load_config(
        write(tmp_path, f"selector: {{prompt_weight: {written}}}")
    ).selector.prompt_weight == pytest.approx(0.001)
    with pytest.raises(ConfigError, match=r"target\.name|target: name"):
        load_config(write(tmp_path, "target: {name: 1e3}"))  # a number is no text; quoted it is one
    assert load_config(write(tmp_path, "target: {name: '1e3'}")).target.name == "1e3"


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("http: {prot: 1}", [], "http.prot: Extra inputs are not permitted"),
        ("", ["--port", "70000"], "http.port: Input should be less than or equal to 65535 (got 70000)"),
        ("- a list", [], "expected a mapping of settings, got list"),
        ("http: [", [], "is not YAML"),
        ("http: {port: 1, port: 2}", [], "'port' is given twice"),
        ("speculation: {max_draft: {{ x }}}", [], "is not YAML"),
        ("target: {name: 2026-13-45}", [], "is not YAML (month must be in 1..12)"),
        ("http: {port: true}", [], "http: port: got True; expected a whole number"),
        ("target: {name: ''}", [], "target.name: String should have at least 1 character"),
        ("speculation: {deadline_ms: .inf}", [], "speculation.deadline_ms: Input should be"),
        ("target: {resources: {custom: {a: -1}}}", [], "target.resources.custom.a: Input should be greater"),
        ("drafters: [{name: plain, kind: ngram}]", [], "the name 'plain' is one of paceline's own"),
        ("drafters: [{name: a, kind: none}]", [], "drafters.0 (a): kind: 'none' is not a drafter kind"),
        ("drafters: [{name: a, kind: ngram, options: {x: 1}}]", [], "drafters.0 (a): options.x"),
    ],
)
def test_wrong_settings_are_one_line(
    text: str, arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", write(tmp_path, text), *arguments]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert "Traceback" not in captured.err


def test_a_missing_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "no-such.yaml"]) == 2
    assert "no-such.yaml: cannot be read (No such file or directory)" in failure(capsys)


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "latin.yaml").write_bytes("target: {name: caf\u00e9}".encode("latin-1"))
    for path in (str(tmp_path / "latin.yaml"), "no\0path"):
        assert cli.main(["serve", path]) == 2
        assert "cannot be read as UTF-8" in failure(capsys)


def test_a_taken_port_is_refused_before_anything_heavy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("paceline.actors.model_source.resolve", lambda *_, **__: pytest.fail("looked for the model"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert cli.main(["serve", write(tmp_path, ""), "--port", str(port)]) == 2
    error = failure(capsys)
    assert str(port) in error
    assert f"--port {port + 1}" in error


@pytest.mark.parametrize(
    "arguments", [[], ["serve"], ["serve", "f", "--timeout", "-1"], ["chat", "--max-tokens", "x"], ["fly"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: paceline" in capsys.readouterr().err


def test_pull_prints_where_the_model_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    assert cli.main(["pull", str(folder)]) == 0
    assert capsys.readouterr().out == f"tiny: {folder}\n"


def test_pull_of_nonsense_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pull", "no such model!"]) == 2
    assert "'no such model!'" in failure(capsys)


def test_nobody_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["status"], ["chat", "--once", "hello"]):
        assert cli.main([*command, "--url", "http://127.0.0.1:1"]) == 2
        assert "nothing answers at http://127.0.0.1:1; start it with `paceline serve FILE`" in failure(capsys)


def test_a_url_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--url", "localhost:8000"]) == 2
    assert "--url: 'localhost:8000'; expected something like http://" in failure(capsys)


def test_chat_is_given_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def chat(url: str, **options: Any) -> int:
        calls.append((url, options))
        return 0

    monkeypatch.setattr(chat_command, "chat", chat)
    cli.main(
        ["chat", "--url", "http://h:1", "--model", "m", "--temperature", "0.5", "--max-tokens", "9", "--once", "hi"]
    )
    assert calls == [("http://h:1", {"model": "m", "temperature": 0.5, "max_tokens": 9, "once": "hi"})]


def test_ctrl_c_has_its_own_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(chat_command, "chat", interrupted)
    assert cli.main(["chat"]) == 130


def test_the_local_ray_has_room_for_all_that_is_asked() -> None:
    document = {
        "target": {"replicas": 3, "resources": {"num_cpus": 2, "custom": {"big": 1}}},
        "drafters": [
            {"name": name, "kind": "ngram", "resources": {"num_cpus": 0.5, "custom": {"drafter": 1}}} for name in "ab"
        ],
    }
    host = ray_host(ClusterConfig.model_validate(document), None)
    assert isinstance(host, LocalRay)
    assert vars(host)["_num_cpus"] == 3 * 2 + 1 + 2
    assert vars(host)["_resources"] == {"big": 3, "drafter": 2}
    assert isinstance(ray_host(ClusterConfig(), "auto"), JoinedRay)
    assert isinstance(ray_host(ClusterConfig(), "local"), LocalRay)


def test_the_model_is_fetched_only_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def resolve(source: str, *, fetch: bool = True, progress: bool = True) -> ModelFolder:
        asked.append(fetch)
        if not fetch:
            raise ModelSourceError("not here")
        raise NotReady("far enough")

    monkeypatch.setattr("paceline.actors.model_source.resolve", resolve)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    config = ClusterConfig.model_validate({"http": {"port": port}})
    with pytest.raises(NotReady, match="far enough"):
        serve_command.serve(config, console=Console(quiet=True))
    assert asked == [False, True]


def test_make_serve_passes_the_port_on() -> None:
    def recipe(*arguments: str) -> str:
        command = ["make", "--no-print-directory", "-n", "serve", *arguments]
        return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout

    assert "paceline serve deploy/local.yaml --port 8001" in recipe("PORT=8001")
    assert "--port" not in recipe("PORT=")
