"""Which drafters there are, where they listen, and which are up: known by their heartbeats alone.

A drafter keeps its column for the selector's life, so that statistics and regrets survive its restarts; a heartbeat
with a new address under an old name is the restarted drafter. `Selector` is the only caller.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from paceline.actors.errors import Overloaded
from paceline.actors.messages import Heartbeat, Member
from paceline.cluster.learner import Bools

MAX_DRAFTERS = 256
MISSED_HEARTBEATS = 3  # a drafter that misses this many is down

logger = logging.getLogger(__name__)


class Membership:
    """Drafters by column, in the order in which they first came.

    Args:
        heartbeat_s: When heartbeats are expected.
    """

    def __init__(self, heartbeat_s: float) -> None:
        self._patience_s = MISSED_HEARTBEATS * heartbeat_s
        self._columns: dict[str, int] = {}
        self._members: list[Member] = []
        self._seen_s: list[float] = []
        self._scores_dropped: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._members)

    @property
    def names(self) -> tuple[str, ...]:
        """All drafters, by column."""
        return tuple(self._columns)

    @property
    def members(self) -> tuple[Member, ...]:
        """All drafters with their state, by column."""
        return tuple(self._members)

    @property
    def up(self) -> Bools:
        """Which drafters are up, [drafters]."""
        return np.array([member.up for member in self._members], dtype=np.bool_)

    def column(self, drafter: str) -> int | None:
        """A drafter's column; None where it never sent a heartbeat."""
        return self._columns.get(drafter)

    def register(self, heartbeat: Heartbeat, now_s: float) -> bool:
        """Note a heartbeat; returns whether targets need to hear of it (sessions come and go, and do not count).

        Raises:
            Overloaded: there are as many drafters as are taken.
        """
        name = heartbeat.drafter
        member = Member(
            drafter=name,
            kind=heartbeat.kind,
            address=heartbeat.address,
            node=heartbeat.node,
            device=heartbeat.device,
            pid=heartbeat.pid,
            sessions=heartbeat.sessions,
            capacity=heartbeat.capacity,
            feature_layers=heartbeat.feature_layers,
            feature_window=heartbeat.feature_window,
        )
        if heartbeat.scores_dropped > self._scores_dropped.get(name, 0):
            logger.warning("drafter %s dropped scores, %d so far", name, heartbeat.scores_dropped)
        self._scores_dropped[name] = heartbeat.scores_dropped
        column = self._columns.get(name)
        if column is None:
            if len(self._members) >= MAX_DRAFTERS:
                del self._scores_dropped[name]
                raise Overloaded(
                    f"drafter {name!r}: there are {MAX_DRAFTERS} drafters already, the most that are taken"
                )
            self._columns[name] = len(self._members)
            self._members.append(member)
            self._seen_s.append(now_s)
            logger.info("drafter %s (%s) joined at %s", name, member.kind, member.address)
            return True
        known, self._members[column], self._seen_s[column] = self._members[column], member, now_s
        changed = replace(known, sessions=member.sessions) != member
        if changed:
            logger.info("drafter %s is back, or moved: %s -> %s", name, known.address, member.address)
        return changed

    def expire(self, now_s: float) -> bool:
        """Take drafters whose heartbeats stopped for down; returns whether there are any such."""
        gone = [
            column
            for column, member in enumerate(self._members)
            if member.up and now_s - self._seen_s[column] > self._patience_s
        ]
        for column in gone:
            self._members[column] = replace(self._members[column], up=False)
            logger.warning("drafter %s is down: no heartbeat for %.1f s", self.names[column], self._patience_s)
        return bool(gone)

    @property
    def scores_dropped(self) -> int:
        """Scores that drafters say they had to drop."""
        return sum(self._scores_dropped.values())
