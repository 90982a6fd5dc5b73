"""Saves the selector's state at an interval and at the end, restores it at the start, in the selector's process.

A file that cannot be read costs what was learned, never the start: a broken one is put aside under another name, and
one of a later version is neither read nor written over. `selector_actor` makes one where the settings name a file.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from threading import Lock, Thread

from paceline.cluster.selector_server import SelectorServer
from paceline.cluster.selector_state import BrokenState, NewerState, SelectorState, read_state, write_state

logger = logging.getLogger(__name__)


class StateKeeper:
    """Keeps one server's state in one file; the state is restored before this returns.

    Args:
        server: Of the core; not started yet, so that no drafter has come.
        path: The file.
        interval_s: Between two looks; what has not changed is not written again.
    """

    def __init__(self, server: SelectorServer, path: Path, interval_s: float) -> None:
        self._server = server
        self._path = path
        self._interval_s = interval_s
        self._writing = Lock()
        self._failing = False
        self._written: SelectorState | None = None
        self._writes = self._restore()
        self._thread = Thread(target=self._run, name="state-keeper", daemon=True)

    def start(self) -> None:
        """Begin to save; not where the file is a later version's."""
        if self._writes:
            self._thread.start()

    def save(self) -> None:
        """Write what has changed now; any thread may ask. A file that cannot be written is logged, once in a row."""
        if not self._writes:
            return
        with self._writing:
            state = self._server.state()
            try:
                if state != self._written:
                    write_state(self._path, state)
                    self._written = state
                self._failing = False
            except OSError as error:
                if not self._failing:
                    logger.warning("selector.state_file: cannot be written, trying on: %s", error)
                self._failing = True

    def _restore(self) -> bool:
        """Restore what is there; returns whether the file may be written."""
        try:
            state = read_state(self._path)
        except NewerState as error:
            logger.error("selector.state_file: %s; it is neither restored nor overwritten", error)
            return False
        except BrokenState as error:
            aside = self._path.with_name(self._path.name + ".broken")
            logger.warning("selector.state_file: %s; starting from nothing", error)
            try:
                self._path.replace(aside)
                logger.warning("selector.state_file: the broken file is now %s", aside)
            except OSError as failure:
                logger.warning("selector.state_file: it cannot be put aside: %s", failure)
            return True
        if state is not None:
            self._server.restore(state)
            self._written = state
            logger.info("restored what was learned of %s from %s", ", ".join(state.drafters) or "nothing", self._path)
        return True

    def _run(self) -> None:
        while True:
            time.sleep(self._interval_s)
            self.save()
