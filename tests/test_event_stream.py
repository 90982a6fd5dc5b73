"""Answers that end when their client does, where no server can be made to fail at the right moment."""

from __future__ import annotations

import asyncio
from typing import Any

from paceline.cluster.event_stream import EventStream


async def test_a_stream_whose_head_cannot_be_sent_is_closed_all_the_same() -> None:
    closed = []

    async def events() -> Any:
        try:
            yield {"number": 1}
            yield {"number": 2}
        finally:
            closed.append(True)

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(_: Any) -> None:
        raise OSError("broken pipe")

    rest = events()
    await EventStream(await anext(rest), rest)({"type": "http"}, receive, send)
    assert closed == [True]
