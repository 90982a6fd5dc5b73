"""What every arm costs at the load of the moment, fitted online from measured rounds, and what a millisecond is worth.

An arm's cost is the time by which it makes a round longer than plain decoding. With n sequences in a round, as if all
did alike, k drafted tokens of each cost f (v(n (1 + k)) - v(n)), v being the forward's time over positions and f the
share of wanted tokens that the drafter brings; and they cost a d(k) of waiting, d being the drafter's time and a the
share of its rounds in which it had to be asked, nothing being at hand. All n wait while m of them ask, so that one who
asks pays n / m of the wait.

A millisecond is worth rho tokens: what the sequences of the target make of it, each with the arm that is best at that
price, tokens - rho cost. The price and the arms follow from one another; a few rounds of taking one from the other find
both (Dinkelbach 1967), beginning with everybody asking: who drops out leaves the wait to the others.

A drafter's time is known by tokens, and apart from that by how many sequences asked at once, in octaves. Tokens of all
of them together would not do: where a drafter steps through the tokens for all at once, eight sequences with a token
each are one step, and one sequence with eight tokens eight.

What was not measured yet, or not for long, is taken to cost little, and so is tried and measured: a forward of fewer
positions than any measured is thought to be shorter in proportion, and so is a draft for fewer sequences; one for more
is thought to take no longer, and a drafter that was never timed to be as fast as the fastest. `arm_learning` keeps one;
times come from `TargetReport`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paceline.actors.cost_curve import CostCurve
from paceline.actors.messages import DraftTiming, TargetReport
from paceline.cluster.learner import Floats, Rows

AMOUNTS = 128  # numbers of positions, or of tokens, that are remembered
LASTING = 2000  # measurements after which what was not measured again is forgotten
FINE = 32  # amounts of work up to here are told apart, beyond in steps of a sixteenth or so
MEMORY = 0.9  # of what one round said of a drafter in a sequence, kept in its next
CROWD_MEMORY = 0.995  # the same of a drafter, over all sequences
PRIOR_ROUNDS = 2.0  # that a drafter's rounds in general count for in a new sequence
HOPE_ROUNDS = 4.0  # that what is hoped of a new drafter counts for
HOPE = 0.5  # share of wanted tokens that it brings
STEPS = 4  # of price and arms


@dataclass(frozen=True, slots=True)
class Prices:
    """Milliseconds at one load: of a plain round, of k more positions in each sequence [lengths], and of waiting for a
    drafter's k tokens [drafters, lengths]."""

    plain_ms: float
    more_ms: Floats
    wait_ms: Floats


class ArmCost:
    """Fits of all drafters and of the target.

    Args:
        max_sequences: Rows.
        lengths: The ladder's, ascending.
    """

    def __init__(self, max_sequences: int, lengths: Rows) -> None:
        self._lengths = lengths
        self._verify = CostCurve(AMOUNTS, LASTING)
        self._rest = CostCurve()
        self._waits: list[dict[int, CostCurve]] = []  # by the octave of sequences that asked
        self._crowd: Floats = np.zeros((0, 3))  # rounds, those that had to ask, and shares of wanted tokens brought
        self._own: Floats = np.zeros((max_sequences, 0, 3))

    def join(self) -> None:
        """A new drafter takes the next column."""
        self._waits.append({})
        self._crowd = np.vstack([self._crowd, [[HOPE_ROUNDS, HOPE_ROUNDS, HOPE * HOPE_ROUNDS]]])
        self._own = np.concatenate([self._own, np.zeros((len(self._own), 1, 3))], axis=1)

    def open(self, row: int) -> None:
        """A new sequence takes the row."""
        self._own[row] = 0.0

    def measured(self, timings: Sequence[tuple[int, DraftTiming]], report: TargetReport) -> None:
        """Note one round: (column, timing) of each drafter that drafted, and the target's times."""
        for column, timing in timings:
            self._wait(column, timing.sequences).add(timing.length, timing.draft_ms)
        if report.verify_ms > 0 and report.verify_tokens > 0:
            self._verify.add(_coarse(report.verify_tokens), report.verify_ms)
            rest_ms = report.context.round_ms - report.context.wait_ms - report.verify_ms
            self._rest.add(max(report.decoding, 1), max(rest_ms, 0.0))

    def played(self, row: int, column: int, asked: bool, brought: float) -> None:
        """Note a round in which a sequence's arm was a drafter's: `brought` is its share of the tokens wanted."""
        for counts, memory in ((self._own[row, column], MEMORY), (self._crowd[column], CROWD_MEMORY)):
            counts *= memory
            counts += (1.0, asked, brought)

    def _wait(self, column: int, sequences: int) -> CostCurve:
        return self._waits[column].setdefault(_octave(sequences), CostCurve(AMOUNTS, LASTING))

    def prices(self, sequences: int, askers: int) -> Prices | None:
        """Times where so many sequences run, of which so many may draft; None while no forward has been measured."""
        if not self._verify.points[0]:
            return None
        verify = _times(self._verify, sequences * (1.0 + np.concatenate([[0.0], self._lengths])))
        waits = np.array([_waits(curves, askers, self._lengths) for curves in self._waits])
        waits = waits.reshape(-1, len(self._lengths))
        known = ~np.isnan(waits[:, :1])
        fastest = np.where(known, waits, np.inf).min(axis=0, initial=np.inf)
        waits = np.where(known, waits, np.where(np.isfinite(fastest), fastest, 0.0))
        return Prices(float(verify[0]) + (self._rest.at(sequences) or 0.0), verify[1:] - verify[0], waits)

    def extra(self, prices: Prices, rows: Rows | None) -> tuple[Floats, Floats, Floats]:
        """What arms take beyond plain decoding, by row; None is a sequence of which nothing is known.

        Returns:
            Milliseconds of positions and of waiting, both [rows, drafters, lengths], and the share of rounds that ask,
            [rows, drafters].
        """
        general = self._crowd / self._crowd[:, :1]
        own = np.zeros((1, *general.shape)) if rows is None else self._own[rows]
        counts = own + PRIOR_ROUNDS * general
        asked, brought = (counts[..., place] / counts[..., 0] for place in (1, 2))
        return brought[..., None] * prices.more_ms, asked[..., None] * prices.wait_ms, asked

    def verify_points(self) -> list[tuple[float, float]]:
        """What is known of the target's forward: positions and milliseconds."""
        return _pairs(self._verify)

    def rest_points(self) -> list[tuple[float, float]]:
        """What is known of the time around a forward: sequences and milliseconds."""
        return _pairs(self._rest)

    def wait_points(self, column: int) -> dict[int, list[tuple[float, float]]]:
        """What is known of a drafter, by sequences that asked: tokens and milliseconds."""
        return {sequences: _pairs(curve) for sequences, curve in self._waits[column].items()}

    def rounds(self, column: int) -> tuple[float, float, float]:
        """A drafter's rounds over all sequences, those that asked, and the shares of wanted tokens brought."""
        rounds, asked, brought = self._crowd[column].tolist()
        return rounds, asked, brought

    def restore_rounds(self, column: int, rounds: tuple[float, float, float]) -> None:
        """Go on from another life's counts."""
        if rounds[0] > 0:
            self._crowd[column] = rounds

    def restore_target(self, forward: Sequence[tuple[float, float]], rest: Sequence[tuple[float, float]]) -> None:
        """Go on from another life's fits of the target: of forwards, and of the time around them."""
        self._verify.restore(forward)
        self._rest.restore(rest)

    def restore_wait(self, column: int, points: Mapping[int, Sequence[tuple[float, float]]]) -> None:
        """Go on from another life's fit of a drafter."""
        for sequences, curve in points.items():
            self._wait(column, sequences).restore(curve)


def going_rate(
    tokens: Floats, more_ms: Floats, wait_ms: Floats, asked: Floats, plain_ms: float, others: int = 0
) -> tuple[float, float]:
    """What a millisecond is worth to each sequence, in tokens, and the share of the waits that one who asks pays.

    Args:
        tokens: Expected, of a round, [rows, 1 + drafters, lengths], plain decoding first; -inf where an arm cannot
            be played.
        more_ms: Of positions, [rows, drafters, lengths].
        wait_ms: Of waiting, [rows, drafters, lengths].
        asked: Share of a drafter's rounds that ask it, [rows, drafters].
        plain_ms: Of a plain round.
        others: Sequences that decode plainly beside these, and wait with them.
    """
    rows, sequences = len(tokens), len(tokens) + others
    none = np.zeros((rows, 1, tokens.shape[2]))
    more, wait = np.concatenate([none, more_ms], axis=1), np.concatenate([none, wait_ms], axis=1)
    ask = np.concatenate([none[:, :, 0], asked], axis=1)
    rate, share = 1.0 / plain_ms, 1.0
    everyone = np.arange(rows)
    for _ in range(STEPS):
        value = tokens - rate * (more + share * wait)
        best = value.reshape(rows, -1).argmax(axis=1)
        arm, length = np.divmod(best, tokens.shape[2])
        askers = max(float(ask[everyone, arm].sum()), 1.0)
        brought = (tokens[everyone, arm, length].sum() + others) / sequences
        taken_ms = plain_ms + more[everyone, arm, length].sum() / sequences
        taken_ms += wait[everyone, arm, length].sum() / askers
        rate, share = float(brought / taken_ms), sequences / askers
    return rate, share


def _times(curve: CostCurve, work: npt.NDArray[Any]) -> Floats:
    """Milliseconds for amounts of work; NaN before the first measurement. Beyond the most that was measured with the
    slope of all that was, below the least in proportion, which is hopeful: so that it is tried, and measured."""
    amounts, times = curve.points
    if not amounts:
        return np.full(len(work), np.nan)
    width = amounts[-1] - amounts[0]
    slope = (times[-1] - times[0]) / width if width else 0.0
    beyond = np.maximum(work - amounts[-1], 0.0)
    below = np.minimum(work / amounts[0], 1.0)
    result: Floats = below * np.interp(work, amounts, times) + slope * beyond
    return result


def _waits(curves: Mapping[int, CostCurve], askers: int, lengths: Rows) -> Floats:
    """Milliseconds of drafts for so many sequences; NaN before the first measurement."""
    known = [sequences for sequences, curve in curves.items() if curve.points[0]]
    if not known:
        return np.full(len(lengths), np.nan)
    nearest = max((sequences for sequences in known if sequences <= askers), default=min(known))
    return _times(curves[nearest], lengths) * min(askers / nearest, 1.0)


def _octave(sequences: int) -> int:
    """The numbers of sequences that are told apart: 1, 2, 4, 8 and so on; each stands for those up to the next."""
    return 1 << (max(sequences, 1).bit_length() - 1)


def _coarse(work: int) -> int:
    """Amounts of work that are told apart: all the small ones, and some 16 in each octave beyond."""
    step = 1 << max(work.bit_length() - FINE.bit_length() + 1, 0)
    return work if work <= FINE else round(work / step) * step


def _pairs(curve: CostCurve) -> list[tuple[float, float]]:
    return [(float(amount), ms) for amount, ms in zip(*curve.points, strict=True)]
