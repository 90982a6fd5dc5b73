"""Every error paceline raises on purpose, with the HTTP status and gRPC code it becomes at a boundary.

PacelineError                500  INTERNAL
+-- ConfigError              400  INVALID_ARGUMENT    a setting or file is wrong: names field, value, expectation
+-- RequestError             400  INVALID_ARGUMENT    a client's request is wrong: `param` names the field
|   +-- UnknownModel         404  NOT_FOUND
|   +-- UnknownDrafter       404  NOT_FOUND
|   +-- Conflict             409  FAILED_PRECONDITION the name is taken, or the resources are
|   +-- Forbidden            403  PERMISSION_DENIED
|   +-- BodyTooLarge         413  INVALID_ARGUMENT
|   +-- Unauthorized         401  UNAUTHENTICATED
+-- Overloaded               429  RESOURCE_EXHAUSTED  a bounded queue is full: `retry_after_s` says when to return
+-- NotReady                 503  UNAVAILABLE         not serving yet, or no longer
+-- ModelSourceError         500  FAILED_PRECONDITION a model cannot be found, fetched, read or used
+-- ProtocolError            500  INVALID_ARGUMENT    a peer's message breaks the wire contract
|   +-- DraftError           500  INVALID_ARGUMENT    a draft that cannot be verified (bad ids, NaN, wrong sums)
+-- LinkDown                 503  UNAVAILABLE         a gRPC link is not there now
+-- EngineError              500  INTERNAL            the decoding loop failed; the request ends with this
"""

from __future__ import annotations

from typing import ClassVar

import grpc


class PacelineError(Exception):
    """The root. `http_status` and `grpc_code` are what a boundary answers with."""

    http_status: ClassVar[int] = 500
    grpc_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL


class ConfigError(PacelineError):
    """A setting, option or file is wrong; the message names the field, the value and what was expected."""

    http_status = 400
    grpc_code = grpc.StatusCode.INVALID_ARGUMENT


class RequestError(PacelineError):
    """A client's request is wrong. `param` is the field's path, or None where no single field is at fault."""

    http_status = 400
    grpc_code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param

    def __reduce__(self) -> tuple[type, tuple[str, str | None]]:
        """Keep `param` across processes."""
        return type(self), (str(self), self.param)


class UnknownModel(RequestError):  # noqa: N818 - named by what happened, as httpx does
    """The request names a model that is not served here."""

    http_status = 404
    grpc_code = grpc.StatusCode.NOT_FOUND


class UnknownDrafter(RequestError):  # noqa: N818
    """The request names a drafter that is not there."""

    http_status = 404
    grpc_code = grpc.StatusCode.NOT_FOUND


class Conflict(RequestError):  # noqa: N818
    """What the request wants cannot be beside what is there: a name that is taken, resources that are."""

    http_status = 409
    grpc_code = grpc.StatusCode.FAILED_PRECONDITION


class Forbidden(RequestError):  # noqa: N818
    """Not from there: the caller is known, and may not."""

    http_status = 403
    grpc_code = grpc.StatusCode.PERMISSION_DENIED


class BodyTooLarge(RequestError):  # noqa: N818
    """The request's body is over the limit."""

    http_status = 413


class Unauthorized(RequestError):  # noqa: N818
    """A key or token is missing or wrong."""

    http_status = 401
    grpc_code = grpc.StatusCode.UNAUTHENTICATED


class Overloaded(PacelineError):  # noqa: N818
    """A bounded queue is full."""

    http_status = 429
    grpc_code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type, tuple[str, float]]:
        """Keep `retry_after_s` across processes."""
        return type(self), (str(self), self.retry_after_s)


class NotReady(PacelineError):  # noqa: N818
    """The cluster is not serving yet, or no longer."""

    http_status = 503
    grpc_code = grpc.StatusCode.UNAVAILABLE


class ModelSourceError(PacelineError):
    """A model cannot be found, fetched, read or used."""

    grpc_code = grpc.StatusCode.FAILED_PRECONDITION


class ProtocolError(PacelineError):
    """A peer's message breaks the wire contract."""

    grpc_code = grpc.StatusCode.INVALID_ARGUMENT


class DraftError(ProtocolError):
    """A draft that cannot be verified: ids outside the vocabulary, NaN, probabilities that do not sum to one.

    `reason` is one short word per kind of fault, to count by.
    """

    def __init__(self, message: str, reason: str = "invalid") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Keep `reason` across processes."""
        return type(self), (str(self), self.reason)


class LinkDown(PacelineError):  # noqa: N818
    """A gRPC link is not there now."""

    http_status = 503
    grpc_code = grpc.StatusCode.UNAVAILABLE


class EngineError(PacelineError):
    """The decoding loop failed."""
