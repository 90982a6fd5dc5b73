"""How paceline opens gRPC: one way to make a channel, one way to make a server, with the same limits on both ends.

Every link carries the shared token (compared in constant time), refuses messages over the limit, pings a silent peer so
that one that vanished is noticed and not only one that closed, and never goes through an HTTP proxy. No reflection.
Called by `drafter_server`, `drafter_link` and the selector's ends; nothing else names gRPC's options.
"""

from __future__ import annotations

import hmac
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import grpc

from paceline.actors.errors import ConfigError

# A "-bin" key takes any bytes, so a token may hold any character.
TOKEN_KEY = "paceline-token-bin"

KEEPALIVE_INTERVAL_S = 5.0
KEEPALIVE_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 5.0

PortRange = tuple[int, int]  # lowest and highest that may be bound
ANY_PORT: PortRange = (0, 0)  # whichever is free

T = TypeVar("T")


def open_channel(address: str, *, token: str | None, max_message_bytes: int) -> grpc.Channel:
    """Make a channel; it connects when first used.

    A channel has a connection of its own, never one shared with another channel of this process.

    Args:
        address: `host:port` of a server (an IPv6 host in brackets).
        token: The shared secret that every call then carries; None sends none.
        max_message_bytes: Largest message sent or received; a larger one ends its call with RESOURCE_EXHAUSTED.

    Raises:
        ConfigError: the address has no port.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"address: expected host:port, got {address!r}")
    options = [
        *_limits(max_message_bytes),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.min_reconnect_backoff_ms", int(CONNECT_TIMEOUT_S * 1000)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", int(CONNECT_TIMEOUT_S * 1000)),
    ]
    channel = grpc.insecure_channel(address, options)
    return channel if token is None else grpc.intercept_channel(channel, _TokenSender(token))


class GrpcServer:
    """A server on threads. Add services, start it, stop it; a long-lived stream occupies one worker while it lasts.

    Stop it before the process ends by itself: Python waits for the workers of streams that still run.

    Args:
        host: Address to bind, which peers must be able to reach: `start` returns it with the port.
        token: The shared secret that calls must carry, or they get UNAUTHENTICATED; None asks for none.
        max_message_bytes: Largest message sent or received.
        workers: Most calls and streams at once; one more gets RESOURCE_EXHAUSTED.
        ports: Where to look for a free port.
    """

    def __init__(
        self, host: str, *, token: str | None, max_message_bytes: int, workers: int, ports: PortRange = ANY_PORT
    ) -> None:
        self._host = host
        self._ports = ports
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=workers, thread_name_prefix="grpc-server"),
            interceptors=[] if token is None else [_TokenGuard(token)],
            options=[
                *_limits(max_message_bytes),
                ("grpc.so_reuseport", 0),
                # Clients ping every few seconds; the default server takes that for abuse and hangs up.
                ("grpc.http2.min_recv_ping_interval_without_data_ms", int(KEEPALIVE_INTERVAL_S * 500)),
                ("grpc.http2.max_ping_strikes", 0),
            ],
            maximum_concurrent_rpcs=workers,
        )

    def add(self, adder: Callable[[grpc.Server], None]) -> None:
        """Add a service before the start, e.g. `add(lambda server: add_XServicer_to_server(x, server))`."""
        adder(self._server)

    def start(self) -> str:
        """Bind and serve.

        Returns:
            `host:port`.

        Raises:
            ConfigError: the address cannot be bound, or no port of the range is free there.
        """
        host = f"[{self._host}]" if ":" in self._host else self._host
        port = self._bind(host)
        self._server.start()
        return f"{host}:{port}"

    def _bind(self, host: str) -> int:
        low, high = self._ports
        # From anywhere in the range: the port of a server that has just died is not the next one's, whom the peers of
        # the dead one would take for it.
        ports = list(range(low, high + 1))
        for candidate in random.sample(ports, len(ports)):
            try:
                port = self._server.add_insecure_port(f"{host}:{candidate}")
            except RuntimeError:
                port = 0  # how older and newer grpc alike say that nothing was bound
            if port != 0:
                return port
        where = f"{host}:{low}" if low == high else f"{host} on a port of {low} to {high}"
        raise ConfigError(f"network.host, network.ports: cannot bind {where}; expected a free port on a local address")

    def stop(self, grace_s: float | None = None) -> None:
        """Take no more calls, and end the running ones after `grace_s` (None: at once). Returns when all ended."""
        self._server.stop(grace_s).wait()


def _limits(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", int(KEEPALIVE_INTERVAL_S * 1000)),
        ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
    ]


@dataclass(frozen=True, slots=True)
class _Details(grpc.ClientCallDetails):
    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str | bytes], ...] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _TokenSender(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the token to every call. (gRPC's own call credentials are refused on a channel without TLS.)"""

    def __init__(self, token: str) -> None:
        self._entry = (TOKEN_KEY, token.encode())

    def _send(self, continuation: Callable[[Any, Any], T], details: grpc.ClientCallDetails, request: Any) -> T:
        metadata = (*(details.metadata or ()), self._entry)
        signed = _Details(
            details.method,
            details.timeout,
            metadata,
            details.credentials,
            details.wait_for_ready,
            getattr(details, "compression", None),
        )
        return continuation(signed, request)

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._send(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._send(continuation, client_call_details, request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self._send(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self._send(continuation, client_call_details, request_iterator)


class _TokenGuard(grpc.ServerInterceptor):
    """Refuses calls without the token, before their handler or any message of theirs is looked at."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        # Stream to stream, whatever the method is: such a handler ends the call without waiting for a message.
        self._refusal: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(_refuse)

    def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        sent = b""
        for key, value in handler_call_details.invocation_metadata or ():
            if key == TOKEN_KEY:
                sent = value.encode() if isinstance(value, str) else value
        return continuation(handler_call_details) if hmac.compare_digest(sent, self._token) else self._refusal


def _refuse(_requests: Iterator[Any], context: grpc.ServicerContext) -> NoReturn:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the shared token (network.token) is missing or wrong")
