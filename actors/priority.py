"""How much of a core a process gets that somebody else wants, too: drafters and the selector yield to the target."""

from __future__ import annotations

import os

_LESS = 10  # niceness more: a weight of 110 instead of 1,024 (Linux)


def yield_to_others() -> None:
    """Let this process's threads, those to come included, have a tenth of a core that somebody else wants.

    On a machine that a target shares, scoring and learning then mostly fill the gaps of the target's rounds instead of
    stealing a core from its parallel loops, where one missing thread holds up the others. While a round waits for a
    draft the cores are free. Idle scheduling would be too little: the target's threads spin for a while before they
    sleep.
    """
    os.nice(_LESS)
