"""How Serve's processes reach one another in a Ray of our own: by gRPC, and without threads in between.

Serve's defaults hand every chunk over as an object of Ray's, from one event loop of a process to another and on: on two
cores a streamed chunk then cost its request more than the engine's whole work beside the forward. Serve has other ways,
chosen by environment variables that its processes read when they begin. `local_ray` sets them while it starts.

In a Ray that was joined its operator chooses: there the calls would need further ports between hosts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_DIRECT = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",  # the proxy's calls, and ours between deployments
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "grpc_proxy": "",  # gRPC's own: no HTTP proxy that the environment names, which could not reach this machine
}


@contextmanager
def direct_links() -> Iterator[None]:
    """Processes that are started inside pass chunks on directly; what the environment already says stays."""
    added = [name for name in _DIRECT if name not in os.environ]
    os.environ.update({name: _DIRECT[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
