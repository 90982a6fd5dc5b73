"""The one place that reads environment variables, at call time, so that a test or a parent process can set them.

PACELINE_API_KEYS  keys of the HTTP API, with commas between: a server lets all of them in, our commands send the first
PACELINE_CACHE     folder of fetched models; default `~/.cache/paceline`
PACELINE_OPERATOR_TOKEN  what `paceline drafters` shows a server that sets `http.operator_token`
PIP_CERT           certificate file that the user's pip trusts; our own downloads from the package index trust it too
RAY_ADDRESS        a running Ray that `paceline serve` joins (Ray's own variable); default: one of its own
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where fetched models are kept. The folder may not exist yet."""
    chosen = os.environ.get("PACELINE_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "paceline"


def api_keys() -> list[str]:
    """Keys of the HTTP API; none where none are set."""
    return [key for part in os.environ.get("PACELINE_API_KEYS", "").split(",") if (key := part.strip())]


def pip_certificates() -> Path | None:
    """The certificate file set for pip, if one is set."""
    chosen = os.environ.get("PIP_CERT")
    return Path(chosen).expanduser() if chosen else None


def operator_token() -> str | None:
    """The operator's secret, if one is set."""
    return os.environ.get("PACELINE_OPERATOR_TOKEN") or None


def ray_address() -> str | None:
    """The running Ray to join, if one is named."""
    return os.environ.get("RAY_ADDRESS") or None
