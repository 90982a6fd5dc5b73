"""The dashboard's files: what is served, how it may be cached, what a page may do, and that packages carry them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fake_backend import FakeBackend, make_api, make_tokenizer, served

from paceline.cluster.dashboard_pages import DashboardPages

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "cluster" / "dashboard"
NAMES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file())
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "txt": "text/plain"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    tokenizer = make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))
    with served(make_api(FakeBackend(lambda _: []), tokenizer)) as url, httpx.Client(base_url=url) as client:
        yield client


def test_every_file_is_served_as_what_it_is(client: httpx.Client) -> None:
    assert DashboardPages().names == NAMES
    for name in NAMES:
        reply = client.get(f"/dashboard/{name}")
        assert reply.status_code == 200
        assert reply.content == (FOLDER / name).read_bytes()
        assert reply.headers["content-type"].startswith(TYPES[name.rpartition(".")[2]])
        assert reply.headers["x-content-type-options"] == "nosniff"
    page = client.get("/dashboard")
    assert page.content == (FOLDER / "index.html").read_bytes()
    assert client.head("/dashboard").headers["content-length"] == str(len(page.content))
    assert client.get("/dashboard/").headers["location"] == "../dashboard"
    assert client.get("/dashboard/", follow_redirects=True).content == page.content


def test_a_file_that_is_held_already_is_not_sent_again(client: httpx.Client) -> None:
    first = client.get("/dashboard/app.js")
    assert first.headers["cache-control"] == "no-cache"
    for held in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
        again = client.get("/dashboard/app.js", headers={"If-None-Match": held})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    changed = client.get("/dashboard/app.js", headers={"If-None-Match": client.get("/dashboard").headers["etag"]})
    assert changed.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "nothing.js",
        "../backend.py",
        "..%2fbackend.py",
        "%2e%2e/%2e%2e/etc/passwd",
        "vendor",
        "vendor/",
        "vendor/../../api.py",
        "/etc/passwd",
        "app.js%00",
        "APP.JS",
    ],
)
def test_nothing_else_is_served(client: httpx.Client, path: str) -> None:
    url = client.base_url.copy_with(raw_path=f"/dashboard/{path}".encode())
    reply = client.get(url)
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "not_found"


def test_the_page_may_load_and_call_this_server_alone(client: httpx.Client) -> None:
    policy = client.get("/dashboard").headers["content-security-policy"]
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert {rules[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert rules["frame-ancestors"] == "'none'"
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=|https?://", page)
    for path in FOLDER.glob("*.js"):  # ours; what a model says must not become HTML
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", path.read_text()), path


def test_what_the_page_refers_to_is_there() -> None:
    page = (FOLDER / "index.html").read_text()
    assert set(re.findall(r'(?:src|href)="dashboard/([^"]+)"', page)) <= set(NAMES)
    for path in FOLDER.glob("*.js"):
        assert set(re.findall(r'from "\./([^"]+)"', path.read_text())) <= set(NAMES)
        assert len(path.read_text().splitlines()) <= 400


def test_pictures_of_the_page_have_all_its_colours() -> None:
    """A palette of few colours changes those of the drafters, by which the pictures are read."""
    pictures = sorted((ROOT / "docs" / "img").glob("dashboard*.png"))
    assert len(pictures) >= 3, "light, dark, phone"
    shown = (ROOT / "docs" / "dashboard.md").read_text()
    for path in pictures:
        header = path.read_bytes()[:26]
        assert header.startswith(b"\x89PNG\r\n\x1a\n"), path
        assert header[25] in {2, 6}, f"{path}: colour type {header[25]}, expected RGB (2) or RGBA (6)"
        assert f"img/{path.name}" in shown, f"{path} is shown nowhere"


def test_a_wheel_carries_every_file(tmp_path: Path) -> None:
    """Built from a copy, so that nothing is left in the tree. The installed package is asked by the other tests."""
    source = tmp_path / "source"
    for folder in ("actors", "cluster", "kernels", "protos"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {f"paceline/cluster/dashboard/{name}" for name in NAMES} <= held
