"""`/v1/paceline/drafters`: the drafters of a running cluster, and what an operator may do with them.

Adding one reads folders of the server and starts processes there, draining and removing takes from everybody, so these
are for who has `http.operator_token`; where none is set, for callers on the server itself. `api` lists the routes.
"""

from __future__ import annotations

import hmac
import math
from dataclasses import asdict
from ipaddress import ip_address

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from paceline.actors.errors import Conflict, Forbidden, RequestError, Unauthorized
from paceline.cluster.config import HttpConfig
from paceline.cluster.drafter_control import DrafterControl
from paceline.cluster.json_body import check_media_type, parse_object
from paceline.cluster.request_body import RequestBody, parse_request

OPERATOR_HEADER = "X-Paceline-Operator"
WAIT_S, LONGEST_WAIT_S = 60.0, 600.0
_FORWARDED = ("forwarded", "x-forwarded-for")


class DrainRequest(RequestBody):
    """Body of a drain: nothing is to be said, and `{}` or no body at all says it."""


class DrafterEndpoints:
    """The endpoints.

    Args:
        control: Does it.
        http: Says who may.
    """

    def __init__(self, control: DrafterControl, http: HttpConfig) -> None:
        self._control = control
        self._token = http.operator_token

    async def list(self, _: Request) -> Response:
        """Every drafter, with its replicas and statistics."""
        found = await self._control.drafters()
        return JSONResponse({"object": "list", "data": [asdict(drafter) for drafter in found]})

    async def add(self, request: Request) -> Response:
        """Add the drafter that the body describes; answers once it has registered."""
        self._check_operator(request)
        check_media_type(request.headers.get("content-type", ""))
        wait_s = _wait_s(request.query_params.get("wait_s"))
        document = parse_object(await request.body())
        await self._control.add_drafter(document, wait_s)
        return await self._one(document["name"], 201)

    async def drain(self, request: Request) -> Response:
        """Give a drafter no new sequences."""
        self._check_operator(request)
        # A browser sends a bodiless POST to any address for any page that asks, but not under this name.
        check_media_type(request.headers.get("content-type", ""))
        body = await request.body()
        if body.strip():
            parse_request(DrainRequest, parse_object(body))
        name = request.path_params["name"]
        await self._control.drain_drafter(name)
        return await self._one(name, 200)

    async def remove(self, request: Request) -> Response:
        """Take a drafter away."""
        self._check_operator(request)
        name = request.path_params["name"]
        await self._control.remove_drafter(name)
        return JSONResponse({"object": "drafter.deleted", "name": name, "deleted": True})

    async def _one(self, name: str, status: int) -> Response:
        found = next((drafter for drafter in await self._control.drafters() if drafter.name == name), None)
        if found is None:
            raise Conflict(f"name: the drafter {name!r:.200} was removed meanwhile", "name")
        return JSONResponse(asdict(found), status)

    def _check_operator(self, request: Request) -> None:
        """See that the caller may change the cluster.

        Raises:
            Unauthorized: the token is missing or wrong.
            Forbidden: no token is set, and the caller is not on this machine, or may not be.
        """
        if self._token is not None:
            given = request.headers.get(OPERATOR_HEADER, "")
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                raise Unauthorized(
                    f"{OPERATOR_HEADER}: {'is wrong' if given else 'is needed'}; expected http.operator_token",
                    OPERATOR_HEADER,
                )
            return
        caller = request.client.host if request.client is not None else ""
        # The name by which it was called is looked at, too: a web page's own name may be made to point here.
        called = (request.url.hostname or "").strip("[]")
        relayed = any(name in request.headers for name in _FORWARDED)
        if relayed or not _is_loopback(caller) or not (called == "localhost" or _is_loopback(called)):
            raise Forbidden(
                "drafters are changed from the server's own loopback address only, as long as http.operator_token is "
                f"not set; got a request from {caller or 'nowhere'} for {called or 'no host'}"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _wait_s(text: str | None) -> float:
    if text is None:
        return WAIT_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_WAIT_S:
        raise RequestError(
            f"wait_s: {text!r:.80}; expected more than 0 and at most {LONGEST_WAIT_S:.0f} seconds", "wait_s"
        )
    return seconds
