"""Who may use the HTTP API: everyone on this machine's loopback, else whoever has one of its keys.

`api` puts the guard before all endpoints, unknown paths included. A server that others can reach needs keys, or must
say that it is open on purpose: `serve_command` checks that at once, and the ingress once more, since under Serve's own
configuration the address is not ours to set.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from paceline.actors.environment import api_keys
from paceline.actors.errors import ConfigError, Unauthorized
from paceline.cluster.config import ClusterConfig, HttpConfig, parse_config
from paceline.cluster.http_errors import error_reply

OPEN_PATHS = frozenset({"/health", "/ready"})  # probes carry no key, and learn no more than whether it answers
_PAGES = "/dashboard"  # files that anyone has who has the package; the page asks for a key, and sends it
_SCHEME = "bearer"


def with_environment_keys(config: ClusterConfig) -> ClusterConfig:
    """The settings with the keys of `PACELINE_API_KEYS` beside their own.

    Raises:
        ConfigError: a key cannot be one, or the settings say that none are needed.
    """
    held = [key.get_secret_value() for key in config.http.api_keys]
    added = [key for key in api_keys() if key not in held]
    if not added:
        return config
    document = config.model_dump()
    document["http"]["api_keys"] = (*held, *added)
    return parse_config(document, "settings with PACELINE_API_KEYS")


def check_exposure(http: HttpConfig, host: str) -> None:
    """See that an address others can reach is guarded.

    Args:
        http: The settings, the environment's keys included.
        host: What is listened on.

    Raises:
        ConfigError: anyone who reaches the address could use it, and nobody said that this is meant.
    """
    if http.api_keys or http.allow_anonymous or is_loopback(host):
        return
    raise ConfigError(
        f"http.api_keys: {host!r} can be reached from other machines, so clients need a key; set PACELINE_API_KEYS "
        "(several: with commas) or http.api_keys, or http.host: 127.0.0.1, or http.allow_anonymous: true to let "
        "everyone in"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class AccessGuard:
    """ASGI middleware: requests without a key get 401.

    Args:
        app: The application.
        keys: Those that are let in.
    """

    def __init__(self, app: ASGIApp, keys: Iterable[SecretStr]) -> None:
        self._app = app
        self._digests = [_digest(key.get_secret_value()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and _is_open(scope["path"])):
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("authorization", "")
        scheme, _, key = given.partition(" ")
        if scheme.lower() == _SCHEME and self._knows(key.strip()):
            await self._app(scope, receive, send)
            return
        wrong = "the API key is not one of this server's" if given else "no API key was given"
        reply = error_reply(Unauthorized(f"{wrong}; expected the header `Authorization: Bearer KEY`"))
        reply.headers["WWW-Authenticate"] = "Bearer"
        await reply(scope, receive, send)

    def _knows(self, key: str) -> bool:
        """Compare with all, each in the same time whatever is wrong with it."""
        digest = _digest(key)
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path == _PAGES or path.startswith(f"{_PAGES}/")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
