"""Which drafters there are, where their replicas listen, and which are up: known by heartbeats and by the roster.

A drafter is a column, whatever number of replicas it has; it keeps its column for the selector's life, so that
statistics and regrets survive restarts. A heartbeat with a new address under an old name and number is the restarted
replica. The roster (what the operator wants, see `roster`) says which drafters take no new sequences, and which left:
one that left is no member any more, and what its dying processes still say is not heard. Added again under its old
name, a drafter takes its old column with all that was learned there: most often it is the same drafter back, and where
it is not, discounting forgets the other within some hundred positions. `Selector` is the only caller.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from paceline.actors.errors import Overloaded
from paceline.actors.messages import Heartbeat, Member, replica_name
from paceline.cluster.learner import Bools

MAX_DRAFTERS = 256
MAX_REPLICAS = 256  # of all drafters together; each holds a stream of the selector's
MISSED_HEARTBEATS = 3  # a replica that misses this many is down

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Replica:
    member: Member
    seen_s: float
    scores_dropped: int


@dataclass(slots=True)
class _Drafter:
    replicas: dict[int, _Replica]
    draining: bool = False
    left: bool = False
    # Processes that were its replicas when it left: whatever they still send, they are not the drafter added anew.
    past: frozenset[tuple[str, str, int]] = frozenset()

    @property
    def up(self) -> list[Member]:
        """Replicas that are up; none of one that left."""
        return [] if self.left else [item.member for item in self.replicas.values() if item.member.up]


class Membership:
    """Drafters by column, in the order in which they first came.

    Args:
        heartbeat_s: When heartbeats are expected.
    """

    def __init__(self, heartbeat_s: float) -> None:
        self._patience_s = MISSED_HEARTBEATS * heartbeat_s
        self._drafters: dict[str, _Drafter] = {}
        self._columns: dict[str, int] = {}
        self._roster: frozenset[str] = frozenset()
        self._draining: frozenset[str] = frozenset()
        self._scores_dropped = 0  # by replicas that are gone

    def __len__(self) -> int:
        return len(self._drafters)

    @property
    def names(self) -> tuple[str, ...]:
        """All drafters that ever came, by column."""
        return tuple(self._drafters)

    @property
    def members(self) -> tuple[Member, ...]:
        """Every replica of every drafter that has not left, by column and number."""
        return tuple(
            replace(drafter.replicas[number].member, draining=drafter.draining)
            for drafter in self._drafters.values()
            for number in sorted(drafter.replicas)
            if not drafter.left
        )

    @property
    def present(self) -> Bools:
        """Which drafters have not left, [drafters]."""
        return np.array([not drafter.left for drafter in self._drafters.values()], dtype=np.bool_)

    @property
    def up(self) -> Bools:
        """Which drafters have a replica that is up, [drafters]."""
        return np.array([bool(drafter.up) for drafter in self._drafters.values()], dtype=np.bool_)

    @property
    def taking(self) -> Bools:
        """Which drafters take new sequences, [drafters]: not draining, and with room in a replica that is up."""
        return np.array(
            [
                not drafter.draining and any(not member.full for member in drafter.up)
                for drafter in self._drafters.values()
            ],
            dtype=np.bool_,
        )

    @property
    def scores_dropped(self) -> int:
        """Scores that replicas say they had to drop."""
        counted = sum(item.scores_dropped for drafter in self._drafters.values() for item in drafter.replicas.values())
        return self._scores_dropped + counted

    def column(self, drafter: str) -> int | None:
        """A drafter's column; None where it never sent a heartbeat."""
        return self._columns.get(drafter)

    def register(self, heartbeat: Heartbeat, now_s: float) -> bool:
        """Note a heartbeat; returns whether targets need to hear of it.

        They do of a replica that comes, comes back or moves, and of one that is full or is so no longer.

        Raises:
            Overloaded: there are as many drafters, or replicas, as are taken.
        """
        name, member = heartbeat.drafter, _member(heartbeat)
        drafter = self._drafters.get(name)
        if drafter is not None and _process(member) in drafter.past:
            return False
        known = None if drafter is None or drafter.left else drafter.replicas.get(member.replica)
        if known is None:
            self._check_room(name, member)
            drafter = self._join(name)
        assert drafter is not None
        dropped = 0 if known is None else known.scores_dropped
        if heartbeat.scores_dropped < dropped:  # restarted: it counts anew
            self._scores_dropped, dropped = self._scores_dropped + dropped, 0
        if heartbeat.scores_dropped > dropped:
            logger.warning("drafter %s dropped scores, %d so far", _label(member), heartbeat.scores_dropped)
        drafter.replicas[member.replica] = _Replica(member, now_s, heartbeat.scores_dropped)
        if known is None:
            logger.info("drafter %s (%s) joined at %s", _label(member), member.kind, member.address)
            return True
        before = known.member
        moved = replace(before, sessions=member.sessions) != member
        if moved:
            logger.info("drafter %s is back, or moved: %s -> %s", _label(member), before.address, member.address)
        return moved or before.full != member.full

    def expire(self, now_s: float) -> bool:
        """Take replicas whose heartbeats stopped for down; returns whether there are any such."""
        gone = [
            item
            for drafter in self._drafters.values()
            for item in drafter.replicas.values()
            if item.member.up and now_s - item.seen_s > self._patience_s
        ]
        for item in gone:
            item.member = replace(item.member, up=False)
            logger.warning("drafter %s is down: no heartbeat for %.1f s", _label(item.member), self._patience_s)
        return bool(gone)

    def follow(self, roster: Mapping[str, bool]) -> bool:
        """Take the roster: drafter -> whether it drains. Who was on the last one and is not on this one has left.

        Drafters that were on none (they joined by heartbeat alone) stay. Returns whether targets need to hear of it.
        """
        left = self._roster - roster.keys()
        self._roster = frozenset(roster)
        self._draining = frozenset(name for name, draining in roster.items() if draining)
        changed = False
        for name, drafter in self._drafters.items():
            if name in left and not drafter.left:
                self._leave(name, drafter)
                changed = True
            if not drafter.left and drafter.draining != (name in self._draining):
                drafter.draining = name in self._draining
                logger.info("drafter %s %s", name, "drains" if drafter.draining else "takes new sequences again")
                changed = True
        return changed

    # ------------------------------------------------------------ inside

    def _check_room(self, name: str, member: Member) -> None:
        if name not in self._drafters and len(self._drafters) >= MAX_DRAFTERS:
            raise Overloaded(f"drafter {name!r}: there are {MAX_DRAFTERS} drafters already, the most that are taken")
        if sum(len(drafter.replicas) for drafter in self._drafters.values()) >= MAX_REPLICAS:
            raise Overloaded(
                f"drafter {_label(member)!r}: there are {MAX_REPLICAS} replicas already, the most that are taken"
            )

    def _join(self, name: str) -> _Drafter:
        """The drafter's entry, new or there already, or back after it left."""
        drafter = self._drafters.setdefault(name, _Drafter({}))
        self._columns.setdefault(name, len(self._columns))
        drafter.left, drafter.draining = False, name in self._draining
        return drafter

    def _leave(self, name: str, drafter: _Drafter) -> None:
        drafter.past = frozenset(_process(item.member) for item in drafter.replicas.values())
        self._scores_dropped += sum(item.scores_dropped for item in drafter.replicas.values())
        drafter.replicas.clear()
        drafter.left = True
        logger.info("drafter %s has left", name)


def _label(member: Member) -> str:
    return replica_name(member.drafter, member.replica)


def _process(member: Member) -> tuple[str, str, int]:
    return member.node, member.address, member.pid


def _member(heartbeat: Heartbeat) -> Member:
    return Member(
        drafter=heartbeat.drafter,
        kind=heartbeat.kind,
        address=heartbeat.address,
        node=heartbeat.node,
        device=heartbeat.device,
        pid=heartbeat.pid,
        sessions=heartbeat.sessions,
        capacity=heartbeat.capacity,
        feature_layers=heartbeat.feature_layers,
        feature_window=heartbeat.feature_window,
        replica=heartbeat.replica,
    )
