"""The local Ray for real: it ends whole, ends when interrupted half-way, and leaves another Ray alone."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from paceline.actors.errors import ConfigError, NotReady
from paceline.cluster import local_ray
from paceline.cluster.config import parse_config
from paceline.cluster.http_port import check_port
from paceline.cluster.joined_ray import JoinedRay
from paceline.cluster.local_ray import connecting
from paceline.cluster.serve_command import with_absolute_folders
from paceline.cluster.served_process import ServedProcess
from paceline.cluster.stop_signals import StopSignals

TRIVIAL = Path(__file__).parent / "trivial_cluster.py"
# Another program with a Ray of its own. It answers each line with the result of a task and its number of named actors.
OTHER = """
import sys, tempfile, ray
folder = tempfile.mkdtemp(prefix="other-ray-", dir="/tmp")
context = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder,
                   object_store_memory=80 << 20, logging_level="ERROR")
print(context.address_info["gcs_address"], flush=True)
task = ray.remote(num_cpus=0)(lambda x: x + 1)
for line in sys.stdin:
    print(ray.get(task.remote(int(line))), len(ray.util.list_named_actors(all_namespaces=True)), flush=True)
ray.shutdown()
__import__("shutil").rmtree(folder)
"""
DELETE = """
import sys, ray
from ray import serve
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
serve.delete("paceline")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], Any], within_s: float, what: str) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.05)
    return found


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def spawned(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, *command], text=True, start_new_session=True, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            for left in [*psutil.Process(process.pid).children(recursive=True), process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.kill()
        process.wait(30)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def trivial(log: Path, *arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`paceline serve` with a trivial application; the process and its URL."""
    port = free_port()
    with (
        log.open("w") as output,
        spawned(
            str(TRIVIAL), str(port), *arguments, stdout=output, stderr=output, env={**os.environ, **environment}
        ) as process,
    ):
        yield process, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def other() -> Iterator[Callable[[int], list[int]]]:
    """Another Ray beside ours; call it with a number for the next one and how many named actors it has."""
    with spawned("-c", OTHER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        address = stdout.readline().strip()

        def ask(number: int) -> list[int]:
            stdin.write(f"{number}\n")
            stdin.flush()
            return [int(word) for word in stdout.readline().split()]

        ask.address = address  # type: ignore[attr-defined]
        yield ask
        stdin.close()
        process.wait(30)


def answer(url: str, log: Path) -> dict[str, Any]:
    def get() -> Any:
        with contextlib.suppress(httpx.TransportError):
            reply = httpx.get(f"{url}/ready", trust_env=False)
            return reply.json() if reply.status_code == 200 else None
        return None

    wait_until(lambda: "Ctrl-C stops it" in log.read_text(), 90, f"{url} is up, see {log}")
    document: dict[str, Any] = wait_until(get, 10, f"{url} answers")
    return document


@pytest.mark.cluster
def test_serves_beside_another_ray_and_ends_whole(other: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with trivial(log) as (process, url):
        document = answer(url, log)
        held = psutil.Process(process.pid).children(recursive=True)
        names = [child.name() for child in held]
        assert {"raylet", "gcs_server"} <= set(names)
        assert document["pid"] in [child.pid for child in held]
        assert not any("monitor.py" in word for child in held for word in child.cmdline()), "nobody needs these"
        # The checkout is on no worker's path: its folder `kernels` would shadow the package of that name.
        assert str(TRIVIAL.parent.parent) not in document["path"]
        assert os.getcwd() not in document["path"]
        folder = Path(document["cwd"])
        assert folder.name.startswith("paceline-")
        assert other(1) == [2, 0]  # works beside it, and sees nothing of our Serve

        with httpx.stream("GET", f"{url}/v1/chat/completions", trust_env=False, timeout=30) as reply:
            lines = (line for line in reply.iter_lines() if line)
            assert next(lines) == 'data: {"number":-1}'
            process.send_signal(signal.SIGTERM)
            *_, error, done = lines  # a stream that is cut says so
        assert json.loads(error.removeprefix("data: "))["error"]["type"] == "service_unavailable_error"
        assert done == "data: [DONE]"
        assert process.wait(20) == 0, log.read_text()
        assert "1 of 1 requests were ended" in log.read_text()
        assert [child for child in held if runs(child)] == []
        assert not folder.exists()
        assert other(2) == [3, 0]
        assert "Traceback" not in log.read_text()


@pytest.mark.cluster
@pytest.mark.parametrize("moment", ["starting a local Ray", "starting the actors"])
def test_ctrl_c_while_it_starts_leaves_nothing(moment: str, tmp_path: Path) -> None:
    seen: set[psutil.Process] = set()
    log = tmp_path / "log"
    steps = ["starting a local Ray", "starting Serve", "starting the actors"]
    earlier = steps[: steps.index(moment)]
    with (
        tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as temporary,  # a short path: sockets lie below it
        trivial(log, TMPDIR=temporary) as (process, _),
    ):
        parent = psutil.Process(process.pid)

        def inside() -> bool:
            """Amid the step: those before it are ticked, and Ray's raylet has been started."""
            seen.update(parent.children(recursive=True))
            names = set()
            for child in seen:
                with contextlib.suppress(psutil.NoSuchProcess):
                    names.add(child.name())
            return "raylet" in names and all(f"✓ {step}" in log.read_text() for step in earlier)

        wait_until(inside, 60, f"{moment}: {log.read_text()}")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        assert process.wait(20) == 128 + signal.SIGINT, log.read_text()
        assert [child for child in seen if runs(child)] == []
        assert list(Path(temporary).glob("paceline-*")) == []
    assert "Traceback" not in log.read_text()


@pytest.mark.cluster
def test_a_killed_command_takes_its_ray_along(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with trivial(log) as (process, url):
        folder = Path(answer(url, log)["cwd"])
        held = psutil.Process(process.pid).children(recursive=True)
        # Ray's two agents per node first spend a minute on telling the GCS, which is gone, that the raylet is gone.
        agents = [child for child in held if "Agent" in child.name()]
        assert len(agents) == 2
        try:
            process.kill()
            process.wait(5)
            wait_until(lambda: not [child for child in held if runs(child) and child not in agents], 20, "they end")
        finally:
            for agent in agents:
                agent.kill()
            shutil.rmtree(folder)  # a killed process cannot tidy up


@pytest.mark.cluster
def test_joins_a_ray_and_removes_only_its_application(other: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with trivial(log, other.address, RAY_AUTH_MODE="token") as (process, url):
        answer(url, log)
        assert other(1) == [2, 3]  # Serve's controller and proxy, and our replica
        assert "GiB" not in log.read_text()  # the memory is not ours
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
        assert other(2) == [3, 0]
    check_port("127.0.0.1", int(url.rsplit(":", 1)[1]))  # Serve was begun by us, and went with us


@pytest.mark.cluster
def test_an_application_that_is_deleted_ends_its_streams_with_an_error(other: Any, tmp_path: Path) -> None:
    """As an update does that replaces the ingress: Serve ends its replica, which says so to whoever reads."""
    log = tmp_path / "log"
    with trivial(log, other.address, RAY_AUTH_MODE="token") as (process, url):
        answer(url, log)
        with httpx.stream("GET", f"{url}/v1/chat/completions", trust_env=False, timeout=30) as reply:
            lines = (line for line in reply.iter_lines() if line)
            assert next(lines) == 'data: {"number":-1}'
            environment = {**os.environ, "RAY_AUTH_MODE": "token"}
            subprocess.run([sys.executable, "-c", DELETE, other.address], env=environment, check=True, timeout=60)
            *_, error, done = lines
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert json.loads(error.removeprefix("data: "))["error"]["type"] == "service_unavailable_error"
    assert done == "data: [DONE]"
    assert other(2) == [3, 0], "Serve went with the command that began it"


@pytest.mark.cluster
def test_a_whole_cluster_joins_a_ray_and_leaves_nothing_there(other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Selector and drafters are detached actors, which Serve does not end by itself."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    document = {"drafters": [{"name": "ngram", "kind": "ngram"}], "network": {"host": "127.0.0.1"}}
    with ServedProcess(document, address=other.address) as served:
        actors = served.status()["actors"]
        assert {actor["name"] for actor in actors} == {"ingress", "target", "selector", "ngram"}
        processes = [psutil.Process(actor["pid"]) for actor in actors]
        model = httpx.get(f"{served.url}/v1/models").json()["data"][0]["id"]
        reply = httpx.post(f"{served.url}/v1/completions", json={"model": model, "prompt": "1 2 3", "max_tokens": 4})
        assert reply.json()["usage"]["completion_tokens"] == 4
        assert other(3)[1] > len(actors)
    assert other(4) == [5, 0]
    wait_until(lambda: not any(map(runs, processes)), 10, "the actors' processes have ended")


@pytest.mark.cluster
def test_a_ray_that_asks_for_a_token_says_so(other: Any) -> None:
    with pytest.raises(NotReady, match="RAY_AUTH_MODE=token"):
        JoinedRay(other.address).start()


def test_no_ray_at_an_address_is_one_clear_error() -> None:
    with pytest.raises(NotReady, match=r"no Ray cluster can be joined at '127\.0\.0\.1:1'"):
        JoinedRay("127.0.0.1:1").start()


def test_a_client_address_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--address: 'ray://there:10001'"):
        JoinedRay("ray://there:10001")


def test_connecting_keeps_our_handler_and_folder(tmp_path: Path) -> None:
    before, folder = signal.getsignal(signal.SIGTERM), os.getcwd()
    inside = []

    def ray_is_told_to_end() -> None:
        with connecting(tmp_path):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            inside.append(os.getcwd())
            raise SystemExit(15)  # what Ray's own handler raises

    with pytest.raises(KeyboardInterrupt):
        ray_is_told_to_end()
    assert inside == [str(tmp_path)]
    assert signal.getsignal(signal.SIGTERM) is before
    assert os.getcwd() == folder


def test_a_signal_while_ray_starts_is_remembered(tmp_path: Path) -> None:
    """Ray's own handler catches it; ours must know, or the second signal would count as the first."""

    def ray_is_told_to_end() -> None:
        with connecting(tmp_path):
            raise SystemExit(15)

    with StopSignals(lambda: None) as signals:
        with pytest.raises(KeyboardInterrupt):
            ray_is_told_to_end()
        assert signals.number == signal.SIGTERM


def test_folders_of_killed_processes_are_swept(tmp_path: Path) -> None:
    for name in ("paceline-live", "paceline-dead", "other-dead"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "owner").touch()
    (tmp_path / "paceline-logs").mkdir()
    owner = str(tmp_path / "paceline-live" / "owner")
    holder = f"import fcntl, sys; f = open({owner!r}); fcntl.flock(f, fcntl.LOCK_EX)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{holder}; print('held', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        local_ray._sweep(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"paceline-live", "other-dead", "paceline-logs"}
        process.kill()
    local_ray._sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"other-dead", "paceline-logs"}


def test_model_folders_are_named_absolutely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    drafters = [{"name": "lm", "kind": "lm", "options": {"model": "./small"}}]
    config = with_absolute_folders(parse_config({"target": {"model": "small"}, "drafters": drafters}))
    assert config.target.model == str(tmp_path / "small")
    assert config.drafters[0].options == {"model": str(tmp_path / "small")}
    assert with_absolute_folders(parse_config({"target": {"model": "org/name"}})).target.model == "org/name"
    (tmp_path / "embedded").mkdir()
    assert with_absolute_folders(parse_config({})).target.model == "embedded", "the default is not a folder's name"
