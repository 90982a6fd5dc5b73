"""The dashboard's files over HTTP: `/dashboard`, and `/dashboard/NAME` for what it loads.

All of them are read once, at the start; a request's path is only ever looked up among their names. They may be cached,
but are asked for again each time (ETag), so that a page and its scripts are always of one version. The
Content-Security-Policy lets the page load and call this server alone, and run nothing that is written in the page.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

PAGE = "index.html"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class _Asset:
    body: bytes
    media_type: str
    etag: str


class DashboardPages:
    """The files of the installed package."""

    def __init__(self) -> None:
        self._assets = dict(_assets(files("paceline.cluster") / "dashboard", ""))

    @property
    def names(self) -> list[str]:
        """Every file that is served, by its path under `/dashboard/`."""
        return sorted(self._assets)

    def add_to(self, api: FastAPI) -> None:
        """Add the routes."""
        for path in ("/dashboard", "/dashboard/{name:path}"):
            api.add_api_route(path, self._asset, methods=["GET", "HEAD"], response_model=None)

    async def _asset(self, request: Request) -> Response:
        if request.url.path.endswith("/dashboard/"):  # seen from there, the page's relative paths would be others
            return RedirectResponse("../dashboard", 308, headers=_HEADERS)
        asset = self._assets.get(request.path_params.get("name", PAGE))
        if asset is None:
            raise HTTPException(404)
        headers = _HEADERS | {"ETag": asset.etag}
        held = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if asset.etag in held or "*" in held:
            return Response(status_code=304, headers=headers)
        return Response(asset.body, headers=headers, media_type=asset.media_type)


def _assets(folder: Traversable, prefix: str) -> list[tuple[str, _Asset]]:
    found = []
    for item in folder.iterdir():
        name = prefix + item.name
        if item.is_dir():
            found += _assets(item, f"{name}/")
            continue
        body = item.read_bytes()
        suffix = "." + item.name.rpartition(".")[2]
        found.append((name, _Asset(body, _MEDIA_TYPES[suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')))
    return found
