"""Several streams as one: order, failures, and that all are closed however reading ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from paceline.cluster.interleave import interleave


async def count(to: int, pause_s: float, closed: list[int], index: int = 0) -> AsyncGenerator[tuple[int, int]]:
    """`(index, 0)`, `(index, 1)`, ... with a pause before each; notes its closing."""
    try:
        for number in range(to):
            await asyncio.sleep(pause_s)
            yield index, number
    finally:
        closed.append(index)


async def test_every_item_comes_once_and_a_slow_stream_holds_no_other_up() -> None:
    closed: list[int] = []
    sources = [count(2, 0.1, closed, 0), count(5, 0.0, closed, 1), count(0, 0.0, closed, 2)]
    items = [item async for item in interleave(sources)]
    assert items == [(1, number) for number in range(5)] + [(0, 0), (0, 1)]
    assert sorted(closed) == [0, 1, 2]


async def test_a_lone_stream_is_read_in_the_readers_task_and_closed_when_the_reader_leaves() -> None:
    readers: set[object] = set()
    closed: list[int] = []

    async def source() -> AsyncGenerator[int]:
        try:
            for number in range(100):
                readers.add(asyncio.current_task())
                yield number
        finally:
            closed.append(0)

    lone = interleave([source()])
    assert [await anext(lone) for _ in range(3)] == [0, 1, 2]
    await lone.aclose()
    assert closed == [0]
    assert readers == {asyncio.current_task()}


async def test_what_one_raises_is_raised_and_the_others_are_closed() -> None:
    async def failing() -> AsyncGenerator[tuple[int, int]]:
        yield 9, 9
        raise LookupError("gone")

    closed: list[int] = []
    with pytest.raises(LookupError, match="gone"):
        async for _ in interleave([count(10**6, 0.0, closed, 0), failing(), count(10**6, 30.0, closed, 1)]):
            pass
    assert sorted(closed) == [0, 1]


async def test_a_choice_that_cannot_be_closed_does_not_keep_the_others_open(caplog: pytest.LogCaptureFixture) -> None:
    closed = []

    async def source(index: int) -> AsyncGenerator[int]:
        try:
            while True:
                yield index
        finally:
            closed.append(index)
            if index == 0:
                raise OSError("no link")

    together = interleave([source(index) for index in range(3)])
    assert await anext(together) == 0
    await together.aclose()
    assert sorted(closed) == [0, 1, 2]
    assert "could not be closed" in caplog.text
