"""How much of a core a process gets that somebody else wants, too: everybody yields to the target."""

from __future__ import annotations

import contextlib
import os

_LESS = 10  # niceness more: a weight of 110 instead of 1,024 (Linux)


def wait_for_gaps(pid: int | None = None) -> None:
    """Keep this process from interrupting others when its threads wake, those to come included (Linux; else nothing).

    A target on the same machine runs parallel loops in which one missing thread holds up the others: what costs it is
    not so much the share of a core that others take as every time they take it. Threads of the batch class wait for a
    core that is free, or for the next tick. While a round waits for a draft the cores are free.

    Args:
        pid: Another process than this one, of the same user; what it starts takes after it.
    """
    if hasattr(os, "SCHED_BATCH"):
        _put("self" if pid is None else str(pid), os.SCHED_BATCH)


def go_first() -> None:
    """The ordinary class for this process's threads, also where its parent waits for gaps: for the target."""
    if hasattr(os, "SCHED_OTHER"):
        _put("self", os.SCHED_OTHER)


def yield_to_others() -> None:
    """As `wait_for_gaps`, and have a tenth of a core that somebody else wants.

    For work of milliseconds: scoring and learning then mostly fill the gaps of the target's rounds. Idle scheduling
    would be too little: the target's threads spin for a while before they sleep.
    """
    wait_for_gaps()
    os.nice(_LESS)


def _put(process: str, kind: int) -> None:
    try:
        threads = os.listdir(f"/proc/{process}/task")
    except FileNotFoundError:  # it ended meanwhile
        return
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(int(thread), kind, os.sched_param(0))
