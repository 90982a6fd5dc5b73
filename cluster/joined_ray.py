"""A Ray that is there already (`--address`, RAY_ADDRESS): our application joins it, and is all that we remove again.

Same shape as `LocalRay`; used by `serve_command`.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import ray

from paceline.actors.errors import ConfigError, NotReady
from paceline.cluster.local_ray import NAMESPACE, connecting

logger = logging.getLogger(__name__)


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

    def alive(self) -> bool:
        """Whether we are connected; Ray ends a driver that loses its cluster."""
        return bool(ray.is_initialized())

    def memory_bytes(self) -> None:
        """Not ours to measure."""

    def stop(self, *, keep_logs: bool = False) -> None:
        """Disconnect; the cluster stays. Its logs stay with it, whatever `keep_logs` says."""
        ray.shutdown()

    def kill(self) -> None:
        """Nothing here is ours to kill."""
