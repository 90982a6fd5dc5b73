"""`paceline serve` with a trivial application in place of ours, for the tests of the local Ray: run as a script.

Arguments: the HTTP port, and optionally the address of a Ray to join.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from ray import serve
from rich.console import Console
from starlette.requests import Request
from starlette.responses import JSONResponse

from paceline.cluster.config import parse_config
from paceline.cluster.serve_command import ray_host, run
from paceline.cluster.start_progress import StartProgress


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Trivial:
    """Says that all is well, and where it runs."""

    def __call__(self, request: Request) -> JSONResponse:
        status = {"ready": True, "mode": "plain decoding", "model": "none", "policy": "none", "selector_up": True}
        process = {"pid": os.getpid(), "cwd": os.getcwd(), "path": sys.path, "omp": os.environ.get("OMP_NUM_THREADS")}
        return JSONResponse({**status, **process})


def build(config: dict[str, Any]) -> serve.Application:
    return Trivial.bind()


def main() -> int:
    config = parse_config({"http": {"port": int(sys.argv[1])}})
    console = Console()
    host = ray_host(config, sys.argv[2] if len(sys.argv) > 2 else None)
    return run(config, host, build, console, StartProgress(console), ready_s=60)


if __name__ == "__main__":
    sys.exit(main())
