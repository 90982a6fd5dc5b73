"""Which drafters each sequence may use: those its request allows, that are up, and that take it or hold it already.

A drafter that drains, or whose replicas are all full, sleeps for new sequences and goes on with those it holds. It
surely holds what it has scored; and when it stops to take more, it may hold any sequence that runs at that moment (the
target knows better, and asks nobody who has refused). `Selector` is the only caller.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.cluster.learner import Bools, Rows
from paceline.cluster.membership import Membership


class SequenceAccess:
    """Masks over [rows, drafters].

    Args:
        max_sequences: Rows.
    """

    def __init__(self, max_sequences: int) -> None:
        self._named: Bools = np.ones((max_sequences, 0), dtype=np.bool_)
        self._held: Bools = np.zeros((max_sequences, 0), dtype=np.bool_)
        self._present: Bools = np.zeros(0, dtype=np.bool_)
        self._up: Bools = np.zeros(0, dtype=np.bool_)
        self._taking: Bools = np.zeros(0, dtype=np.bool_)

    @property
    def new(self) -> Bools:
        """The drafters that a sequence may use which begins now, [drafters]."""
        return self._up & self._taking

    def join(self) -> None:
        """A new drafter takes the next column; `follow` then says how it is."""
        rows = len(self._named)
        self._named = np.hstack([self._named, np.ones((rows, 1), dtype=np.bool_)])
        self._held = np.hstack([self._held, np.zeros((rows, 1), dtype=np.bool_)])
        self._present, self._up, self._taking = (
            np.append(mask, False) for mask in (self._present, self._up, self._taking)
        )

    def follow(self, membership: Membership) -> None:
        """Take the members' present state."""
        taking = membership.taking
        self._held[:, self._taking & ~taking] = True
        self._present, self._up, self._taking = membership.present, membership.up, taking

    def open(self, row: int, only: Sequence[str], names: Sequence[str]) -> None:
        """A new sequence takes the row; `only` names the drafters that its request allows, none of them all."""
        self._held[row] = False
        self.restrict(row, only, names)

    def restrict(self, row: int, only: Sequence[str], names: Sequence[str]) -> None:
        """Say again which drafters, by column, a sequence's request allows: there is a new one."""
        self._named[row] = [not only or name in only for name in names]

    def scored(self, rows: Rows, columns: Rows) -> None:
        """Drafters scored sequences, [scores] of both, so they hold them."""
        self._held[rows, columns] = True

    def allowed(self, rows: Rows) -> Bools:
        """The drafters that are there and that the sequences' requests allow, [rows, drafters]."""
        return self._named[rows] & self._present

    def available(self, rows: Rows) -> Bools:
        """The drafters that the sequences may use now, [rows, drafters]."""
        return self._named[rows] & self._up & (self._taking | self._held[rows])
