"""`paceline doctor`: looks at everything a cluster on this machine needs, and says what to do about what is missing.

Each check is a function from the settings to one `Check`; none changes anything. A check that itself fails is a
failed check, not a failed command.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.text import Text

from paceline.actors.environment import cache_folder, ray_address
from paceline.actors.errors import ConfigError, ModelSourceError, PacelineError
from paceline.cluster.client import Client
from paceline.cluster.config import ClusterConfig, load_config
from paceline.cluster.http_port import address_of, check_port
from paceline.cluster.serve_command import checked, local_size

logger = logging.getLogger(__name__)

State = Literal["ok", "warn", "fail"]
DEFAULT_CONFIG = Path("deploy/local.yaml")
_PYTHON = (3, 11)
_RAY = "2.60."
_GIB = 2**30
_NEED_MEMORY, _WANT_MEMORY = 2 * _GIB, 4 * _GIB  # the local cluster with the embedded model, and with room
_WANT_DISK = 1 * _GIB  # the model and Ray's logs
_WANT_SHM = 256 << 20  # Ray's object store, as `local_ray` sizes it
_GRPC_S = 5.0
_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `advice` says what to do, where something is to be done."""

    name: str
    state: State
    found: str
    advice: str = ""


def doctor(config_file: Path | None, *, as_json: bool = False, console: Console | None = None) -> int:
    """Run every check and print the findings. Returns 1 where one failed, else 0.

    Args:
        config_file: Settings to check for; None takes `deploy/local.yaml` where it exists, else the defaults.
        as_json: Print one JSON document instead of lines.
        console: Where to print; default standard output.
    """
    console = console or Console(highlight=False)
    found = examine(config_file)
    if as_json:
        document = {"ok": all(check.state != "fail" for check in found), "checks": [asdict(check) for check in found]}
        console.print(json.dumps(document, indent=2), markup=False, soft_wrap=True)
    else:
        for check in found:
            _print(check, console)
    return int(any(check.state == "fail" for check in found))


def examine(config_file: Path | None) -> list[Check]:
    """Every check, in the order they are best mended."""
    first, config = check_config(config_file)
    checks: tuple[Callable[[], Check], ...] = (
        check_python,
        check_torch,
        check_ray,
        check_grpc,
        lambda: check_http(config),
        check_processor,
        lambda: check_devices(config),
        lambda: check_resources(config),
        check_memory,
        check_disk,
        check_shared_memory,
        lambda: check_model(config),
    )
    return [first, *(_guarded(check) for check in checks)]


def check_config(config_file: Path | None) -> tuple[Check, ClusterConfig]:
    """The settings; where they are wrong, the other checks go by the defaults."""
    chosen = config_file or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    if chosen is None:
        return Check("settings", "ok", "the defaults (no file given)"), ClusterConfig()
    try:
        config = checked(load_config(chosen))
    except ConfigError as error:
        return Check("settings", "fail", str(error), "mend that field"), ClusterConfig()
    return Check("settings", "ok", f"{chosen}: {len(config.drafters)} drafters"), config


def check_python() -> Check:
    """The interpreter's version."""
    found = platform.python_version()
    if sys.version_info < _PYTHON:
        return Check("python", "fail", found, "paceline needs 3.11 or newer: `make serve PYTHON=python3.11`")
    return Check("python", "ok", found)


def check_torch() -> Check:
    """Whether torch computes, and with how many threads."""
    import torch

    product = torch.ones(8, 8) @ torch.ones(8, 8)
    if product[0, 0].item() != 8:
        return Check("torch", "fail", f"{torch.__version__} computes wrongly", "reinstall torch")
    return Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")


def check_ray() -> Check:
    """Whether Ray is of the series that we are built for."""
    import ray

    metadata.version("ray")  # installed properly, not merely importable
    if not ray.__version__.startswith(_RAY):
        return Check("ray", "fail", ray.__version__, f"install 'ray[serve]=={_RAY}*'")
    return Check("ray", "ok", ray.__version__)


def check_grpc() -> Check:
    """A round trip over loopback, as between target and drafter on one machine."""
    import grpc

    def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
        return request

    handler = grpc.method_handlers_generic_handler("doctor", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    # A proxy that the environment names would be asked for loopback too.
    options = (("grpc.enable_http_proxy", 0),)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/doctor/Echo")
            call(b"hello", timeout=_GRPC_S)  # connects
            started = time.monotonic()
            call(b"hello", timeout=_GRPC_S)
            taken_ms = (time.monotonic() - started) * 1e3
    except grpc.RpcError as error:
        return Check("grpc", "fail", f"no round trip over 127.0.0.1 ({error})", "see whether loopback is blocked")
    finally:
        server.stop(None)
    return Check("grpc", "ok", f"loopback round trip in {taken_ms:.2f} ms")


def check_http(config: ClusterConfig) -> Check:
    """Whether the endpoint's port is free, or is paceline's already."""
    host, port = config.http.host, config.http.port
    try:
        check_port(host, port)
    except ConfigError as error:
        with contextlib.suppress(PacelineError), Client(address_of(host, port), timeout_s=2.0) as client:
            held = client.status()
            return Check("http port", "ok", f"{port}: a paceline cluster serves {held.model} there")
        return Check("http port", "fail", str(error), f"see who has it: `ss -ltnp 'sport = :{port}'`")
    return Check("http port", "ok", f"{port} on {host} is free")


def check_processor() -> Check:
    """Cores, and the instructions that make bfloat16 fast."""
    cores, flags = os.cpu_count() or 1, _cpu_flags()
    found = f"{cores} logical cores"
    if not flags:
        return Check("processor", "ok", f"{found}, {platform.machine()}")
    if "amx_bf16" in flags:
        return Check("processor", "ok", f"{found}, AMX: bfloat16 is fastest")
    if "avx512_bf16" in flags:
        return Check("processor", "ok", f"{found}, AVX512-BF16: bfloat16 is fast")
    if "avx2" in flags:
        advice = "bfloat16 is emulated here; `target.dtype: float32` may be faster, at twice the memory"
        return Check("processor", "warn", f"{found}, no bfloat16 instructions", advice)
    return Check("processor", "warn", f"{found}, no AVX2", "expect it to be slow")


def check_devices(config: ClusterConfig) -> Check:
    """Accelerators, against what the settings ask for."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = ", ".join(torch.cuda.get_device_name(index) for index in range(count)) or "CPU only"
    wanted = {config.target.device, *(drafter.device for drafter in config.drafters)} - {"cpu"}
    if wanted and not count:
        return Check("devices", "fail", f"{found}, but the settings ask for {', '.join(sorted(wanted))}",
                     "set `device: cpu`, or install a CUDA build of torch and the driver")  # fmt: skip
    return Check("devices", "ok", found)


def check_resources(config: ClusterConfig) -> Check:
    """What the settings ask of Ray, against what a Ray of our own on this machine would have."""
    import torch

    from paceline.cluster.placement import Node, lacking_of

    if (address := ray_address()) is not None:
        return Check("resources", "ok", f"asked of the Ray at {address} when it is joined (RAY_ADDRESS)")
    num_cpus, custom = local_size(config)
    total = {"num_cpus": float(num_cpus), "num_gpus": float(torch.cuda.device_count()), **custom}
    if (lacking := lacking_of(config, [Node("this machine", total, total)])) is not None:
        return Check("resources", "fail", lacking, "ask for less, or join a Ray that has it (`--address`)")
    return Check("resources", "ok", "a local Ray has what the settings ask for")


def check_memory() -> Check:
    """Memory that is free now."""
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free"
    if memory.available < _NEED_MEMORY:
        return Check("memory", "fail", found, f"the local cluster needs about {_NEED_MEMORY / _GIB:.0f} GiB; free some")
    if memory.available < _WANT_MEMORY:
        return Check("memory", "warn", found, "tight: leave out the `early_exit` or `lm` drafters, or free some")
    return Check("memory", "ok", found)


def check_disk() -> Check:
    """Room for models and for Ray's logs."""
    import tempfile

    places = {
        place: shutil.disk_usage(_existing(place)).free for place in (cache_folder(), Path(tempfile.gettempdir()))
    }
    found = ", ".join(f"{free / _GIB:.1f} GiB free for {place}" for place, free in places.items())
    if min(places.values()) < _WANT_DISK:
        return Check("disk", "warn", found, "free some, or set PACELINE_CACHE or TMPDIR to another disk")
    return Check("disk", "ok", found)


def check_shared_memory() -> Check:
    """Where Ray's object store can live."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return Check("shared memory", "ok", "none on this system; Ray uses the temporary folder")
    free = shutil.disk_usage(place).free
    found = f"{free / 2**20:.0f} MiB free in {place}"
    if free < _WANT_SHM:
        advice = "works, but Ray's object store moves to the temporary folder; in Docker: `--shm-size=512m`"
        return Check("shared memory", "warn", found, advice)
    return Check("shared memory", "ok", found)


def check_model(config: ClusterConfig) -> Check:
    """Whether the target's model is here whole (for the embedded one: the marker names the right wheel and size)."""
    from paceline.actors.model_source import resolve

    source = config.target.model
    try:
        folder = resolve(source, fetch=False, progress=False)
    except ModelSourceError as error:
        return Check("model", "warn", str(error), f"`paceline pull {source}` fetches it; `paceline serve` does too")
    return Check("model", "ok", f"{folder.name}: {folder.path}")


def _guarded(check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # a broken install raises anything, and the other checks still tell something
        logger.debug("a check failed", exc_info=True)
        name = getattr(check, "__name__", "check").removeprefix("check_")
        return Check(name, "fail", f"{type(error).__name__}: {error}", "reinstall: `make clean serve`")


def _print(check: Check, console: Console) -> None:
    mark, colour = _MARKS[check.state]
    line = Text(f"{mark} ", style=colour).append(f"{check.name:<14}", style="default").append(check.found, "default")
    console.print(line, soft_wrap=True)
    if check.advice:
        console.print(Text(f"{'':<16}{check.advice}", style="dim"), soft_wrap=True)


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
