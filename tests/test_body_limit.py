"""The limit of a body, to the byte, and what a client sees that writes on, waits for leave, or goes away."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from fake_backend import served
from starlette.types import Receive, Scope, Send

from paceline.cluster.body_limit import BodyLimit

LIMIT = 1000
_HEAD = "POST / HTTP/1.1\r\nHost: paceline\r\nContent-Length: {}\r\n{}\r\n"


async def _length(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with the length of the body it was given."""
    message = await receive()
    assert not message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(message["body"])).encode()})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(BodyLimit(_length, LIMIT)) as url:
        yield url


def connect(url: str) -> socket.socket:
    where = urlsplit(url)
    return socket.create_connection((where.hostname, where.port), timeout=20)


def answer(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    got = b""
    while part := connection.recv(65536):
        got += part
    return got


@pytest.mark.parametrize("streamed", [False, True], ids=["with its length", "in parts"])
@pytest.mark.parametrize(("size", "status"), [(0, 200), (LIMIT, 200), (LIMIT + 1, 413)])
def test_the_limit_is_meant_to_the_byte(url: str, size: int, status: int, streamed: bool) -> None:
    body = b"x" * size
    reply = httpx.post(url, content=iter([body[:600], body[600:]]) if streamed else body, timeout=20)
    assert reply.status_code == status
    if status == 200:
        assert reply.text == str(size)
    else:
        assert (reply.json()["error"]["code"], reply.headers["connection"]) == ("body_too_large", "close")


def test_a_client_that_writes_everything_before_it_reads_gets_the_reason(url: str) -> None:
    """More than socket buffers hold: unless the server reads it, the client's write fails with a reset."""
    size = 30_000_000
    with connect(url) as connection:
        connection.sendall(_HEAD.format(size, "").encode())
        connection.sendall(b"x" * size)
        assert answer(connection).startswith(b"HTTP/1.1 413")


def test_a_client_that_waits_for_leave_is_refused_before_it_sends(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(_HEAD.format(30_000_000, "Expect: 100-continue\r\n").encode())
        got = answer(connection)
    assert got.startswith(b"HTTP/1.1 413")
    assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_too_large"


def test_a_client_that_goes_away_in_mid_body_leaves_the_server_as_it_was(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(_HEAD.format(500, "").encode() + b"x" * 100)
    assert httpx.post(url, content=b"abc", timeout=20).text == "3"
