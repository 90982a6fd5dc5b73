"""The newest weights and members that a target holds: what it goes by when the selector is silent, gone, or new.

A selector that restarted knows no drafter until each has sent its next heartbeat, and no sequence's past. So after
every reconnection the drafters known before stay members for a grace period, whatever the list says, and weights that
do not speak of all of them are not taken. `weights_link` feeds it; the engine's thread reads it without a lock, since
what it reads is replaced, never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from paceline.actors.messages import Member, WeightsUpdate


class HeldWeights:
    """Weights by sequence, a prior for the rest, and members.

    `held_back` counts updates whose weights were not taken; `number` is that of the newest whose weights were, 0 where
    the present stream has brought none.

    Args:
        default_drafter: Gets all the weight while the selector has not spoken; None, or a drafter that is not among the
            known members, leaves it to all members alike.
        grace_s: How long members known before a reconnection stay.
        clock: Seconds, never going back.
    """

    def __init__(self, default_drafter: str | None, grace_s: float, clock: Callable[[], float]) -> None:
        self._default = default_drafter
        self._grace_s = grace_s
        self._clock = clock
        self._own: dict[int, Mapping[str, float]] = {}
        self._only: dict[int, tuple[str, ...]] = {}  # sequences that may not use every drafter
        self._named: set[int] = set()  # those of them whose requests say so: plain decoding has no share there
        self._prior: Mapping[str, float] | None = None
        self._own_lengths: dict[int, Mapping[str, int]] = {}
        self._prior_lengths: Mapping[str, int] = {}
        self._members: tuple[Member, ...] = ()  # as the present stream, or else the last, told
        self._before: tuple[Member, ...] = ()  # as they were before the present stream
        self._grace_until_s = 0.0
        self.held_back = 0
        self.number = 0

    def opened(self, seq: int, drafters: tuple[str, ...], *, named: bool = False) -> None:
        """A sequence began, which may use these drafters only, its request's own choice where it `named` them; empty
        means all."""
        if drafters:
            self._only[seq] = drafters
            if named:
                self._named.add(seq)

    def closed(self, seq: int) -> None:
        """A sequence ended."""
        self._own.pop(seq, None)
        self._own_lengths.pop(seq, None)
        self._only.pop(seq, None)
        self._named.discard(seq)

    def disconnected(self) -> None:
        """The stream is gone: the next selector numbers its updates anew. What is held stays."""
        self.number = 0

    def connected(self) -> None:
        """A new stream began: its selector may be new too."""
        self._before = self.members()
        self._grace_until_s = self._clock() + self._grace_s

    def apply(self, update: WeightsUpdate, live: Callable[[int], bool]) -> None:
        """Take an update; `live` tells which sequences still run."""
        if update.members is not None:
            self._members = update.members
        known = {member.drafter for member in self.members()}
        if not update.drafters or not known.issubset(update.drafters):
            self.held_back += 1
            return
        self.number = update.number
        self._prior = _by_name(update.drafters, update.prior)
        self._prior_lengths = dict(zip(update.drafters, update.prior_lengths, strict=False))
        for seq, weights in update.sequences.items():
            if not len(weights):
                self._own.pop(seq, None)
                self._own_lengths.pop(seq, None)
            elif live(seq):
                self._own_lengths[seq] = dict(zip(update.drafters, update.lengths.get(seq, ()), strict=False))
                own = _by_name(update.drafters, weights)
                self._own[seq] = _among(self._only[seq], own, plain=0.0) if seq in self._named else own

    def weights(self, seq: int) -> Mapping[str, float]:
        """Drafter -> weight: the sequence's own, else the prior, else all on the default drafter."""
        own = self._own.get(seq)
        if own is not None:
            return own
        general = self._prior if self._prior is not None else self._unspoken()
        only = self._only.get(seq)
        if not only:
            return general
        plain = max(1.0 - sum(general.values()), 0.0) if self._prior_lengths and seq not in self._named else 0.0
        return _among(only, general, plain)

    def lengths(self, seq: int) -> Mapping[str, int]:
        """Drafter -> length of its drafts, where the selector sets them, and else nothing."""
        own = self._own_lengths.get(seq)
        return self._prior_lengths if own is None else own

    def members(self) -> tuple[Member, ...]:
        """Every drafter known, the newest word on each."""
        if not self._before:
            return self._members
        if self._clock() >= self._grace_until_s:
            self._before = ()
            return self._members
        merged = {(member.drafter, member.replica): member for member in (*self._before, *self._members)}
        return tuple(merged.values())

    def _unspoken(self) -> Mapping[str, float]:
        names = {member.drafter for member in self.members()}
        if self._default is not None and (not names or self._default in names):
            return {self._default: 1.0}
        return dict.fromkeys(names, 1.0 / len(names)) if names else {}


def _among(only: tuple[str, ...], weights: Mapping[str, float], plain: float) -> Mapping[str, float]:
    """Weights of these drafters alone: what others would have had is not plain decoding's, whose share is given."""
    allowed = {name: weight for name, weight in weights.items() if name in only}
    total = sum(allowed.values())
    if total > 0:
        return {name: weight / (plain + total) for name, weight in allowed.items()}
    return dict.fromkeys(only, 1.0 / len(only))


def _by_name(drafters: Sequence[str], weights: npt.NDArray[Any]) -> Mapping[str, float]:
    return {name: float(weight) for name, weight in zip(drafters, weights, strict=True)}
