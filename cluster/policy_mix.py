"""Sequences under several policies at once: one instance of each policy in use, each sequence's news to its own.

So one live cluster can compare policies on the same prompts, interleaved. An instance is made when a sequence first
names it, and there are no more than there are names. All sequences, whatever their policy, teach the shared prior.
`policy.build_policy` makes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from paceline.cluster.learner import Bools, Floats, Pending, Rows
from paceline.cluster.policy_base import Played, Policy
from paceline.cluster.shared_prior import SharedPrior


class PolicyMix(Policy):
    """Policies by name.

    Args:
        default: The policy of sequences that name none, and of the prior.
        max_sequences: Rows.
        build: Makes a policy from its name and the shared prior.
        shared: What all sequences teach.
    """

    def __init__(
        self, default: str, max_sequences: int, build: Callable[[str, SharedPrior], Policy], shared: SharedPrior
    ) -> None:
        self._build = build
        self._shared = shared
        self._names: list[str] = []  # policies in use; a policy's place is its number
        self._policies: list[Policy] = []
        self._drafters: list[str] = []
        self._of_row = np.zeros(max_sequences, dtype=np.intp)  # each sequence's policy
        self._routes: dict[int, str] = {}
        self._number(default)

    @property
    def in_use(self) -> tuple[str, ...]:
        """The policies that have been made, the default first."""
        return tuple(self._names)

    @property
    def shared(self) -> SharedPrior:
        """What all sequences taught."""
        return self._shared

    @property
    def routes(self) -> int:
        """Routes that have a prior of their own."""
        return self._shared.routes

    def join(self, drafter: str) -> None:
        """See `Policy`."""
        self._drafters.append(drafter)
        self._shared.join()
        for policy in self._policies:
            policy.join(drafter)

    def open(self, row: int, route: str, name: str = "") -> None:
        """See `Policy`; `name` is the sequence's policy, empty for the default."""
        self._routes[row] = route
        self._of_row[row] = self._number(name) if name else 0
        self._policies[self._of_row[row]].open(row, route)

    def advise(self, row: int, advantages: Floats, share: float) -> None:
        """See `Policy`."""
        self._policies[self._of_row[row]].advise(row, advantages, share)

    def close(self, row: int) -> None:
        """See `Policy`."""
        del self._routes[row]
        self._policies[self._of_row[row]].close(row)

    def learn(self, rows: Rows, losses: Floats, allowed: Bools) -> None:
        """See `Policy`. What a sequence may not use is still news for the prior."""
        for policy, mine in self._by_policy(rows):
            policy.learn(rows[mine], losses[mine], allowed[mine])
        self._shared.learn([self._routes[int(row)] for row in rows], losses)

    def played(self, rows: Rows, played: Played) -> None:
        """See `Policy`."""
        for policy, mine in self._by_policy(rows):
            policy.played(rows[mine], Played(played.columns[mine], played.drafted[mine], played.accepted[mine]))

    def row_hears_gammas(self, row: int) -> bool:
        """Whether a sequence's policy is told its rounds' gammas."""
        hears: bool = self._policies[self._of_row[row]].hears_gammas
        return hears

    def judged(self, row: int, column: int, gammas: Floats) -> None:
        """See `Policy`."""
        self._policies[self._of_row[row]].judged(row, column, gammas)

    def weights(self, rows: Rows, available: Bools, pending: Pending | None = None) -> Floats:
        """See `Policy`."""
        result: Floats = np.zeros(available.shape)
        for policy, mine in self._by_policy(rows):
            known = None
            if pending is not None:
                known = Pending(pending.losses[mine], pending.counts[mine], np.asarray(pending.fade)[mine])
            result[mine] = policy.weights(rows[mine], available[mine], known)
        return result

    def prior(self, available: Bools) -> Floats:
        """See `Policy`: the default policy's."""
        return self._policies[0].prior(available)

    def _by_policy(self, rows: Rows) -> Iterator[tuple[Policy, Bools]]:
        """Each policy that some of the rows follow, and which do."""
        numbers = self._of_row[rows]
        for number in np.unique(numbers):
            yield self._policies[number], numbers == number

    def _number(self, name: str) -> int:
        if name not in self._names:
            policy = self._build(name, self._shared)
            for drafter in self._drafters:
                policy.join(drafter)
            self._names.append(name)
            self._policies.append(policy)
        return self._names.index(name)
