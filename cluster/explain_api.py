"""The endpoints that explain requests: `/v1/paceline/requests` and, below it, one by its id. `api` routes to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from http import HTTPStatus

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from paceline.actors.errors import RequestError
from paceline.cluster.backend import Backend
from paceline.cluster.explanation import ExplainedSequence, Explanation
from paceline.cluster.http_errors import RefusedRequest

_LIMIT = 50
MOST_LISTED = 1000


class UnknownRequest(RefusedRequest):
    """Nothing is kept of the request that was asked for."""

    http_status = HTTPStatus.NOT_FOUND


class ExplainEndpoints:
    """Both endpoints.

    Args:
        backend: The cluster.
        decode: Text of a list of ids.
        kept: `selector.explain_requests`, for what a refusal says.
    """

    def __init__(self, backend: Backend, decode: Callable[[list[int]], str], kept: int) -> None:
        self._backend = backend
        self._decode = decode
        self._kept = kept

    async def request(self, request: Request) -> Response:
        """One request, round by round.

        Raises:
            UnknownRequest: nothing is kept of it.
            NotReady: the selector does not answer.
        """
        name = request.path_params["id"]
        found = await self._backend.explain(name)
        if found is None:
            raise UnknownRequest(
                f"id: {name!r:.200}: nothing is kept of such a request; expected the id of one of the newest "
                f"{self._kept} replies that drafters were allowed for, since the selector's last start",
                "id",
                "request_not_found",
            )
        return JSONResponse(asdict(self._with_text(found)))

    async def requests(self, request: Request) -> Response:
        """The newest requests, a line each.

        Raises:
            RequestError: `limit` is no number, or out of bounds.
            NotReady: the selector does not answer.
        """
        text = request.query_params.get("limit", str(_LIMIT))
        limit = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
        if not 0 < limit <= MOST_LISTED:
            raise RequestError(f"limit: {text!r:.80}; expected a whole number from 1 to {MOST_LISTED}", "limit")
        return JSONResponse(asdict(await self._backend.requests(limit)))

    def _with_text(self, found: Explanation) -> Explanation:
        return replace(found, choices=[self._spelled(choice) for choice in found.choices])

    def _spelled(self, choice: ExplainedSequence) -> ExplainedSequence:
        rounds = [replace(r, text=self._decode(r.token_ids)) if r.token_ids else r for r in choice.rounds]
        return replace(choice, rounds=rounds)
