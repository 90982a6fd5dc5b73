"""The line to a drafter that lives in the target's own process: no sockets, no threads, the same Protocol.

`send` runs the drafter there and then, so everything is in order and repeatable. For tests, and for runs without Ray.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from paceline.actors.drafter_link import INBOX_MESSAGES, Received, Traffic
from paceline.actors.drafter_server import Host, answer
from paceline.actors.errors import LinkDown
from paceline.actors.messages import DrafterBatch, Score


class LocalLink:
    """See `drafter_link.Link`.

    Args:
        host: Holds the sessions.
        on_scores: Takes every batch's scores.
        clock: Stamps replies.
    """

    def __init__(
        self,
        host: Host,
        on_scores: Callable[[list[Score]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.traffic = Traffic(connects=1)
        self._host = host
        self._on_scores = on_scores
        self._clock = clock
        self._inbox: deque[Received] = deque()
        self._up = True

    @property
    def up(self) -> bool:
        """True until closed."""
        return self._up

    @property
    def generation(self) -> int:
        """Always 1: the sessions live as long as the link."""
        return 1

    def send(self, batch: DrafterBatch) -> None:
        """Have the drafter handle the batch.

        Raises:
            LinkDown: the link was closed, or nobody takes the replies.
        """
        if not self._up or len(self._inbox) >= INBOX_MESSAGES:
            self.traffic.refused += 1
            raise LinkDown("local drafter: the link was closed, or its replies were not taken")
        reply, scores = answer(self._host, batch)
        if reply:
            self._inbox.append(Received(reply, self._clock()))
        if scores:
            self._on_scores(scores)

    def receive(self, timeout_s: float) -> Received | None:
        """The next reply. There is nothing to wait for, so `timeout_s` cannot matter here."""
        return self._inbox.popleft() if self._inbox else None

    def close(self) -> None:
        """Take no more batches. The host, and its sessions, are the maker's."""
        self._up = False
