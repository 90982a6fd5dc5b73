"""How many sequence-rounds per second does one selector sustain on one core, and how old is the news it sends?

No models: a real `SelectorServer` runs in a process of its own, bound to one core, and this process plays one target
and N drafters over gRPC. In every step the target reports a round of each sequence, and each drafter sends its scores
of the same tokens, one message each. First as fast as the selector takes it, a few steps ahead of it at most; then at a
share of that pace, where the time is taken from a report to the weights that follow it. Ends with one JSON line.

    python benchmarks/bench_selector.py [--drafters 2 8 32] [--sequences 64] [--seconds 5] [--policy normalhedge]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import grpc
import numpy as np
from provenance import provenance
from result_file import add_out, put
from rich.console import Console
from rich.progress import track
from rich.table import Table

from paceline.actors import selector_wire, snapshot_wire
from paceline.actors.channel import open_channel
from paceline.actors.messages import (
    PROTOCOL_VERSION,
    DraftTiming,
    Heartbeat,
    RoundContext,
    Score,
    SelectorSnapshot,
    SequenceOpened,
    SequenceRound,
    TargetReport,
)
from paceline.cluster.config import SelectorConfig, SpeculationConfig
from paceline.cluster.policy_options import REQUEST_POLICIES
from paceline.cluster.selector import Selector
from paceline.cluster.selector_server import UPDATE_INTERVAL_S, SelectorServer
from paceline.protos import paceline_pb2 as pb
from paceline.protos import paceline_pb2_grpc as pb_grpc

CONSOLE = Console()
TOKENS = 4  # committed per round and sequence
PROMPT = 100
DRAFTED = 7  # of them verified, beside the bonus token
LIFE = 64  # rounds of a sequence, after which another one takes its place
AHEAD = 4  # steps sent before the selector has taken them: scores may not run further ahead than its rings are long
WARM_UP = 8  # steps
VARIETY = 4  # steps whose scores differ
RANDOM = np.random.default_rng(0)
STILL_S = 2.0  # without any progress: what has not come was dropped
MESSAGE_BYTES = 64 << 20


def serve(policy: str, drafters: int, core: int, pipe: Connection) -> None:
    """A selector in a process of its own; tells its address, and at the end what it had to drop."""
    os.sched_setaffinity(0, {core})
    config = SelectorConfig.model_validate({"policy": policy})
    selector = Selector(config, SpeculationConfig(), 60.0, time.monotonic)
    server = SelectorServer(
        selector, host="127.0.0.1", token=None, max_message_bytes=MESSAGE_BYTES, heartbeat_s=60.0, workers=drafters + 16
    )
    pipe.send(server.start())
    pipe.recv()
    pipe.send(server.counts())
    server.stop()


class Load:
    """One target and N drafters at a selector's address."""

    def __init__(self, address: str, drafters: int, sequences: int) -> None:
        self._names = [f"drafter-{number}" for number in range(drafters)]
        self._sequences = sequences
        self._steps = 0
        self._lost: dict[str, int] = {}  # scores by drafter that will not be taken any more
        self._queues: list[SimpleQueue[Any]] = [SimpleQueue() for _ in range(drafters + 1)]
        self._lock = Lock()
        self._sent: dict[int, float] = {}  # sequence -> when the oldest report went out that no weights have followed
        self.delays: list[float] = []
        self._scores: list[list[pb.ScoreBatch]] = []  # of the present sequences, by step and drafter
        self._channel_context = open_channel(address, token=None, max_message_bytes=MESSAGE_BYTES)
        self._stub = pb_grpc.SelectorStub(self._channel_context.__enter__())  # type: ignore[no-untyped-call]
        for name in self._names:
            heartbeat = Heartbeat(name, "ngram", "127.0.0.1:1")
            self._stub.Register(selector_wire.encode_heartbeat(heartbeat))
        self._streams = [self._stub.Scores.future(_messages(queue)) for queue in self._queues[1:]]
        self._updates = self._stub.Weights(_messages(self._queues[0]))
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def step(self) -> None:
        """One round of every sequence."""
        life, age = divmod(self._steps, LIFE)
        first, start = life * self._sequences, PROMPT + age * TOKENS
        seqs = range(first, first + self._sequences)
        if age == 0:  # a sequence must be known before its first scores, and go after its last
            self.caught_up()
            opened = [SequenceOpened(seq, PROMPT) for seq in seqs]
            closed = [seq - self._sequences for seq in seqs] if life else []
            self._queues[0].put(selector_wire.encode_reports([TargetReport("target", opened=opened, closed=closed)]))
            self._opened()
            self._scores = [[_scores(name, seqs) for name in self._names] for _ in range(VARIETY)]
        for like, queue in zip(self._scores[age % VARIETY], self._queues[1:], strict=True):
            message = pb.ScoreBatch()
            message.CopyFrom(like)
            for score in message.scores:
                score.start = start
            queue.put(message)
        report = TargetReport(
            "target",
            rounds=[
                SequenceRound(
                    seq, start + TOKENS, self._names[seq % len(self._names)], DRAFTED, TOKENS - 1, length=DRAFTED
                )
                for seq in seqs
            ],
            drafts=[DraftTiming(name, 1, DRAFTED, 2.0) for name in self._names],
            verify_ms=10.0,
            verify_tokens=len(seqs) * (1 + DRAFTED),
            context=RoundContext(wait_ms=2.0, round_ms=13.0),
        )
        now = time.perf_counter()
        with self._lock:
            for seq in seqs:
                self._sent.setdefault(seq, now)
        self._queues[0].put(selector_wire.encode_reports([report]))
        self._steps += 1

    def caught_up(self, behind: int = 0) -> None:
        """Wait until the selector has taken all steps but the last few, the scores of every single drafter included.

        Scores that came too late at a fixed pace were dropped: when nothing has moved for a while, they are written
        off here, and the selector's own counts tell of them.
        """
        steps = self._steps - behind
        rounds, scored = steps * self._sequences, steps * self._sequences * TOKENS

        def missing(snapshot: SelectorSnapshot) -> bool:
            few = sum(d.rounds for d in snapshot.drafters) < rounds
            return few or any(d.scored + self._lost.get(d.drafter, 0) < scored for d in snapshot.drafters)

        moved_s, seen = time.monotonic(), None
        while missing(snapshot := self._snapshot()):
            state = [(d.rounds, d.scored) for d in snapshot.drafters]
            if state != seen:
                moved_s, seen = time.monotonic(), state
            elif time.monotonic() - moved_s > STILL_S:
                if sum(d.rounds for d in snapshot.drafters) < rounds:
                    raise SystemExit(f"the selector took only {sum(r for r, _ in state)} of {rounds} rounds")
                sent = self._steps * self._sequences * TOKENS
                self._lost = {d.drafter: sent - d.scored for d in snapshot.drafters}
                return
            time.sleep(0.004)

    def close(self) -> None:
        """Hang up."""
        for queue in self._queues:
            queue.put(None)
        self._updates.cancel()
        self._reader.join()
        self._channel_context.__exit__(None, None, None)

    def _opened(self) -> None:
        """Wait until the selector knows this life's sequences, and no others."""
        deadline = time.monotonic() + 30.0
        while (snapshot := self._snapshot()).sequences != self._sequences:
            if time.monotonic() > deadline:
                raise SystemExit(f"the selector holds {snapshot.sequences} sequences; expected {self._sequences}")
            time.sleep(0.004)

    def _snapshot(self) -> SelectorSnapshot:
        return snapshot_wire.decode_snapshot(self._stub.Snapshot(pb.SnapshotRequest(version=PROTOCOL_VERSION)))

    def _read(self) -> None:
        try:
            for message in self._updates:
                now = time.perf_counter()
                with self._lock:
                    for item in message.sequences:
                        if (sent := self._sent.pop(item.seq, None)) is not None:
                            self.delays.append(now - sent)
        except grpc.RpcError as error:
            if not self._updates.cancelled():  # by ourselves, at the end
                CONSOLE.print(f"the updates ended: {error}")


def _scores(name: str, seqs: range) -> pb.ScoreBatch:
    """One step's scores of a drafter's: 0 and 1, as greedy text has them. Where they start is said later."""
    gammas = (RANDOM.random((len(seqs), TOKENS)) < 0.7).astype(np.float32)
    return selector_wire.encode_scores(name, [Score(seq, 0, row) for seq, row in zip(seqs, gammas, strict=True)])


def _core_s(pid: int) -> float:
    """What a process has used of its core so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _messages(queue: SimpleQueue[Any]) -> Iterator[Any]:
    while (message := queue.get()) is not None:
        yield message


def measure(policy: str, drafters: int, sequences: int, seconds: float, share: float, core: int) -> dict[str, Any]:
    """Capacity, then delays at a share of it."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(policy, drafters, core, there))
    process.start()
    try:
        load = Load(here.recv(), drafters, sequences)
        for _ in range(WARM_UP):
            load.step()
        load.caught_up()
        began, used, steps = time.perf_counter(), _core_s(process.pid or 0), 0
        while time.perf_counter() - began < seconds:
            for _ in range(AHEAD // 2):
                load.step()
                steps += 1
            load.caught_up(behind=AHEAD // 2)
        load.caught_up()
        took = time.perf_counter() - began
        busy = (_core_s(process.pid or 0) - used) / took
        capacity = steps * sequences / took
        load.delays.clear()
        pace = sequences / (share * capacity)
        due = time.perf_counter()
        end = due + seconds
        while due < end:
            time.sleep(max(0.0, due - time.perf_counter()))
            load.step()
            due = max(due + pace, time.perf_counter())  # a target does not make up for rounds that it did not play
        load.caught_up()
        time.sleep(2 * UPDATE_INTERVAL_S)
        delays = 1e3 * np.array(load.delays)
        load.close()
        here.send(None)
        counts = here.recv()
    finally:
        process.join(10)
        if process.is_alive():
            process.kill()
    dropped = {name: count for name, count in counts.items() if count}
    p50, p99 = (round(float(np.percentile(delays, q)), 1) for q in (50, 99))
    figures = {
        "sequence_rounds_per_s": round(capacity),
        "busy": round(busy, 3),
        "delay_p50_ms": p50,
        "delay_p99_ms": p99,
        "delays": len(delays),
    }
    return {"drafters": drafters, **figures, "dropped": dropped}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drafters", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--sequences", type=int, default=64, help="that the target runs at once")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each of the two measurements")
    parser.add_argument("--share", type=float, default=0.5, help="of the capacity at which delays are measured")
    parser.add_argument("--policy", choices=REQUEST_POLICIES, default="normalhedge")
    add_out(parser)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, set(cores[:-1]))  # the selector has the last one to itself
    source = provenance()
    rows = [
        measure(options.policy, drafters, options.sequences, options.seconds, options.share, cores[-1])
        for drafters in track(options.drafters, "measuring", console=CONSOLE, transient=True)
    ]
    table = Table(title=f"One selector on one core, policy {options.policy}, {options.sequences} sequences at once")
    for column in (
        "drafters",
        "sequence-rounds/s",
        "core used",
        f"delay of weights at {options.share:.0%}: p50, p99 ms",
        "dropped",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        delays = f"{row['delay_p50_ms']:.1f}, {row['delay_p99_ms']:.1f}"
        table.add_row(
            str(row["drafters"]),
            f"{row['sequence_rounds_per_s']:,}",
            f"{row['busy']:.0%}",
            delays,
            str(row["dropped"] or "nothing"),
        )
    CONSOLE.print(table)
    CONSOLE.print(f"Updates to one target are at least {UPDATE_INTERVAL_S * 1e3:g} ms apart, which delays include.")
    fixed = {"policy": options.policy, "sequences": options.sequences, "share": options.share, "tokens": TOKENS}
    put({"benchmark": "selector", **fixed, "rows": rows, **source}, options.out)


if __name__ == "__main__":
    main()
