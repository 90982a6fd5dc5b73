"""The port of the HTTP endpoint: whether it can be had, asked before anything heavy starts.

`serve_command` refuses a taken port with it, and `doctor_command` reports it.
"""

from __future__ import annotations

import socket

from paceline.actors.errors import ConfigError

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}


def check_port(host: str, port: int) -> None:
    """See that a server could listen there now.

    Raises:
        ConfigError: the port is taken or may not be used, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # A server that was just stopped leaves connections behind; they do not keep the next one from listening.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except socket.gaierror as error:
        raise ConfigError(f"http.host: {host!r} is not an address ({error.strerror})") from None
    except OSError as error:
        raise ConfigError(
            f"http.port: {port} on {host} cannot be used ({error.strerror}); choose another: "
            f"`paceline serve FILE --port {_next(port)}`, or `make serve PORT={_next(port)}`"
        ) from None


def address_of(host: str, port: int) -> str:
    """The URL at which a client on this machine reaches a server that listens there."""
    reachable = _ANYWHERE.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{reachable}:{port}"


def _next(port: int) -> int:
    return port + 1 if port < 65535 else 8001
