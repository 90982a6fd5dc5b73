"""Ctrl-C and SIGTERM for a command that has things to take down: the first asks, the second forces.

The first signal is raised as KeyboardInterrupt wherever the main thread is, so that also a start-up stops at once; the
`finally` blocks on the way out then take down what was started. `serve_command` uses it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A terminal sends Ctrl-C to the whole process group, and some parents pass it on as well: that is one wish, not two.
_SAME_WISH_S = 0.5


class StopSignals:
    """Installs the handlers while entered. Use from the main thread.

    Args:
        force: Called for the second signal, just before the process ends at once.
    """

    def __init__(self, force: Callable[[], None]) -> None:
        self._force = force
        self._before: dict[signal.Signals, Any] = {}
        self._asked_s = 0.0
        self.number = 0  # of the first signal; 0 while none has come

    def __enter__(self) -> StopSignals:
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before is signal.SIG_IGN:  # `nohup`, or a shell's background job: the parent decided
                continue
            self._before[number] = before
            signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    def check(self) -> None:
        """Raise what was asked for, in case the interrupt itself was lost (Python drops those raised in a finaliser).

        Raises:
            KeyboardInterrupt: a signal has come.
        """
        if self.number:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number, self._asked_s = number, time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - self._asked_s > _SAME_WISH_S:
            self._force()
            os._exit(128 + number)
