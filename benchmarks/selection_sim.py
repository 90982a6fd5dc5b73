"""Selection alone, simulated: drafters that guess each position with a set chance, and the selector's own policies.

Greedy chains: every gamma is 0 or 1, so the accepted length from a position is what a draft there would bring. All runs
are one batch of sequences. As in the cluster a policy hears of the round it played at once, and of losses after a fixed
delay: of each position and drafter, whether a round of its own would begin there. `bench_selection` and
`tests/test_regret.py` call it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paceline.cluster.config import SelectorConfig
from paceline.cluster.learner import Pending
from paceline.cluster.policy import build_one
from paceline.cluster.policy_base import Played, Policy
from paceline.cluster.round_cost import ROUND
from paceline.cluster.shared_prior import SharedPrior

MAX_DRAFT = 7
BEST, OTHERS, SPREAD = 0.88, 0.62, 0.03
LAG = 8  # tokens that a drafter which is not chosen may lag: the shipped `speculation.catch_up_tokens`
SHIPPED_DELAY = MAX_DRAFT + 1 + LAG
BIN = 16  # tokens

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Streams:
    """Texts of many runs, and what each drafter makes of each position."""

    hits: npt.NDArray[np.bool_]  # [runs, positions, drafters]: whether it guesses the token
    length: npt.NDArray[np.float32]  # [runs, positions, drafters]: tokens of a round from there, bonus included
    starts: npt.NDArray[np.float32]  # [runs, positions, drafters]: whether a round of its own would begin there
    best: Rows  # [runs, positions]: the drafter with the highest chance
    tokens: int

    @classmethod
    def of(cls, hits: npt.NDArray[np.bool_], best: Rows, tokens: int) -> Streams:
        """All that follows from what is guessed."""
        return cls(hits, round_lengths(hits), round_starts(hits), best, tokens)


def draw_streams(runs: int, tokens: int, drafters: int, seed: int = 0, segments: int = 1) -> Streams:
    """Runs in which one drafter is accepted at 0.88 per token and the others near 0.62; in each further segment of the
    text it is another one. Which ones is drawn, so that no order of drafters is of use."""
    random = np.random.default_rng([seed, tokens, drafters, segments])
    positions = tokens + 2 * MAX_DRAFT  # rounds that begin before the end, and what they draft
    rates = np.clip(random.normal(OTHERS, SPREAD, (runs, 1, drafters)), 0.5, 0.7)
    order = random.permuted(np.tile(np.arange(drafters), (runs, 1)), axis=1)
    segment = np.minimum(np.arange(positions) * segments // tokens, segments - 1)
    best = order[:, segment % drafters]  # [runs, positions]
    chance = np.where(best[:, :, None] == np.arange(drafters), BEST, rates)
    hits = random.random(chance.shape, dtype=np.float32) < chance
    return Streams.of(hits, best, tokens)


def round_lengths(hits: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Tokens of a round from each position but the last MAX_DRAFT: the run of hits, cut at MAX_DRAFT, and the bonus."""
    kept = hits.shape[1] - MAX_DRAFT
    length = np.ones((len(hits), kept, hits.shape[2]), dtype=np.float32)
    alive = np.ones(length.shape, dtype=np.bool_)
    for ahead in range(MAX_DRAFT):
        alive &= hits[:, ahead : ahead + kept]
        length += alive
    return length


def round_starts(hits: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Where rounds begin, had a drafter played alone from the first position on."""
    starts = np.zeros(hits.shape, dtype=np.float32)
    age = np.zeros((len(hits), hits.shape[2]), dtype=np.int8)
    for at in range(hits.shape[1]):
        starts[:, at] = age == 0
        age = np.where(hits[:, at] & (age < MAX_DRAFT), age + 1, 0).astype(np.int8)
    return starts


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one policy made of streams."""

    per_round: Floats  # [runs]: tokens per round
    by_position: Floats  # [bins of BIN tokens]: tokens per round of the rounds that began there

    @property
    def mean(self) -> float:
        """Over runs."""
        return float(self.per_round.mean())

    @property
    def error(self) -> float:
        """The mean's standard error."""
        return float(self.per_round.std(ddof=1) / np.sqrt(len(self.per_round)))

    def gap(self, other: Outcome) -> tuple[float, float]:
        """How far it stays behind another one on the same streams, as a share, and the standard error of that."""
        behind = (other.per_round - self.per_round) / other.mean
        return float(behind.mean()), float(behind.std(ddof=1) / np.sqrt(len(behind)))


class _Runs:
    """Where every run stands, and what its rounds came to."""

    def __init__(self, streams: Streams) -> None:
        runs = len(streams.hits)
        self.streams = streams
        self.at = np.zeros(runs, dtype=np.intp)  # committed tokens
        self.rounds = np.zeros(runs)
        self._bins = np.zeros((2, -(-streams.tokens // BIN)))  # tokens, rounds

    def live(self) -> Rows:
        return np.flatnonzero(self.at < self.streams.tokens)

    def play(self, rows: Rows, columns: Rows) -> npt.NDArray[np.int64]:
        """One round each; returns its tokens."""
        tokens = self.streams.length[rows, self.at[rows], columns].astype(np.int64)
        where = self.at[rows] // BIN
        np.add.at(self._bins[0], where, tokens)
        np.add.at(self._bins[1], where, 1)
        self.at[rows] += tokens
        self.rounds[rows] += 1
        return tokens

    def outcome(self) -> Outcome:
        return Outcome(self.at / self.rounds, self._bins[0] / np.maximum(self._bins[1], 1))


def best_fixed(streams: Streams) -> Outcome:
    """The drafter with the highest chance, known from the start: the best one of each segment."""
    runs = _Runs(streams)
    while len(rows := runs.live()):
        runs.play(rows, streams.best[rows, runs.at[rows]])
    return runs.outcome()


def make_policy(name: str, runs: int, drafters: int, **settings: Any) -> Policy:
    """A policy by name, without a prior, all its runs open."""
    document = {"policy": name, "max_sequences": runs, "prior_weight": 0.0, **settings}
    if name == "fixed":
        document["drafter"] = "0"
    policy = build_one(SelectorConfig.model_validate(document), MAX_DRAFT, name, SharedPrior())
    for drafter in range(drafters):
        policy.join(str(drafter))
    for run in range(runs):
        policy.open(run, "")
    return policy


def play(
    streams: Streams, policy: Policy, *, delay: int = SHIPPED_DELAY, burst: int = 1, hints: bool = True, seed: int = 0
) -> Outcome:
    """Let a policy choose in every round of every run.

    Args:
        streams: The texts.
        policy: Its rows are the runs.
        delay: Token-time between a position and the release of its loss.
        burst: Losses are held back until the token-time is a multiple of this.
        hints: Whether committed positions that are not released are told as `Pending`.
        seed: Of the draws by weight.
    """
    runs, drafters = len(streams.hits), streams.hits.shape[2]
    random = np.random.default_rng([seed, 1])
    state = _Runs(streams)
    released = np.zeros(runs, dtype=np.intp)
    discount = getattr(policy, "discount", 1.0)
    learns, judges = (getattr(type(policy), name) is not getattr(Policy, name) for name in ("learn", "judged"))
    while len(rows := state.live()):
        everyone = np.ones((len(rows), drafters), dtype=np.bool_)
        pending = pending_losses(streams, rows, released[rows], state.at[rows], discount) if hints and learns else None
        weights = policy.weights(rows, everyone, pending)
        chosen = (weights.cumsum(axis=1) <= random.random((len(rows), 1))).sum(axis=1)
        columns = np.minimum(chosen, drafters - 1)
        before = state.at[rows].copy()
        accepted = state.play(rows, columns) - 1
        policy.played(rows, Played(columns, np.full(len(rows), MAX_DRAFT), accepted))
        for row, column, start, kept in zip(rows, columns, before, accepted, strict=True) if judges else ():
            drafted = streams.hits[row, start : start + min(kept + 1, MAX_DRAFT), column]
            policy.judged(int(row), int(column), drafted.astype(np.float64))
        if learns:
            _release(streams, policy, rows, released, state.at[rows] // burst * burst - delay + 1)
    return state.outcome()


def pending_losses(streams: Streams, rows: Rows, released: Rows, at: Rows, discount: float) -> Pending:
    """What `GammaRings.pending` tells of positions that are not released, up to the first that is not committed: their
    mean loss."""
    counts = at - released
    ahead = np.arange(int(counts.max(initial=0)) + 1)
    where = np.minimum(released[:, None] + ahead, streams.starts.shape[1] - 1)  # [rows, positions]
    left = counts[:, None] - 1 - ahead
    weights = np.where((left >= -1) & (counts[:, None] > 0), discount ** np.maximum(left, 0.0), 0.0)[:, :, None]
    total, heard = (weights * streams.starts[rows[:, None], where]).sum(axis=1), weights.sum(axis=1)
    losses = np.where(heard > 0, ROUND * total / np.maximum(heard, 1e-9), np.nan)
    return Pending(losses, np.broadcast_to(heard, losses.shape), discount**counts)


def _release(streams: Streams, policy: Policy, rows: Rows, released: Rows, due: Rows) -> None:
    """Teach the policy all positions before `due`, [rows], one after the other, as the selector does."""
    drafters = streams.hits.shape[2]
    while (ready := released[rows] < due).any():
        mine = rows[ready]
        losses = ROUND * streams.starts[mine, released[mine]].astype(np.float64)
        policy.learn(mine, losses, np.ones((len(mine), drafters), dtype=np.bool_))
        released[mine] += 1
