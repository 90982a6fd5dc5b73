"""A cluster as a child: another server at its port is not taken for it."""

from __future__ import annotations

import socket

import pytest

from paceline.actors.errors import NotReady
from paceline.cluster.served_process import ServedProcess


def test_another_servers_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(NotReady, match=f"http.port: {port} is another server's"),
            ServedProcess({"http": {"port": port}}),
        ):
            pass
