"""A Ray of our own on this machine: started with the command, ended with it, and apart from any other Ray.

Apart, because it has a folder of its own (sockets, logs, session) and every port is chosen by the system; and ended
whole, because each process that descends from this one since the start is known and waited for. Ray itself does the
rest: its usage statistics are off for such a cluster, its GCS and raylet die with their parent even when that is
killed, and token authentication keeps other users of the machine out. Used by `serve_command`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import psutil
import ray

from paceline.actors.errors import NotReady
from paceline.actors.priority import wait_for_gaps
from paceline.cluster.serve_links import direct_links

logger = logging.getLogger(__name__)

NAMESPACE = "paceline"
OBJECT_STORE_BYTES = 256 << 20  # our actors exchange small messages; tensors travel by gRPC
_LONGEST_BASE = 24  # a Unix socket's path has 107 bytes, and Ray adds about 75 to its folder's
_PR_SET_CHILD_SUBREAPER = 36
_PREFIX = "paceline-"
_OWNER = "owner"  # a file in a folder of ours, locked by its process, so that a killed one's is found again
_SERVERS = ("gcs_server", "raylet")
# Which look ten times a second for logs to print that nobody asked for, and for nodes to add to a Ray that has one.
_NEEDLESS = ("log_monitor.py", "monitor.py")


class LocalRay:
    """One local Ray cluster, owned by this process.

    Args:
        num_cpus: Logical CPUs: room for actors, not a limit on what they use. Ray starts as many workers ahead.
        resources: Custom resources that the actors ask for.
    """

    joined = False

    def __init__(self, *, num_cpus: int, resources: Mapping[str, float]) -> None:
        self._num_cpus = num_cpus
        self._resources = dict(resources)
        self._before: set[psutil.Process] = set()
        self._servers: list[psutil.Process] = []
        self._owner: IO[str] | None = None  # locked as long as this process lives
        self.folder: Path | None = None  # Ray's sockets and logs, while it is there

    def start(self) -> None:
        """Start and connect. Leaves the process's signal handlers as they were.

        Raises:
            NotReady: Ray did not start.
            KeyboardInterrupt: SIGINT or SIGTERM came meanwhile; `stop` then removes what is there already.
        """
        self._before = set(_descendants())
        _adopt_orphans()
        base = Path(tempfile.gettempdir())
        base = base if len(str(base)) <= _LONGEST_BASE else Path("/tmp")
        _sweep(base)
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        self._owner = (self.folder / _OWNER).open("w")
        fcntl.flock(self._owner, fcntl.LOCK_EX)
        with connecting(self.folder), direct_links():
            ray.init(
                address="local",
                include_dashboard=False,
                num_cpus=self._num_cpus,
                resources=self._resources,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                namespace=NAMESPACE,
                _temp_dir=str(self.folder),
                # Ray's own 15 leaves a target hardly more of a core than a dozen drafters that only fill its gaps.
                _system_config={"worker_niceness": 0},
            )
        ended = [process for process in self.processes() if _script(process) in _NEEDLESS]
        for process in ended:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(ended, timeout=5.0)
        for process in self.processes():  # and every worker that they start, of which the target goes first again
            wait_for_gaps(process.pid)
        self._servers = [process for process in self.processes() if _name(process) in _SERVERS]

    def alive(self) -> bool:
        """Whether its head processes run."""
        return bool(self._servers) and all(_runs(process) for process in self._servers)

    def processes(self) -> list[psutil.Process]:
        """Every process of it: what descends from this process since `start`."""
        return [process for process in _descendants() if process not in self._before]

    def memory_bytes(self) -> int:
        """Memory of the whole cluster, this process included; shared pages count once (PSS) where that is known."""
        total = 0
        for process in [psutil.Process(), *self.processes()]:
            with contextlib.suppress(psutil.Error):
                info = process.memory_full_info()
                total += int(getattr(info, "pss", info.uss))
        return total

    def metrics_addresses(self) -> list[str]:
        """`host:port` of every node's metrics export."""
        return metrics_addresses()

    def stop(self, *, keep_logs: bool = False) -> None:
        """End every process of it and remove its folder; harmless when repeated or when it never started."""
        held = self.processes()
        whole = bool(self._servers)
        try:
            ray.shutdown()
        except Exception:  # whatever state Ray is in, its processes end below
            logger.warning("Ray did not shut down in order; ending its processes", exc_info=True)
        # After a whole start Ray ends its own; what an interrupted start left has no one else to end it.
        psutil.wait_procs(held, timeout=5.0 if whole else 0.0)
        self._kill_all(10.0)
        self._servers = []
        if self._owner is not None:
            self._owner.close()
            self._owner = None
        if self.folder is None:
            return
        if keep_logs:
            (self.folder / _OWNER).unlink(missing_ok=True)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def kill(self) -> None:
        """End every process of it at once, with no order."""
        self._kill_all(2.0)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _kill_all(self, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        # Again and again: one that is being ended may just have started another.
        while (left := [process for process in self.processes() if _runs(process)]) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=1.0)
        if left:
            logger.error("these processes could not be ended: %s", ", ".join(str(process.pid) for process in left))


def metrics_addresses() -> list[str]:
    """Where the nodes of the Ray that this process is connected to export metrics."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["MetricsExportPort"] > 0]
    return sorted(f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in nodes)


@contextlib.contextmanager
def connecting(folder: Path) -> Iterator[None]:
    """Around `ray.init`: keep the working folder off the workers' path, and our signal handlers in place.

    Ray puts the driver's working folder on every worker's `sys.path`; in a checkout, transformers would find our folder
    `kernels` there in place of the package of that name. And `ray.init` replaces SIGTERM's handler by one that raises
    SystemExit.

    Raises:
        NotReady: Ray raised anything.
        KeyboardInterrupt: SIGINT or SIGTERM came meanwhile.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.chdir(folder):
            yield
    except SystemExit:
        if callable(handler):
            handler(signal.SIGTERM, None)  # so that a second one is known to be the second
        raise KeyboardInterrupt from None
    except Exception as error:  # Ray raises whatever it likes where a process of its own fails
        raise NotReady(f"Ray did not start: {error}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _sweep(base: Path) -> None:
    """Remove the folders of processes that were killed before they could."""
    for owner in base.glob(f"{_PREFIX}*/{_OWNER}"):
        with contextlib.suppress(OSError), owner.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its process lives
            shutil.rmtree(owner.parent, ignore_errors=True)


def _adopt_orphans() -> None:
    """Make descendants whose parent dies our children (Linux), so that none is lost from sight when a raylet dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def _script(process: psutil.Process) -> str:
    """The Python file that a process runs."""
    try:
        return next((Path(word).name for word in process.cmdline() if word.endswith(".py")), "")
    except psutil.Error:
        return ""


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
