"""Errors as the OpenAI API words them: status, headers and `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse

from paceline.actors.errors import (
    BodyTooLarge,
    Conflict,
    Forbidden,
    NotReady,
    Overloaded,
    PacelineError,
    RequestError,
    Unauthorized,
    UnknownDrafter,
    UnknownModel,
)

_NOT_READY_RETRY_S = 2
_TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "service_unavailable_error",
}


class RefusedRequest(RequestError):  # noqa: N818 - named by what happened, as its siblings are
    """A wrong request that clients may want to tell from others by its `code`."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param)
        self.code = code

    def __reduce__(self) -> tuple[type, tuple[str, str | None, str | None]]:  # type: ignore[override]
        """Keep `param` and `code` across processes."""
        return type(self), (str(self), self.param, self.code)


class UnsupportedMediaType(RefusedRequest):
    """The body is announced as something that is not JSON, or as nothing at all."""

    http_status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE

    def __init__(self, message: str, param: str | None = None, code: str | None = "unsupported_media_type") -> None:
        super().__init__(message, param, code)


def status_of(error: Exception) -> int:
    """The HTTP status an error becomes."""
    return error.http_status if isinstance(error, PacelineError) else HTTPStatus.INTERNAL_SERVER_ERROR


def error_document(error: Exception) -> dict[str, Any]:
    """The body an error becomes. A bug's own words stay in the log: they may hold what is no one else's business."""
    message = str(error) if isinstance(error, PacelineError) else "internal error; the server's log says more"
    param = error.param if isinstance(error, RequestError) else None
    return _document(message, status_of(error), param, _code(error))


def error_reply(error: Exception) -> JSONResponse:
    """A whole response."""
    return JSONResponse(error_document(error), status_of(error), headers=_headers(error))


def status_reply(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A response for what the HTTP layer itself refuses: an unknown path, a wrong method."""
    return JSONResponse(_document(message, status, None, code), status, headers=headers)


def _document(message: str, status: int, param: str | None, code: str | None) -> dict[str, Any]:
    fallback = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    kind = _TYPES.get(HTTPStatus(status), fallback)
    return {"error": {"message": _plain(message), "type": kind, "param": param and _plain(param), "code": code}}


def _code(error: Exception) -> str | None:
    match error:
        case RefusedRequest():
            return error.code
        case UnknownModel():
            return "model_not_found"
        case UnknownDrafter():
            return "drafter_not_found"
        case Conflict():
            return "conflict"
        case Forbidden():
            return "forbidden"
        case BodyTooLarge():
            return "body_too_large"
        case Unauthorized():
            return "invalid_api_key"
        case RequestError():
            return None
        case Overloaded():
            return "overloaded"
        case NotReady():
            return "not_ready"
        case _:
            return "internal_error"


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, Overloaded):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    if status_of(error) == HTTPStatus.SERVICE_UNAVAILABLE:
        return {"Retry-After": str(_NOT_READY_RETRY_S)}
    return {}


def _plain(text: str) -> str:
    """What was quoted from a request may hold lone surrogates, which no response can carry."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
