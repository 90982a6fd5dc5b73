"""`paceline serve`: from a file of settings to a cluster that answers, and back to nothing when it is stopped.

In order: the port, the model, Ray, Serve, the application, then waiting. Everything on the way can be interrupted, and
whatever was started by then is taken down again.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from paceline.actors.errors import ConfigError, ModelSourceError, NotReady, PacelineError
from paceline.cluster.access import check_exposure, with_environment_keys
from paceline.cluster.backend import ClusterStatus
from paceline.cluster.client import Client
from paceline.cluster.config import ClusterConfig, with_absolute_folders
from paceline.cluster.http_port import address_of, check_port
from paceline.cluster.start_progress import StartProgress
from paceline.cluster.status_command import actor_table
from paceline.cluster.stop_signals import StopSignals

if TYPE_CHECKING:
    from ray.serve import Application

    from paceline.cluster.serve_application import ServeApplication

READY_S = 120.0
_POLL_S = 0.25
_DRAIN_SLACK_S = 8.0  # beyond the time that requests have: for last words, and for what was learned to be written
_OWN = "local"  # Ray's word for a new cluster


class RayHost(Protocol):
    """The Ray that the cluster runs on: `LocalRay` or `JoinedRay`."""

    joined: bool
    folder: Path | None

    def start(self) -> None:
        """Start or join."""
        ...

    def alive(self) -> bool:
        """Whether it is still there."""
        ...

    def memory_bytes(self) -> int | None:
        """Memory of all its processes; None where it is not ours."""
        ...

    def metrics_addresses(self) -> list[str]:
        """`host:port` at which Ray exports metrics."""
        ...

    def stop(self, *, keep_logs: bool = False) -> None:
        """End what `start` began, and nothing else."""
        ...

    def kill(self) -> None:
        """The same, at once."""
        ...


def serve(
    config: ClusterConfig, *, ray_address: str | None = None, ready_s: float = READY_S, console: Console | None = None
) -> int:
    """Serve until a signal comes. Returns the exit status.

    Args:
        config: The cluster.
        ray_address: A running Ray to join (`auto` or HOST:PORT); None starts one of our own.
        ready_s: Seconds to wait for the actors.
        console: Where to print; default standard output.

    Raises:
        PacelineError: it cannot be brought up; what was started is gone again.
    """
    console = console or Console()
    config = checked(config)
    progress = StartProgress(console)
    if ray_address in (None, _OWN):
        check_port(config.http.host, config.http.port)
    _find_model(config.target.model, progress)
    with progress.step("loading Ray"):
        from paceline.cluster.app import build_app
    return run(config, ray_host(config, ray_address), build_app, console, progress, ready_s)


def run(
    config: ClusterConfig,
    host: RayHost,
    build: Callable[[dict[str, Any]], Application],
    console: Console,
    progress: StartProgress,
    ready_s: float = READY_S,
) -> int:
    """Bring an application up on a Ray, wait for a signal, take both down."""
    from paceline.cluster.serve_application import ServeApplication

    application = ServeApplication()
    up, failed = False, True
    url, keys = address_of(config.http.host, config.http.port), config.http.api_keys
    key = keys[0].get_secret_value() if keys else None
    with StopSignals(host.kill) as signals, Client(url, api_key=key) as client:
        try:
            application_graph = build(config.model_dump())
            with progress.step("joining Ray" if host.joined else "starting a local Ray"):
                host.start()
            lacking = _lacking(config, host)
            if lacking is not None:
                progress.note(f"{lacking}; what does not fit waits for the cluster to grow")
            with progress.step("starting Serve"):
                application.start_serve(config.http)
            with progress.step("starting the actors") as say:
                application.deploy(application_graph)
                status, missing = _wait_until_up(config, application, client, ready_s, say, signals, lacking)
            _report(console, progress, config, host, client, status, missing)
            up = True
            _wait(host, signals)
        except KeyboardInterrupt:
            failed = False
            if up:
                _drain(config, application, host, progress)
        finally:
            with progress.step("stopping"):
                if host.joined:
                    application.remove()
                host.stop(keep_logs=failed)
            if failed and host.folder is not None:
                progress.note(f"Ray's logs are kept in {host.folder}")
    return 0 if up else 128 + signals.number


def ray_host(config: ClusterConfig, ray_address: str | None) -> RayHost:
    """The Ray to run on: the one at an address, or one of our own with room for all that the settings ask for.

    Raises:
        ConfigError: the address cannot be used.
    """
    if ray_address not in (None, _OWN):
        from paceline.cluster.joined_ray import JoinedRay

        return JoinedRay(ray_address)
    from paceline.cluster.local_ray import LocalRay

    num_cpus, custom = local_size(config)
    return LocalRay(num_cpus=num_cpus, resources=custom)


def local_size(config: ClusterConfig) -> tuple[int, dict[str, float]]:
    """Logical CPUs and custom resources of a Ray of our own: all that the settings ask for."""
    asked = [config.target.resources] * config.target.replicas
    asked += [config.selector.resources]
    asked += [drafter.resources for drafter in config.drafters for _ in range(drafter.replicas)]
    custom: dict[str, float] = {}
    for resources in asked:
        for name, amount in resources.custom.items():
            custom[name] = custom.get(name, 0.0) + amount
    # Logical CPUs only admit actors; two more than asked, and so many that workers wait ready for Serve's own actors.
    return max(4, math.ceil(sum(resources.num_cpus for resources in asked)) + 2), custom


def checked(config: ClusterConfig) -> ClusterConfig:
    """The settings with the environment's keys, and its folders absolute, once nothing in them keeps a cluster from
    starting. `paceline doctor` asks, too.

    Raises:
        ConfigError: a key cannot be one, or others can reach an address that is not guarded.
    """
    config = with_environment_keys(config)
    check_exposure(config.http, config.http.host)
    return with_absolute_folders(config)


def _lacking(config: ClusterConfig, host: RayHost) -> str | None:
    """What the settings ask for and Ray's nodes have not free; None where all of it fits.

    Raises:
        ConfigError: it does not fit a Ray of our own, which cannot grow.
    """
    from paceline.cluster.placement import lacking_of, ray_nodes

    nodes = ray_nodes()
    if not host.joined:  # so new that it has not said yet what is free: everything
        nodes = [replace(node, free=node.total) for node in nodes]
    lacking = lacking_of(config, nodes)
    if lacking is not None and not host.joined:
        raise ConfigError(f"resources: {lacking}")
    return lacking


def _find_model(source: str, progress: StartProgress) -> None:
    from paceline.actors.model_source import resolve

    started = time.monotonic()
    try:
        folder = resolve(source, fetch=False, progress=False)
    except ModelSourceError:
        progress.note(f"fetching the model {source!r}")
        folder = resolve(source)
    progress.done(f"model {folder.name}", time.monotonic() - started)


def _wait_until_up(
    config: ClusterConfig,
    application: ServeApplication,
    client: Client,
    ready_s: float,
    say: Callable[[str], None],
    signals: StopSignals,
    lacking: str | None = None,
) -> tuple[ClusterStatus, list[str]]:
    """Wait for the target and every drafter; go on without drafters when the time is over.

    Raises:
        NotReady: the target, or the endpoint, does not come.
    """
    deadline = time.monotonic() + ready_s
    missing = "the controller"
    while time.monotonic() < deadline:
        signals.check()
        missing = application.waiting_for()
        if not missing and client.is_ready():
            status = client.status()
            late = [drafter.name for drafter in status.drafters if not drafter.up]
            known = {drafter.name for drafter in status.drafters}
            late += [drafter.name for drafter in config.drafters if drafter.name not in known]
            late += [] if status.selector_up else ["selector"]
            if status.ready and not late:
                return status, []
            missing = ", ".join(late)
        say(f"waiting for {missing or 'the endpoint'}")
        time.sleep(_POLL_S)
    if client.is_ready():
        status = client.status()
        return status, missing.split(", ")
    raise NotReady(
        f"not ready after {ready_s:.0f} s; still missing: {missing or 'the endpoint'} (--timeout waits longer)"
        + (f"; {lacking}" if lacking else "")
    )


def _report(
    console: Console,
    progress: StartProgress,
    config: ClusterConfig,
    host: RayHost,
    client: Client,
    status: ClusterStatus,
    missing: list[str],
) -> None:
    url = client.url
    console.print(actor_table(status.actors))
    memory = host.memory_bytes()
    used = "" if memory is None else f", {memory / 2**30:.2f} GiB in all its processes"
    console.print(f"up in {progress.elapsed_s:.1f} s{used}; {status.mode}, policy {status.policy}", highlight=False)
    if missing and config.drafters:
        console.print(f"going on without {', '.join(missing)}; they are used as soon as they are up", style="yellow")
    question = [{"role": "user", "content": "What is a library? Answer in one sentence."}]
    body = {"model": status.model, "messages": question, "max_tokens": 64, "temperature": 0}
    console.print(f"\nDashboard and playground at [bold]{url}/dashboard[/bold]", highlight=False)
    console.print(f"OpenAI API at [bold]{url}/v1[/bold]; try it:\n", highlight=False)
    key = " -H 'Authorization: Bearer KEY'" if config.http.api_keys else ""
    console.print(
        f"curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{json.dumps(body)}'",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    env = "PACELINE_API_KEYS=KEY " if config.http.api_keys else ""
    for command in ("chat", "status", "drafters list"):
        console.print(f"{env}paceline {command}{client.option}", markup=False, highlight=False, soft_wrap=True)
    console.print("\nCtrl-C stops it.", style="dim")
    if places := _metrics_places(config, host, url):
        console.print(f"Metrics at {'; '.join(places)}", style="dim", highlight=False, soft_wrap=True)


def _metrics_places(config: ClusterConfig, host: RayHost, url: str) -> list[str]:
    """Where Prometheus finds the metrics."""
    places = [f"{url}/metrics"] if "http" in config.metrics.export else []
    if "ray" in config.metrics.export:
        places += [f"by Ray at http://{address}/metrics" for address in host.metrics_addresses()]
    return places


def _drain(config: ClusterConfig, application: ServeApplication, host: RayHost, progress: StartProgress) -> None:
    """Let running requests end, and say what became of them; not where Ray ends at the same time.

    On a thread, since Ray's calls wait for a Ray that is gone: a SIGTERM may have been for the whole process group.
    """
    drained: Future[tuple[int, int]] = Future()

    def drain() -> None:
        try:
            drained.set_result(application.drain(config.http.drain_s))
        except Exception as error:  # noqa: BLE001 - whatever Ray raises while it goes, the stop goes on
            drained.set_exception(error)

    threading.Thread(target=drain, name="drain", daemon=True).start()
    deadline = time.monotonic() + config.http.drain_s + _DRAIN_SLACK_S
    with progress.step("ending what runs"):
        while not drained.done() and host.alive() and time.monotonic() < deadline:
            time.sleep(_POLL_S / 5)
    if not drained.done():
        progress.note("running requests could not be waited for")
    elif (error := drained.exception()) is not None:
        progress.note(f"running requests could not be waited for: {error}")
    elif (counted := drained.result())[1]:
        ran, ended = counted
        progress.note(f"{ended} of {ran} requests were ended after {config.http.drain_s:g} s (http.drain_s)")


def _wait(host: RayHost, signals: StopSignals) -> None:
    """Until a signal comes.

    Raises:
        KeyboardInterrupt: it came.
        PacelineError: Ray ended without being asked to.
    """
    while host.alive():
        signals.check()
        time.sleep(_POLL_S)
    raise PacelineError("Ray has ended by itself (out of memory, or killed from outside?)")
