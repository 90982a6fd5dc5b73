"""How much of a core a process gets that somebody else wants, too: everybody yields to the target."""

from __future__ import annotations

import os

_LESS = 10  # niceness more: a weight of 110 instead of 1,024 (Linux)


def wait_for_gaps() -> None:
    """Keep this process from interrupting others when its threads wake, those to come included (Linux; else nothing).

    A target on the same machine runs parallel loops in which one missing thread holds up the others: what costs it is
    not so much the share of a core that others take as every time they take it. Threads of the batch class wait for a
    core that is free, or for the next tick. While a round waits for a draft the cores are free.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return
    for thread in os.listdir("/proc/self/task"):
        try:
            os.sched_setscheduler(int(thread), os.SCHED_BATCH, os.sched_param(0))
        except ProcessLookupError:  # it ended meanwhile
            continue


def yield_to_others() -> None:
    """As `wait_for_gaps`, and have a tenth of a core that somebody else wants.

    For work of milliseconds: scoring and learning then mostly fill the gaps of the target's rounds. Idle scheduling
    would be too little: the target's threads spin for a while before they sleep.
    """
    wait_for_gaps()
    os.nice(_LESS)
