"""`paceline record URL`: what the selector saw and what came of it, of real traffic, as a Parquet file for `replay`.

It reads what is explained of each request once that has ended (`/v1/paceline/requests`), so it costs the cluster what
an explanation costs, and nothing on a target's path. Requests that come and go faster than it reads are counted.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from paceline.actors.errors import ConfigError, NotReady, RequestError
from paceline.cluster.client import Client
from paceline.cluster.explanation import RequestList
from paceline.cluster.replay.recording import RecordingWriter

POLL_S = 0.5
SETTLE_S = 1.5  # after a request's end, for scores that are still on their way
SILENT_S = 30.0  # without an answer, after which the recording ends
LISTED = 1000


@dataclass
class _Watch:
    """Which requests are new, which have ended and settled, and which went unread."""

    life: str = ""
    first: int = 0  # numbers beyond it are ours
    done: set[int] = field(default_factory=set)
    ended_s: dict[str, tuple[int, float]] = field(default_factory=dict)  # id -> number, when it was seen to have ended
    lost: int = 0
    running: int = 0

    def look(self, newest: RequestList, now_s: float) -> None:
        """Take the newest list."""
        if newest.life != self.life:
            self.lost += len(self.ended_s)
            # What ended before the recording began is not part of it; a restarted selector's requests all are.
            self.first, self.life = (0 if self.life else newest.seen), newest.life
            self.done, self.ended_s = set(), {}
        ours = [item for item in newest.requests if item.number > self.first and item.number not in self.done]
        self.running = sum(not item.finished for item in ours)
        for item in ours:
            if item.finished:
                self.ended_s.setdefault(item.id, (item.number, now_s))
        self._count_lost(min((item.number for item in newest.requests), default=newest.seen + 1))

    def _count_lost(self, oldest: int) -> None:
        """Numbers below the oldest that is still listed, which were never read, are lost."""
        self.lost += sum(number not in self.done for number in range(self.first + 1, oldest))
        self.first = max(self.first, oldest - 1)
        self.done = {number for number in self.done if number > self.first}
        self.ended_s = {name: held for name, held in self.ended_s.items() if held[0] > self.first}

    def settled(self, until_s: float) -> list[str]:
        """Requests that were seen to have ended by then, in the order in which they began."""
        return [name for name, (_, ended_s) in sorted(self.ended_s.items(), key=_number) if ended_s <= until_s]

    def read(self, name: str) -> None:
        """A request was read."""
        self.done.add(self.ended_s.pop(name)[0])


def _number(item: tuple[str, tuple[int, float]]) -> int:
    return item[1][0]


def record(
    url: str, output: Path, *, seconds: float | None, requests: int | None, console: Console | None = None
) -> int:
    """Record until so many seconds or requests have passed, or a KeyboardInterrupt comes (Ctrl-C, or SIGTERM: `cli`).

    Returns 0, or 1 where nothing came.

    Args:
        url: Where the endpoint is.
        output: The Parquet file; whole also after Ctrl-C.
        seconds: Most seconds; None is no bound.
        requests: Most requests; None is no bound.
        console: Where to print; default standard output.

    Raises:
        PacelineError: nothing answers at first, or not paceline.
        ConfigError: the file cannot be written, or the cluster keeps nothing of its requests.
    """
    console = console or Console()
    if output.exists():
        raise ConfigError(f"--output: {output}: is there already; expected a new file")
    with Client(url) as client:
        status = client.status()
        about = {"model": status.model, "policy": status.policy, "requests_lost": 0}
        watch, newest = _Watch(), client.requests(LISTED)
        if not newest.most:
            raise ConfigError(f"{url}: keeps nothing to record; expected `selector.explain_requests` above 0")
        watch.look(newest, time.monotonic())
        with RecordingWriter(output, about) as writer:
            try:
                _follow(client, watch, writer, seconds, requests, console)
            except KeyboardInterrupt:
                with suppress(NotReady):  # the cluster was stopped, too
                    _take(client, watch, writer, requests, time.monotonic())
            about["requests_lost"] = watch.lost
    console.print(
        f"{writer.requests} requests, {writer.rounds} rounds in {output}; {watch.running} still ran; "
        f"{watch.lost} came and went unread",
        highlight=False,
        soft_wrap=True,
    )
    if watch.lost:
        console.print("to lose fewer, let the cluster keep more (`selector.explain_requests`)", highlight=False)
    return 0 if writer.requests else 1


def _follow(
    client: Client,
    watch: _Watch,
    writer: RecordingWriter,
    seconds: float | None,
    requests: int | None,
    console: Console,
) -> None:
    began_s = heard_s = time.monotonic()
    with console.status("recording") as shown:
        while requests is None or writer.requests < requests:
            now_s = time.monotonic()
            over = seconds is not None and now_s - began_s >= seconds
            try:
                watch.look(client.requests(LISTED), now_s)
                heard_s = now_s
                _take(client, watch, writer, requests, now_s if over else now_s - SETTLE_S)
            except NotReady as error:
                if now_s - heard_s > SILENT_S:
                    console.print(f"the recording ends: {error}", highlight=False)
                    return
            shown.update(
                f"recorded {writer.requests} requests, {writer.rounds} rounds; {watch.running} running, "
                f"{watch.lost} lost; Ctrl-C ends it"
            )
            if over:
                return
            time.sleep(POLL_S)


def _take(client: Client, watch: _Watch, writer: RecordingWriter, requests: int | None, until_s: float) -> None:
    for name in watch.settled(until_s):
        if requests is not None and writer.requests >= requests:
            return
        try:
            found = client.explain(name)
        except RequestError:  # pushed out by newer ones since the list was read
            watch.lost += 1
        else:
            writer.write(found)
        watch.read(name)
