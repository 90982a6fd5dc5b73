"""gRPC servers in a range of ports that a firewall lets through (`network.ports`)."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from paceline.actors.channel import GrpcServer
from paceline.actors.errors import ConfigError
from paceline.cluster.config import parse_config


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nothing listens on at this moment."""
    for low in range(20000, 60000, count):
        with ExitStack() as held:
            try:
                for port in range(low, low + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return low
    raise AssertionError("no free ports")


def server(low: int, high: int) -> GrpcServer:
    return GrpcServer("127.0.0.1", token=None, max_message_bytes=1 << 20, workers=1, ports=(low, high))


def test_servers_share_a_range_of_ports_until_it_is_full() -> None:
    low = free_ports(3)
    servers = [server(low, low + 2) for _ in range(3)]
    try:
        ports = [int(one.start().rpartition(":")[2]) for one in servers]
        assert sorted(ports) == [low, low + 1, low + 2]
        full = rf"network.ports: cannot bind 127.0.0.1 on a port of {low} to {low + 2};"
        with pytest.raises(ConfigError, match=full):
            server(low, low + 2).start()
    finally:
        for one in servers:
            one.stop()


@pytest.mark.parametrize(("given", "said"), [
    ([8199, 8100], r"got \[8199, 8100\]; expected the lowest port, then the highest"),
    ([0, 10], "network.ports.0: .*greater than or equal to 1"),
    ([8100], "network.ports.1: Field required"),
    (8100, "network.ports: Input should be a valid tuple"),
])  # fmt: skip
def test_a_range_of_ports_that_is_none_is_refused(given: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config({"network": {"ports": given}})
