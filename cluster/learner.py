"""What every full-information learner is: regrets of many sequences at once, and weights that follow from them.

Rows are sequences, columns drafters. All drafters are scored on every position, whoever played, so a learner needs no
exploring. The laws differ (`hedge`, `normalhedge`, `adanormalhedge`); what they learn from is one thing, kept here:

- **Discount.** Regret fades with every position. On a text whose best drafter changes, a learner that forgets nothing
  sticks to the past.
- **Sleeping.** A drafter without a score at a position has regret 0 there, and the play it is compared with is over
  those that were awake (Freund, Schapire, Singer and Warmuth 1997). Its old regret fades like the others'.
- **Pending losses.** A loss is released, and becomes regret, at a fixed delay (`gamma_ring`). What is already known of
  losses that are not released counts in the weights, as a hint: hints may be wrong without harm to the regret's order
  (Flaspohler et al. 2021, "Online Learning with Optimism and Delay", arXiv 2106.06885), since they stand for no more
  losses than the delay holds back.
- **Options.** A drafter may be played with one of several draft lengths, which are all scored at once. The law is over
  drafters, each standing with the length that would have been best so far: lengths of one drafter share its gammas, so
  to follow the leader among them is safe, and hedging between them would only mix in worse ones.
- **Prices.** What a loss costs may be known, and change with the load; losses are booked without their prices, which
  come in when weights are made (`Learner._total`).

`learned_policy` and `shared_prior` hold them; plain numpy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

Prices = Callable[[Rows], Floats]


@dataclass(frozen=True, slots=True)
class Pending:
    """Losses that are known but not released: their mean, shaped as `Learner.learn` takes them, NaN where there are
    none, and their number, [rows, drafters]."""

    losses: Floats
    counts: Floats
    fade: Floats | float = 1.0  # [rows]; what is left of all before them


@dataclass(frozen=True, slots=True)
class Start:
    """What a new sequence may know of the drafters.

    Attributes:
        booked: What is booked of them, [drafters, options].
        law: The weights that go with it, [drafters].
        positions: What it is worth.
        played: With prices: losses of each where it was played, [drafters, options].
        paid: With prices: what those cost then, [drafters].
        met: With prices: what whoever played cost then, at the positions where each was awake, [drafters].
    """

    booked: Floats
    law: Floats
    positions: float
    played: Floats | None = None
    paid: Floats | None = None
    met: Floats | None = None


class Learner(ABC):
    """Regrets and their law over many sequences.

    Args:
        learners: Rows.
        discount: Regret, and what else a law sums up, is multiplied by this at every position.
        options: What a drafter may be played with (draft lengths); each drafter stands with its best one so far.
        prices: What a loss costs now, [rows, drafters, options]; None: always 1.
    """

    def __init__(self, learners: int, discount: float, options: int = 1, prices: Prices | None = None) -> None:
        self._discount = discount
        self._options = options
        self._prices = prices
        self._booked: Floats = np.zeros((learners, 0, options))  # regrets, or with prices losses
        self._played: Floats = np.zeros((learners, 0, options))  # with prices: see `Start`
        self._paid: Floats = np.zeros((learners, 0))
        self._met: Floats = np.zeros((learners, 0))
        self._mass: Floats = np.zeros((learners, 0))

    def join(self) -> None:
        """Add a column for a new drafter. It starts from regret 0: scores come whether or not it plays, so it needs no
        head start to be found out."""
        wide, narrow = np.zeros((len(self._mass), 1, self._options)), np.zeros((len(self._mass), 1))
        self._booked = np.concatenate([self._booked, wide], axis=1)
        self._played = np.concatenate([self._played, wide], axis=1)
        self._paid, self._met = np.hstack([self._paid, narrow]), np.hstack([self._met, narrow])
        self._mass = np.hstack([self._mass, narrow])

    def reset(self, row: int, start: Start | None = None) -> None:
        """Begin a sequence, from nothing or from what others taught."""
        self._booked[row] = 0.0 if start is None else start.booked.reshape(-1, self._options)
        self._played[row] = 0.0 if start is None or start.played is None else start.played
        self._paid[row] = 0.0 if start is None or start.paid is None else start.paid
        self._met[row] = 0.0 if start is None or start.met is None else start.met
        self._mass[row] = 0.0

    def advise(self, row: int, regret: Floats, positions: float) -> None:
        """Let a sequence that has just begun start from expected regrets, too, [drafters], worth so many positions."""
        booked = regret[:, None] if self._prices is None else -regret[:, None] / self._prices(np.array([row]))[0]
        self._booked[row] += booked
        self._mass[row] += self._massed(regret[None], np.full((1, len(regret)), positions))[0]

    def memory(self, row: int, scale: float = 1.0) -> Start:
        """What a row has learned, faded by `scale`; its law and its worth are the caller's to say."""
        booked, played = scale * self._booked[row], scale * self._played[row]
        return Start(booked, np.empty(0), 0.0, played, scale * self._paid[row], scale * self._met[row])

    def weights(self, rows: Rows, available: Bools, pending: Pending | None = None) -> Floats:
        """Weights of some sequences, [rows, drafters]; rows sum to 1 over `available`, or are 0 where nothing is."""
        return self.outlook(rows, available, pending)[0]

    def outlook(self, rows: Rows, available: Bools, pending: Pending | None = None) -> tuple[Floats, Rows]:
        """As `weights`, and the option that each drafter would be played with, [rows, drafters]."""
        regret, mass = self._total(rows), self._mass[rows]
        if pending is not None:
            fade = np.asarray(pending.fade).reshape(-1, 1)
            regret, mass = fade[..., None] * regret, fade * mass
            heard = pending.counts * available
            awake = heard > 0
            losses = self._priced(rows, pending.losses.reshape(regret.shape))
            known = np.where(awake[..., None], losses, 0.0)
            standing, option = _best(regret)
            expected = self._law(rows, standing, mass, awake) * _of(known, option)
            hoped = np.where(awake[..., None], heard[..., None] * (expected.sum(axis=1)[:, None, None] - known), 0.0)
            regret, mass = regret + hoped, mass + self._massed(_of(hoped, option), heard)
        standing, option = _best(regret)
        return self._law(rows, standing, mass, available), option

    def learn(self, rows: Rows, losses: Floats) -> None:
        """Give rows the losses of their next positions. Several of one row are all met with the weights it has now.

        Args:
            rows: [positions]; whose each is. A row may come several times.
            losses: [positions, drafters], in [0, 1] or so (`round_cost.ROUND`), with options [positions, drafters,
                options], without their prices; NaN where the drafter sleeps. What is all NaN changes nothing.
        """
        losses = losses.reshape(len(rows), -1, self._options)
        heard = ~np.isnan(losses[:, :, 0]).all(axis=1)
        if not heard.all():
            rows, losses = rows[heard], losses[heard]
        if not len(rows):
            return
        awake = ~np.isnan(losses[:, :, 0])
        rows, first, place = grouped(rows)
        standing, options = _best(self._total(rows))
        option = options[place]
        # Positions of a row at which the same drafters are awake meet the same law, which is dear: found once.
        alike = (awake == awake[first[place]]).all(axis=1)
        met_by, which = first, place
        if not alike.all():
            met_by, _, which = grouped(np.where(alike, first[place], np.arange(len(place))))
        mine = place[met_by]
        law = self._law(rows[mine], standing[mine], self._mass[rows[mine]], awake[met_by])[which]
        met = np.where(awake[..., None], losses, 0.0)
        cost = met if self._prices is None else met * self._prices(rows)[place]
        played = _of(cost, option)
        paid = law * played
        faced = paid.sum(axis=1, keepdims=True) * awake
        massed = self._massed(np.where(awake, faced - played, 0.0), awake)
        count = len(rows)
        keep = self._discount ** np.bincount(place, minlength=count)[:, None]
        fade = keep[..., None]
        self._mass[rows] = keep * self._mass[rows] + summed(massed, place, count)
        if self._prices is None:
            gained = np.where(awake[..., None], faced[..., None] - cost, 0.0)
            self._booked[rows] = fade * self._booked[rows] + summed(gained, place, count)
            return
        self._booked[rows] = fade * self._booked[rows] + summed(met, place, count)
        self._played[rows] = fade * self._played[rows] + summed(law[..., None] * met, place, count)
        self._paid[rows] = keep * self._paid[rows] + summed(paid, place, count)
        self._met[rows] = keep * self._met[rows] + summed(faced, place, count)

    def _total(self, rows: Rows) -> Floats:
        """Regrets, with prices as they are now: R_i = p <w, f> - p_i f_i, summed up over where i was awake.

        Losses are kept apart from prices because these change for all the past at once: a batch that grew makes long
        drafts dear, and what they would have cost before says nothing of it. What whoever played paid then is scaled by
        what the same plays would cost now, with the options that are best for them now, or all that cost less than what
        was played would seem good alike. That is exact while prices and the best options stand still; where an option
        was overtaken, all regrets are lower by what the better one would have saved.
        """
        booked: Floats = self._booked[rows]
        if self._prices is None:
            return booked
        cost = self._priced(rows, booked)
        now = _of(self._priced(rows, self._played[rows]), cost.argmin(axis=2)).sum(axis=1)
        paid = self._paid[rows].sum(axis=1)
        scale = np.where(paid > 0, now / np.where(paid > 0, paid, 1.0), 1.0)
        result: Floats = (scale[:, None] * self._met[rows])[..., None] - cost
        return result

    def _priced(self, rows: Rows, losses: Floats) -> Floats:
        """What losses [rows, drafters, options] cost now."""
        return losses if self._prices is None else losses * self._prices(rows)

    def _massed(self, gained: Floats, heard: Floats) -> Floats:
        """What positions add to `mass`, from the regret gained and the number heard, both [rows, drafters]."""
        return np.zeros_like(gained)

    @abstractmethod
    def _law(self, rows: Rows, regret: Floats, mass: Floats, available: Bools) -> Floats:
        """Weights [rows, drafters] from the state, over `available`; a row of zeros where nothing is."""


def _best(regret: Floats) -> tuple[Floats, Rows]:
    """Each drafter's highest regret, and the option that has it, both [rows, drafters]."""
    option = regret.argmax(axis=2)
    return _of(regret, option), option


def _of(values: Floats, option: Rows) -> Floats:
    """The value [rows, drafters] of each drafter's option, of values [rows, drafters, options]."""
    result: Floats = values.reshape(option.size, values.shape[2])[np.arange(option.size), option.reshape(-1)]
    return result.reshape(option.shape)


def grouped(rows: Rows) -> tuple[Rows, Rows, Rows]:
    """The distinct ones of rows [entries], ascending; the first entry of each; and each entry's place among them."""
    if len(rows) and (rows == rows[0]).all():
        return rows[:1], np.zeros(1, dtype=np.intp), np.zeros(len(rows), dtype=np.intp)
    return np.unique(rows, return_index=True, return_inverse=True)


def summed(values: Floats, place: Rows, count: int) -> Floats:
    """The sum [count, ...] of the rows of values [entries, ...] that go to each place [entries]; none is left out."""
    if count == 1:
        return np.asarray(values.sum(axis=0, keepdims=True))
    order = np.argsort(place, kind="stable")
    return np.add.reduceat(values[order], np.searchsorted(place[order], np.arange(count)), axis=0)


def normalised(weights: Floats, available: Bools) -> Floats:
    """Each row of non-negative weights summing to 1 over `available`; uniform where all its weights are 0."""
    weights = np.where(available, weights, 0.0)
    weights = np.where(weights.any(axis=1, keepdims=True), weights, available)
    result: Floats = weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return result
