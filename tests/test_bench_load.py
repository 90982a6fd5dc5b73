"""The load generator against servers of any make, and what `bench_load` makes of its cells."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import load_report
import pytest
import result_file
from bench_load import PACELINE, VLLM, blocks, cells, in_turn
from provenance import provenance
from stream_client import AnswerError, ask, drive

from paceline.cluster.training.prompt_file import Prompt

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}\n\n'
DONE = b"data: [DONE]\n\n"


def chunked(body: bytes, size: int) -> bytes:
    """A body in chunks of so many bytes, wherever they end."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts) + b"0\r\n\r\n"


@dataclass
class Crowd:
    """Requests under way."""

    now: int = 0
    most: int = 0


@asynccontextmanager
async def serving(
    pieces: Callable[[dict[str, Any]], list[bytes | float]], crowd: Crowd | None = None
) -> AsyncIterator[str]:
    """A server that answers each request with bytes and pauses, then hangs up."""
    seen = crowd or Crowd()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("Content-Length"))
        seen.now += 1
        seen.most = max(seen.most, seen.now)
        for piece in pieces(json.loads(await reader.readexactly(length))):
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                writer.write(piece)
                await writer.drain()
        seen.now -= 1
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
async def test_events_are_found_wherever_chunks_end(size: int) -> None:
    body = event("") + event("a b") + event(" c") + event(" \u00e9\n\n") + USAGE + DONE
    async with serving(lambda _: [HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, size)]) as url:
        answer = await ask(url, {})
    assert answer.text == "a b c \u00e9\n\n"
    assert (answer.tokens, answer.prompt_tokens) == (5, 7)
    assert len(answer.gaps_s) == 2, "an event without text is none that a reader sees"


async def test_times_are_those_of_events_with_text() -> None:
    def pieces(_: dict[str, Any]) -> list[bytes | float]:
        return [HEAD + b"\r\n", event(""), 0.2, event("a"), 0.1, event("b"), event("c"), USAGE, 0.1, DONE]

    async with serving(pieces) as url:
        answer = await ask(url, {})
    assert answer.ttft_s >= 0.2
    assert len(answer.gaps_s) == 2
    assert answer.gaps_s[0] >= 0.09
    assert answer.seconds >= answer.ttft_s + sum(answer.gaps_s) + 0.09


@pytest.mark.parametrize(
    ("pieces", "what"),
    [
        ([b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nfull"], "HTTP 429: full"),
        ([HEAD + b"\r\n", event("a"), b'data: {"error": {"message": "broken"}}\n\n'], "broken"),
        ([HEAD + b"\r\n", event("a"), DONE], "without usage"),
        ([HEAD + b"\r\n", event("a"), USAGE], r"without \[DONE\]"),
        ([HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n" + event("a")], "the stream broke"),
        ([b"SSH-2.0-whatever\r\n"], "the stream broke"),
    ],
)
async def test_what_is_no_whole_answer_is_an_error(pieces: list[bytes | float], what: str) -> None:
    async with serving(lambda _: pieces) as url:
        with pytest.raises(AnswerError, match=what):
            await ask(url, {})


async def test_so_many_at_once_and_each_request_once() -> None:
    asked: list[int] = []

    def pieces(body: dict[str, Any]) -> list[bytes | float]:
        asked.append(body["number"])
        assert body["stream"] is True
        assert body["stream_options"] == {"include_usage": True}
        return [HEAD + b"\r\n", event(str(body["number"])), 0.02, USAGE, DONE]

    crowd = Crowd()
    async with serving(pieces, crowd) as url:
        load = await drive(url, [{"number": number} for number in range(10)], 3)
    assert sorted(asked) == list(range(10))
    assert [answer.text for answer in load.answers] == [str(number) for number in range(10)]
    assert crowd.most == 3
    assert load.seconds >= 4 * 0.02, "ten answers of 20 ms, three at a time, are four waves"


def test_prompts_come_by_domains_in_turn() -> None:
    prompts = [Prompt("a", "1"), Prompt("a", "2"), Prompt("a", "3"), Prompt("b", "4"), Prompt("c", "5")]
    assert [prompt.text for prompt in in_turn(prompts)] == ["1", "4", "5", "2", "3"]


def test_blocks_are_mirrored_and_their_systems_take_turns() -> None:
    order = [(repeat, block[0].server) for repeat, block in blocks([*PACELINE, *VLLM], 3)]
    assert order == [
        (0, "paceline"),
        (0, "vllm-ngram"),
        (1, "vllm-ngram"),
        (1, "paceline"),
        (2, "paceline"),
        (2, "vllm-ngram"),
    ]
    first = [(level, system.name) for level, system in cells(list(PACELINE), [1, 8], 0)]
    assert first == [(1, "paceline"), (1, "paceline plain"), (8, "paceline plain"), (8, "paceline")]
    assert [level for level, _ in cells(list(PACELINE), [1, 8], 1)] == [8, 8, 1, 1]


def row(repeat: int, level: int, system: str, tokens: int, seconds: float, gaps: list[float]) -> dict[str, Any]:
    return {
        "repeat": repeat,
        "level": level,
        "system": system,
        "answers": 1,
        "tokens": tokens,
        "rounds": tokens // 2 if system == "paceline" else None,
        "seconds": seconds,
        "first_token_ms": [10.0 * (repeat + 1)],
        "gap_ms": gaps,
        "per_token_ms": [1.0],
    }


def test_ratios_are_taken_within_a_repetition(tmp_path: Path) -> None:
    rows = []
    for repeat, drift in enumerate((1.0, 2.0, 4.0)):  # the machine slows down; ratios stay
        for level, gain in ((1, 1.5), (12, 0.9)):
            rows.append(row(repeat, level, "paceline", int(100 * gain), drift, [1.0, 2.0, 30.0]))
            rows.append(row(repeat, level, "paceline plain", 100, drift, [5.0]))
            rows.append(row(repeat, level, "vllm-ngram", 60, drift, [5.0]))
    summary = load_report.summarise(rows, ["paceline", "paceline plain", "vllm-ngram"], [1, 12])
    assert summary["ratios"] == {
        "paceline / paceline plain": {"1": 1.5, "12": 0.9},
        "paceline / vllm-ngram": {"1": 2.5, "12": 1.5},
    }
    figures = summary["systems"]["paceline"]["1"]
    assert figures["tokens_per_s"] == 75.0
    assert figures["tokens_per_round"] == 2.0
    assert figures["first_token_ms"] == {"p50": 20.0, "p95": 30.0, "p99": 30.0}
    assert figures["gap_ms"] == {"p50": 2.0, "p95": 30.0, "p99": 30.0}
    assert summary["held_to"] == {
        "no slower than plain at any level": {"at_least": 0.98, "measured": 0.9, "level": "12"},
        "faster than vllm-ngram at 12": {"at_least": 1.1, "measured": 1.5, "level": "12"},
    }
    load_report.show(summary, "a test")
    load_report.draw(summary, tmp_path / "load.png", "a CPU", 2)
    assert (tmp_path / "load.png").stat().st_size > 10_000


def test_a_result_names_no_path_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = result_file.__file__
    monkeypatch.setattr(
        "sys.argv", ["x", "--vllm", "/opt/a/bin/python", "--rows=/tmp/rows", "--config", inside, "--n", "3"]
    )
    argv = provenance()["argv"]
    assert argv == ["--vllm", ".../python", "--rows=.../rows", "--config", "benchmarks/result_file.py", "--n", "3"]


def test_a_result_is_kept_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    result_file.add_out(parser)
    out = parser.parse_args(["--out", str(tmp_path / "result.json")]).out
    result_file.put({"benchmark": "x", "figure": 1.5}, out)
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text()) == {"benchmark": "x", "figure": 1.5}
    with pytest.raises(SystemExit):
        parser.parse_args(["--out", str(tmp_path / "nowhere" / "result.json")])
    assert "there is no folder" in capsys.readouterr().err
