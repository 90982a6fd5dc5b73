"""A cluster in a process of its own: `paceline serve` as a child, for benchmarks and end-to-end tests."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml

from paceline.actors.errors import NotReady


def free_port() -> int:
    """A loopback port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ServedProcess:
    """Runs `paceline serve` on a document of settings; use it as a context manager.

    Args:
        document: What `ClusterConfig` takes; `http.port` is filled in where it is missing.
        ready_s: Seconds to wait until every drafter is up.
        address: Of a running Ray to join; None starts one.

    Raises:
        NotReady: (on entering) another server has its port, or it ended or was not up in time; the message carries the
            end of its output.
    """

    def __init__(self, document: dict[str, Any], ready_s: float = 180.0, address: str | None = None) -> None:
        self._ready_s = ready_s
        self._address = address
        self._folder = tempfile.TemporaryDirectory(prefix="paceline-served-")
        http = dict(document.get("http") or {})
        http.setdefault("port", free_port())
        self.document = {**document, "http": http}
        keys = http.get("api_keys")
        self.headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
        self.url = f"http://127.0.0.1:{http['port']}"
        self.log = Path(self._folder.name) / "serve.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's id.

        Raises:
            NotReady: it was not started.
        """
        if self._process is None:
            raise NotReady("the cluster's process was not started")
        return self._process.pid

    def __enter__(self) -> ServedProcess:
        self._check_port()
        config = Path(self._folder.name) / "cluster.yaml"
        config.write_text(yaml.safe_dump(self.document), encoding="utf-8")
        command = [sys.executable, "-m", "paceline.cluster.cli", "serve", str(config)]
        if self._address is not None:
            command += ["--address", self._address]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=self._folder.name)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask it to end as Ctrl-C would, and wait; a process that does not listen is killed."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._folder.cleanup()

    def status(self) -> dict[str, Any]:
        """`/v1/paceline/status`."""
        reply = httpx.get(f"{self.url}/v1/paceline/status", headers=self.headers, timeout=10)
        reply.raise_for_status()
        document: dict[str, Any] = reply.json()
        return document

    def wait_for_drafters(self, names: set[str], within_s: float) -> None:
        """Wait until exactly these drafters can be asked.

        Raises:
            NotReady: they are not in time.
        """
        deadline = time.monotonic() + within_s
        up: set[str] = set()
        while time.monotonic() < deadline:
            try:
                up = {drafter["name"] for drafter in self.status()["drafters"] if drafter["up"]}
            except httpx.HTTPError:
                up = set()
            if up == names:
                return
            time.sleep(0.1)
        raise NotReady(f"drafters up after {within_s:.0f} s: {sorted(up)}, expected {sorted(names)}")

    def _check_port(self) -> None:
        """See that nobody answers there yet: it would be taken for the cluster."""
        port = self.document["http"]["port"]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                self._folder.cleanup()
                raise NotReady(f"http.port: {port} is another server's") from None

    def _wait(self) -> None:
        process = self._process
        deadline = time.monotonic() + self._ready_s
        names = {drafter["name"] for drafter in self.document.get("drafters", [])}
        while time.monotonic() < deadline:
            if process is None or process.poll() is not None:
                raise NotReady(f"`paceline serve` ended: {self._tail()}")
            try:
                if httpx.get(f"{self.url}/ready", timeout=5).status_code == httpx.codes.OK:
                    self.wait_for_drafters(names, max(1.0, deadline - time.monotonic()))
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        raise NotReady(f"`paceline serve` was not ready in {self._ready_s:.0f} s: {self._tail()}")

    def _tail(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:] if self.log.exists() else "(no output)"
