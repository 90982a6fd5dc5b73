"""The port's check: it is asked before anything heavy, so its message must say what to do."""

from __future__ import annotations

import socket

import pytest

from paceline.actors.errors import ConfigError
from paceline.cluster.http_port import address_of, check_port


def test_a_taken_port_is_named_with_a_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"{port} on 127\.0\.0\.1 .*--port {port + 1}.*make serve PORT={port + 1}"
        ):
            check_port("127.0.0.1", port)
        with pytest.raises(ConfigError, match=str(port)):
            check_port("0.0.0.0", port)
    check_port("127.0.0.1", port)


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(ConfigError, match=r"http\.host: 'no\.such\.host\.invalid'"):
        check_port("no.such.host.invalid", 8000)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("there.example", "http://there.example:8000"),
    ],
)
def test_a_client_is_given_an_address_it_can_reach(host: str, url: str) -> None:
    assert address_of(host, 8000) == url
