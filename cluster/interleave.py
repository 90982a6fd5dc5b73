"""Several streams as one, as fast as each comes; when one fails or the reader leaves, all are closed.

`completion` reads a request's choices through it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def interleave(sources: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[T]:
    """Yield the items of all sources; items that are there together come in the order of the sources.

    Reads at most one item ahead of each where there are several. Raises what a source raises, after closing the others.
    """
    if len(sources) == 1:  # nothing to wait for side by side, and so no task for each item
        async with aclosing(sources[0]) as only:
            async for alone in only:
                yield alone
        return
    reading = {index: asyncio.create_task(_read(source)) for index, source in enumerate(sources)}
    try:
        while reading:
            done, _ = await asyncio.wait(reading.values(), return_when=asyncio.FIRST_COMPLETED)
            for index in [index for index, task in reading.items() if task in done]:
                item = await reading[index]
                if item is None:
                    del reading[index]
                    continue
                reading[index] = asyncio.create_task(_read(sources[index]))
                yield item[0]
    finally:
        for task in reading.values():
            task.cancel()
        await asyncio.gather(*reading.values(), return_exceptions=True)
        closed = await asyncio.gather(*(source.aclose() for source in sources), return_exceptions=True)
        for error in closed:  # one that cannot be closed may not keep the others open, nor hide why all are closed
            if error is not None:
                logger.error("a stream could not be closed", exc_info=error)


async def _read(source: AsyncGenerator[T]) -> tuple[T] | None:
    """The next item, or None at the end."""
    async for item in source:
        return (item,)
    return None
