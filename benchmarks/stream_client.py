"""A load generator for any OpenAI-compatible server: so many streamed chat answers at once, each event timed.

HTTP/1.1 over plain sockets and no client library: the generator runs on the cores that it loads, and a library's parser
takes as long for an event as a server needs to send it. `bench_load.py` sends the same requests with it to everyone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

SILENCE_S = 300.0  # longest wait for the next piece of an answer


class AnswerError(Exception):
    """A server refused a request, or broke its answer off."""


@dataclass
class Answer:
    """One answer as its client saw it."""

    tokens: int = 0  # by the server's own `usage`
    prompt_tokens: int = 0
    text: str = ""
    ttft_s: float = 0.0  # from the request to the first event that carries text
    seconds: float = 0.0  # to the end of the stream
    gaps_s: list[float] = field(default_factory=list)  # between two events that carry text
    rounds: int | None = None  # where the server tells them


@dataclass
class Load:
    """What a run of clients saw."""

    answers: list[Answer]  # in the requests' order
    seconds: float  # from the first request to the last answer's end


async def drive(url: str, bodies: list[dict[str, Any]], concurrency: int) -> Load:
    """Ask for all of `bodies`, `concurrency` at a time: a client takes the next one as soon as it has its answer.

    Raises:
        AnswerError: (in an ExceptionGroup) any answer failed; a figure without it would flatter the server.
    """
    answers: list[Answer | None] = [None] * len(bodies)
    waiting = iter(enumerate(bodies))

    async def client() -> None:
        for index, body in waiting:
            answers[index] = await ask(url, body)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as clients:
        for _ in range(min(concurrency, len(bodies))):
            clients.create_task(client())
    seconds = time.perf_counter() - began
    return Load([answer for answer in answers if answer is not None], seconds)


async def ask(url: str, body: dict[str, Any]) -> Answer:
    """One streamed answer.

    Raises:
        AnswerError: the server refused, reported an error, or ended the stream without `[DONE]` and `usage`.
    """
    payload = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}).encode()
    parts = urlsplit(url)
    head = f"POST {parts.path}/v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    answer, done, last = Answer(), False, 0.0
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(head.encode() + payload)
        async for data in _events(reader):
            now = time.perf_counter()
            if data == b"[DONE]":
                done = True
                break
            event = json.loads(data)
            if "error" in event:
                raise AnswerError(f"the stream reports an error: {event['error']}")
            if usage := event.get("usage"):
                answer.tokens, answer.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]
            if metrics := event.get("metrics"):
                answer.rounds = metrics["speculative_decoding"]["rounds"]
            text = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            if text:
                if answer.text:
                    answer.gaps_s.append(now - last)
                else:
                    answer.ttft_s = now - began
                answer.text += text
                last = now
        answer.seconds = time.perf_counter() - began
        answer.ttft_s = answer.ttft_s or answer.seconds  # nothing but the id that ends a text
    except (OSError, EOFError, TimeoutError, ValueError) as error:
        raise AnswerError(f"the stream broke: {type(error).__name__}: {error}") from error
    finally:
        writer.close()
    if not done or not answer.tokens:
        raise AnswerError("the stream ended without [DONE] or without usage")
    return answer


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The data of each server-sent event, as it comes.

    Raises:
        AnswerError: the status is not 200.
        EOFError: the connection ended within a chunk.
        ValueError: what came is not HTTP.
    """
    status, headers = await _head(reader)
    chunked = headers.get("transfer-encoding") == "chunked"
    if status != 200:
        raise AnswerError(f"HTTP {status}: {(await reader.read(500)).decode(errors='replace')}")
    held = b""
    async for piece in _chunks(reader) if chunked else _pieces(reader):
        *lines, held = (held + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                yield line[6:].rstrip(b"\r")


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    first = await _line(reader)
    if not first.startswith("HTTP/1."):
        raise ValueError(f"expected an HTTP/1.1 status line, got {first[:80]!r}")
    headers = {}
    while line := await _line(reader):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip().lower()
    return int(first.split()[1]), headers


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The chunks of a body in chunked transfer coding (RFC 9112, 7.1)."""
    while size := int((await _line(reader)).partition(";")[0], 16):
        async with asyncio.timeout(SILENCE_S):
            chunk = await reader.readexactly(size + 2)
        yield chunk[:-2]


async def _pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """A body that ends with the connection."""
    while piece := await asyncio.wait_for(reader.read(65536), SILENCE_S):
        yield piece


async def _line(reader: asyncio.StreamReader) -> str:
    line = await asyncio.wait_for(reader.readline(), SILENCE_S)
    if not line.endswith(b"\n"):
        raise EOFError("the connection ended early")
    return line.decode("latin-1").rstrip("\r\n")
