"""A small client of our own HTTP endpoint, for the commands `chat`, `status`, `drafters` and `serve`.

It turns what goes wrong into paceline's errors: nothing answers (`NotReady`), the server refuses (`RequestError`).
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from pydantic import TypeAdapter, ValidationError

from paceline.actors.environment import api_keys
from paceline.actors.errors import EngineError, NotReady, PacelineError, ProtocolError, RequestError, Unauthorized
from paceline.cluster.backend import ClusterStatus
from paceline.cluster.drafter_control import DrafterView
from paceline.cluster.explanation import Explanation, RequestList

T = TypeVar("T")
DEFAULT_URL = "http://127.0.0.1:8000"  # that commands take where none is given

_STATUS: TypeAdapter[ClusterStatus] = TypeAdapter(ClusterStatus)
_EXPLANATION: TypeAdapter[Explanation] = TypeAdapter(Explanation)
_REQUESTS: TypeAdapter[RequestList] = TypeAdapter(RequestList)
_DRAFTERS: TypeAdapter[list[DrafterView]] = TypeAdapter(list[DrafterView])
_DRAFTERS_PATH = "/v1/paceline/drafters"
_OPERATOR_HEADER = "X-Paceline-Operator"
_CHANGE_S = 20.0  # beyond what a change itself may take
_ROUND_S = 120.0  # longest silence between two chunks: a long prompt's prefill on a small machine
_DATA = "data:"


@dataclass(frozen=True, slots=True)
class Piece:
    """What one round added to an answer. `drafter` is None where it was decoded plainly."""

    text: str
    drafter: str | None
    drafted: int
    accepted: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended, and what it counted."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Client:
    """Talks to one endpoint. Use as a context manager, or `close` it.

    Args:
        url: Where the endpoint is, with or without `/v1`.
        api_key: Sent with every request; None takes the first of `PACELINE_API_KEYS`, if there is one.
        timeout_s: Longest wait for an answer that is not streamed.
        operator_token: What changes of the cluster are asked for with.
        transport: For tests.

    Raises:
        RequestError: the URL is not one of HTTP, or the key cannot be sent.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        operator_token: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number, a bracket that is not closed
            usable = False
        if not usable or parts.hostname is None:
            raise RequestError(f"--url: {url!r}; expected something like http://127.0.0.1:8000", "url")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._operator = {} if operator_token is None else {_OPERATOR_HEADER: operator_token}
        loopback = parts.hostname == "localhost" or parts.hostname == "::1" or parts.hostname.startswith("127.")
        # A proxy that the environment names cannot reach this machine's loopback.
        key = api_key or next(iter(api_keys()), None)
        if key is not None and not (key.isascii() and key.isprintable()):
            raise RequestError("PACELINE_API_KEYS: expected visible ASCII characters")
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(timeout=timeout_s, transport=transport, trust_env=not loopback, headers=headers)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    @property
    def option(self) -> str:
        """What commands need to be given to reach the same endpoint, with a space before it; empty where nothing."""
        return "" if self.url == DEFAULT_URL else f" --url {self.url}"

    def is_ready(self) -> bool:
        """Whether `/ready` says yes; no answer at all is a no."""
        try:
            return self._http.get(f"{self.url}/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def models(self) -> list[str]:
        """Names of the models served.

        Raises:
            PacelineError: as `status`.
        """
        try:
            return [str(model["id"]) for model in self._get("/v1/models")["data"]]
        except (KeyError, TypeError) as error:
            raise ProtocolError(f"{self.url}/v1/models: not a list of models") from error

    def status(self) -> ClusterStatus:
        """The whole cluster now.

        Raises:
            NotReady: nothing answers there.
            ProtocolError: what answers is not paceline.
            PacelineError: the server failed.
        """
        return self._read(_STATUS, "/v1/paceline/status")

    def explain(self, request: str) -> Explanation:
        """What is kept of a request, by the id of its reply.

        Raises:
            PacelineError: as `status`, and RequestError where nothing is kept of it.
        """
        return self._read(_EXPLANATION, f"/v1/paceline/requests/{quote(request, safe='')}")

    def requests(self, limit: int) -> RequestList:
        """The newest requests that are kept.

        Raises:
            PacelineError: as `status`, and RequestError where `limit` is out of bounds.
        """
        return self._read(_REQUESTS, f"/v1/paceline/requests?limit={limit}")

    def drafters(self) -> list[DrafterView]:
        """The running cluster's drafters.

        Raises:
            PacelineError: as `status`.
        """
        try:
            return _DRAFTERS.validate_python(self._get(_DRAFTERS_PATH)["data"])
        except (ValidationError, KeyError, TypeError) as error:
            raise ProtocolError(f"{self.url}{_DRAFTERS_PATH}: not a list of drafters") from error

    def add_drafter(self, document: dict[str, Any], wait_s: float) -> None:
        """Add a drafter, and wait until it has registered.

        Raises:
            PacelineError: as `status`, and RequestError where the server refuses it.
        """
        self._change("POST", f"{_DRAFTERS_PATH}?wait_s={wait_s:g}", document, wait_s + _CHANGE_S)

    def drain_drafter(self, name: str) -> None:
        """Give a drafter no new sequences.

        Raises:
            PacelineError: as `add_drafter`.
        """
        self._change("POST", f"{_DRAFTERS_PATH}/{quote(name, safe='')}/drain", {}, _CHANGE_S)

    def remove_drafter(self, name: str) -> None:
        """Take a drafter away.

        Raises:
            PacelineError: as `add_drafter`.
        """
        self._change("DELETE", f"{_DRAFTERS_PATH}/{quote(name, safe='')}", None, _CHANGE_S)

    def trace(self, seconds: float) -> dict[str, Any]:
        """What all processes did in the next `seconds`, in the Trace Event Format.

        Raises:
            PacelineError: as `status`, and RequestError where `seconds` is out of bounds.
        """
        document: dict[str, Any] = self._get(f"/v1/paceline/trace?seconds={seconds:g}", wait_s=seconds + 10.0)
        if "traceEvents" not in document:
            raise ProtocolError(f"{self.url}/v1/paceline/trace: not a trace")
        return document

    def chat(
        self, model: str, messages: list[dict[str, str]], *, temperature: float | None, max_tokens: int | None
    ) -> Generator[Piece | Ending, None, None]:
        """Stream an answer: pieces, then one ending. Closing the generator early stops the generation.

        Raises:
            PacelineError: as `status`, and RequestError where the server refuses the request.
        """
        body: dict[str, Any] = {"model": model, "messages": messages, "stream": True}
        body["stream_options"] = {"include_usage": True}
        if temperature is not None:
            body["temperature"] = temperature
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        try:
            content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        except ValueError as error:  # no number, or text that came in as other bytes than UTF-8
            raise RequestError(f"the request cannot be written as JSON: {error}") from error
        headers = {"Content-Type": "application/json"}
        try:
            timeout = httpx.Timeout(10.0, read=_ROUND_S)
            url = f"{self.url}/v1/chat/completions"
            with self._http.stream("POST", url, content=content, headers=headers, timeout=timeout) as reply:
                if reply.is_error:
                    reply.read()
                    raise _refusal(reply)
                yield from _events(reply)
        except httpx.TransportError as error:
            raise self._silent(error) from error

    def _read(self, kind: TypeAdapter[T], path: str) -> T:
        try:
            return kind.validate_python(self._get(path))
        except ValidationError as error:
            raise ProtocolError(f"{self.url}{path}: not what this version of paceline expects") from error

    def _get(self, path: str, wait_s: float | None = None) -> Any:
        try:
            reply = self._http.get(self.url + path, timeout=wait_s or self._http.timeout)
        except httpx.TransportError as error:
            raise self._silent(error) from error
        if reply.is_error:
            raise _refusal(reply)
        try:
            return reply.json()
        except ValueError as error:
            raise ProtocolError(f"{self.url}{path}: not JSON; is this paceline?") from error

    def _change(self, method: str, path: str, document: dict[str, Any] | None, wait_s: float) -> None:
        try:
            reply = self._http.request(
                method, self.url + path, json=document, headers=self._operator, timeout=httpx.Timeout(10.0, read=wait_s)
            )
        except httpx.TransportError as error:
            raise self._silent(error) from error
        if reply.is_error:
            raise _refusal(reply)

    def _silent(self, error: httpx.TransportError) -> NotReady:
        if isinstance(error, httpx.ConnectError):
            return NotReady(f"nothing answers at {self.url}; start it with `paceline serve FILE`, or give --url")
        return NotReady(f"{self.url} does not answer ({type(error).__name__})")


def _refusal(reply: httpx.Response) -> PacelineError:
    try:
        error = reply.json()["error"]
        message, param = str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError):
        message, param = f"HTTP {reply.status_code} from {reply.request.url}", None
    if reply.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        return NotReady(message) if reply.status_code == httpx.codes.SERVICE_UNAVAILABLE else EngineError(message)
    if reply.status_code == httpx.codes.UNAUTHORIZED:
        return Unauthorized(f"{message} (PACELINE_API_KEYS sets it)")
    return RequestError(message, param)


def _events(reply: httpx.Response) -> Iterator[Piece | Ending]:
    reason = ""
    usage: dict[str, Any] = {}
    for line in reply.iter_lines():
        data = line.removeprefix(_DATA).strip()
        if not line.startswith(_DATA) or data == "[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise EngineError(str(event["error"].get("message", event["error"])))
        usage = event.get("usage") or usage
        piece = _piece(event)
        if piece is not None:
            yield piece
        for choice in event.get("choices", []):
            reason = choice.get("finish_reason") or reason
    yield Ending(reason, int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)))


def _piece(event: dict[str, Any]) -> Piece | None:
    """The round that a chunk carries; None where it carries none (the role, the usage)."""
    text = "".join(choice["delta"].get("content") or "" for choice in event.get("choices", []))
    vendor = event.get("paceline") or {}
    if "drafter" not in vendor:
        return Piece(text, None, 0, 0) if text else None
    return Piece(text, vendor["drafter"] or None, int(vendor.get("drafted", 0)), int(vendor.get("accepted", 0)))
