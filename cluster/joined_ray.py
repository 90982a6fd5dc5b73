"""A Ray that is there already (`--address`, RAY_ADDRESS): our application joins it, and is all that we remove again.

Same shape as `LocalRay`; used by `serve_command`.
"""

from __future__ import annotations

import logging
import socket
import tempfile
from pathlib import Path

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from paceline.actors.errors import ConfigError, NotReady
from paceline.cluster.local_ray import NAMESPACE, connecting, metrics_addresses

_CONNECT_S = 5.0


class JoinedRay:
    """A running Ray cluster that others own.

    Args:
        address: `auto` or HOST:PORT.

    Raises:
        ConfigError: the address is of a kind that cannot be used.
    """

    joined = True
    folder: Path | None = None

    def __init__(self, address: str) -> None:
        if "://" in address:
            raise ConfigError(f"--address: {address!r} is a client address; expected `auto` or HOST:PORT of the GCS")
        self._address = address

    def start(self) -> None:
        """Connect.

        Raises:
            NotReady: no Ray answers there.
        """
        self._probe()
        try:
            with tempfile.TemporaryDirectory(prefix="paceline-") as folder, connecting(Path(folder)):
                ray.init(
                    address=self._address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    namespace=NAMESPACE,
                )
        except NotReady as error:
            raise NotReady(f"no Ray cluster can be joined at {self._address!r}: {error.__cause__}") from error

    def _probe(self) -> None:
        """Fail within seconds and say why; `ray.init` on its own takes minutes and does not."""
        try:
            address = canonicalize_bootstrap_address(self._address)
            host, _, port = (address or "").rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
            if self._address != "auto":  # for which `ray.init` finds the token itself
                GcsClient(address=address)
        except ray.exceptions.AuthenticationError as error:
            raise NotReady(
                f"the Ray cluster at {self._address!r} asks for a token: set RAY_AUTH_MODE=token, and put the "
                "cluster's token in ~/.ray/auth_token where it is not this machine's own"
            ) from error
        except (OSError, ValueError) as error:
            raise NotReady(f"no Ray cluster can be joined at {self._address!r}: {error}") from error

    def alive(self) -> bool:
        """Whether we are connected; Ray ends a driver that loses its cluster."""
        return bool(ray.is_initialized())

    def memory_bytes(self) -> None:
        """Not ours to measure."""

    def metrics_addresses(self) -> list[str]:
        """`host:port` of every node's metrics export."""
        return metrics_addresses()

    def stop(self, *, keep_logs: bool = False) -> None:
        """Disconnect; the cluster stays. Its logs stay with it, whatever `keep_logs` says."""
        ray.shutdown()

    def kill(self) -> None:
        """Nothing here is ours to kill."""
