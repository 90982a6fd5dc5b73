"""`paceline serve` with a trivial application in place of ours, for the tests of the local Ray: run as a script.

Arguments: the HTTP port, and optionally the address of a Ray to join.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import AsyncGenerator
from typing import Any

from ray import serve
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from paceline.cluster.config import parse_config
from paceline.cluster.drain_gate import Drain, DrainGate
from paceline.cluster.event_stream import EventStream
from paceline.cluster.replica_end import end_with_replica
from paceline.cluster.serve_command import ray_host, run
from paceline.cluster.start_progress import StartProgress

ENDLESS = "/v1/chat/completions"


@serve.deployment(ray_actor_options={"num_cpus": 0})
@serve.ingress()
class Trivial:
    """Says that all is well, and where it runs; a completion of its never ends."""

    def __init__(self) -> None:
        self._drain = Drain()

    def __serve_build_asgi_app__(self) -> Starlette:
        app = Starlette(routes=[Route(ENDLESS, self.endless), Route("/{path:path}", self.status)])
        app.add_middleware(DrainGate, drain=self._drain, paths=[ENDLESS])
        self._end = end_with_replica(self._drain, 0.5)
        return app

    async def drain(self) -> tuple[int, int]:
        return await self._drain.end(0.5)

    async def endless(self, request: Request) -> EventStream:
        async def numbers() -> AsyncGenerator[dict[str, Any]]:
            for number in itertools.count():
                yield {"number": number}
                await asyncio.sleep(0.05)

        return EventStream({"number": -1}, numbers())

    async def status(self, request: Request) -> JSONResponse:
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
