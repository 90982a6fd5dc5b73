"""A real Prometheus on a free port, run from our own configuration with short intervals, and asked over HTTP."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from functools import reduce
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml
from live_cluster import wait_until
from required_tools import without

from paceline.cluster.served_process import free_port

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
INTERVAL = "1s"
RATE = "30s"  # what the board's $__rate_interval becomes


def require_binaries() -> None:
    """Where Prometheus is not installed the calling test goes `without`."""
    for program in ("prometheus", "promtool"):
        if shutil.which(program) is None:
            without("prometheus", f"{program} is not installed (Debian's package: prometheus)")


class Prometheus:
    """Runs Prometheus in a folder; use it as a context manager.

    Args:
        folder: For its configuration and data.
        source: Which of `deploy/prometheus` to run: `prometheus.yml` or `ray.yml`.
        target: host:port to scrape in place of the one that is written there.
    """

    def __init__(self, folder: Path, source: str, target: str) -> None:
        self._folder = folder
        config = yaml.safe_load((DEPLOY / "prometheus" / source).read_text())
        config["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
        job = config["scrape_configs"][0]
        if "file_sd_configs" in job:
            discovery = folder / "discovery.json"
            discovery.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [target]}]))
            job["file_sd_configs"][0]["files"] = [str(discovery)]
        else:
            job["static_configs"][0]["targets"] = [target]
        rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
        for rule in rules["groups"][0]["rules"]:
            rule["for"] = "0s"
        (folder / "alerts.yml").write_text(yaml.safe_dump(rules))
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._url = f"http://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prometheus:
        log = (self._folder / "log").open("wb")
        command = ["prometheus", f"--config.file={self._folder}/prometheus.yml", "--log.level=warn"]
        command += [f"--storage.tsdb.path={self._folder}/data", f"--web.listen-address={self._url[7:]}"]
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        wait_until(self._ready, 30, "Prometheus is ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=30)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query."""
        reply = httpx.get(f"{self._url}/api/v1/query", params={"query": expression}, timeout=10).json()
        assert reply["status"] == "success", f"{expression}: {reply.get('error')}"
        series: list[dict[str, Any]] = reply["data"]["result"]
        return series

    def values(self, expression: str) -> list[float]:
        """The values of an instant query that are numbers."""
        found = (float(series["value"][1]) for series in self.query(expression))
        return [value for value in found if math.isfinite(value)]

    def firing(self) -> set[tuple[str, str]]:
        """Alerts that fire: name, and the actor where there is one."""
        alerts = httpx.get(f"{self._url}/api/v1/alerts", timeout=10).json()["data"]["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"].get("actor", ""))
            for alert in alerts
            if alert["state"] == "firing"
        }

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            return httpx.get(f"{self._url}/-/ready", timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


def board_queries(prefix: str) -> list[tuple[str, str]]:
    """Every query of the Grafana board, by its panel's title, with the variables filled in."""
    board = json.loads((DEPLOY / "grafana" / "paceline.json").read_text())
    filled = {"${prefix}": prefix, "$__rate_interval": RATE, "$drafter": ".*"}
    return [
        (panel["title"], reduce(lambda query, part: query.replace(*part), filled.items(), target["expr"]))
        for panel in board["panels"]
        for target in panel.get("targets", [])
    ]


def alert_queries() -> list[tuple[str, str]]:
    """Every alert's name and expression."""
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    return [(rule["alert"], rule["expr"]) for rule in rules["groups"][0]["rules"]]
