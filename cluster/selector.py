"""The selector: takes scores and reports, learns, and says which drafter should pull for each sequence.

Everything is keyed by sequence and bounded: one ring of gammas and one learner each, and where there are too many the
one idle longest goes. Time comes from outside. Not thread-safe: `selector_server` calls it under one lock.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from paceline.actors.messages import (
    Heartbeat,
    Score,
    SelectorSnapshot,
    SequenceOpened,
    SequenceRound,
    TargetReport,
    WeightsUpdate,
)
from paceline.cluster.awaited_scores import AwaitedScores
from paceline.cluster.config import SelectorConfig, SpeculationConfig
from paceline.cluster.drafter_tally import DrafterTally
from paceline.cluster.gamma_ring import GammaRing
from paceline.cluster.learner import Floats, Rows
from paceline.cluster.learning import Learning
from paceline.cluster.membership import Membership
from paceline.cluster.policy_base import Played
from paceline.cluster.policy_options import REQUEST_POLICIES
from paceline.cluster.request_log import RequestLog
from paceline.cluster.selector_state import SelectorState
from paceline.cluster.sequence_access import SequenceAccess
from paceline.cluster.target_connection import TargetConnection

logger = logging.getLogger(__name__)

LEARN_TOGETHER = 16  # positions of a sequence that meet the same weights: a fraction of what a learner remembers
_ROUNDING = 1e-3  # a gamma this far outside [0, 1] is rounding in the drafter's sums, not a lie


@dataclass(slots=True)
class _Sequence:
    opened: SequenceOpened
    row: int
    connection: int
    ring: GammaRing
    awaited: AwaitedScores = field(default_factory=AwaitedScores)


class Selector:
    """Learners, statistics and members of one cluster.

    `counts` tells what was refused or lost, by reason; `requests` explains the newest ones.

    Args:
        config: The policy and its settings.
        speculation: Draft length and permitted lag, which fix the delay of losses.
        heartbeat_s: When drafters' heartbeats are expected.
        clock: Seconds, never going back.
    """

    def __init__(
        self, config: SelectorConfig, speculation: SpeculationConfig, heartbeat_s: float, clock: Callable[[], float]
    ) -> None:
        self._config = config
        self._clock = clock
        self._started_s = clock()
        self._learning = Learning(config, speculation)
        self._membership = Membership(heartbeat_s)
        self._tallies: list[DrafterTally] = []
        self._access = SequenceAccess(config.max_sequences)
        self._sequences: OrderedDict[int, _Sequence] = OrderedDict()  # the one idle longest first
        self._free = list(range(config.max_sequences - 1, -1, -1))
        self._connections: dict[int, TargetConnection] = {}
        self._ids = itertools.count(1)
        self._updates = 0
        self._plain_rounds = 0
        self.requests = RequestLog(config.explain_requests, config.explain_rounds, clock)
        self.counts: Counter[str] = Counter()

    # ------------------------------------------------------------ drafters

    def register(self, heartbeat: Heartbeat) -> None:
        """Take a heartbeat; a new name joins as a drafter.

        Raises:
            Overloaded: there are as many drafters, or replicas, as are taken.
        """
        before = len(self._membership)
        changed = self._membership.register(heartbeat, self._clock())
        if len(self._membership) > before:
            self._join(heartbeat.drafter)
        self.counts["scores_dropped_by_drafters"] = self._membership.scores_dropped
        if changed:
            self._members_changed()

    def follow(self, roster: Mapping[str, bool]) -> None:
        """Take the roster, drafter -> whether it drains (see `Membership.follow`)."""
        if self._membership.follow(roster):
            self._members_changed()

    def scores(self, drafter: str, scores: Sequence[Score]) -> None:
        """Take a drafter's gammas. What cannot be used is counted: unknown drafter or sequence, no probabilities,
        too late, too early."""
        column = self._membership.column(drafter)
        if column is None:
            self._count("scores_of_unknown_drafter", len(scores))
            return
        new = []
        for score in self._probabilities(scores):
            self.requests.scores(drafter, score)
            sequence = self._sequences.get(score.seq)
            if sequence is None:
                self._count("scores_of_unknown_sequence", 1)
            else:
                placed = sequence.ring.put(column, score.start, score.gammas)
                new.append(placed.gammas)
                self._access.scored(sequence.row, column)
                self.counts["gammas_late"] += placed.late
                self.counts["gammas_early"] += placed.early
                self._judge(sequence)
        if new:
            self._tallies[column].scores(np.concatenate(new))

    def _probabilities(self, scores: Sequence[Score]) -> Iterator[Score]:
        """The scores that are probabilities, rounded into [0, 1]; the others are counted. All are looked at together,
        since a message holds many short ones."""
        together = np.concatenate([score.gammas for score in scores]) if scores else np.empty(0, dtype=np.float32)
        valid = (together >= -_ROUNDING) & (together <= 1.0 + _ROUNDING)  # NaN is neither
        whole, rounded = bool(valid.all()), np.clip(together, 0.0, 1.0)
        end = 0
        for score in scores:
            start, end = end, end + len(score.gammas)
            if whole or valid[start:end].all():
                yield Score(score.seq, score.start, rounded[start:end])
            else:
                self._count("scores_invalid", 1)

    # ------------------------------------------------------------ targets

    def connect(self, target: str) -> int:
        """A target's stream began; returns its number. The first update goes out at once: members and the prior."""
        connection = next(self._ids)
        self._connections[connection] = TargetConnection(target)
        return connection

    def disconnect(self, connection: int) -> None:
        """A target's stream ended: its sequences go, except those announced anew on a later stream."""
        del self._connections[connection]
        for seq in [seq for seq, sequence in self._sequences.items() if sequence.connection == connection]:
            self._close(seq)

    def report(self, connection: int, *reports: TargetReport) -> None:
        """Take a target's news, in order; of each report the openings, then the rounds, then the ends.

        What several reports release is learnt together, which is where the time goes.
        """
        released: dict[int, list[Floats]] = {}
        for report in reports:
            self._take(connection, report, released)
            if report.closed:
                self._learn(released)
                released.clear()
                self._end(connection, report.closed)
        self._learn(released)

    def _take(self, connection: int, report: TargetReport, released: dict[int, list[Floats]]) -> None:
        """Note one report but its ends, and collect what it releases, by sequence."""
        for opened in report.opened:
            self._open(connection, opened)
            self.requests.opened(report.target, opened)
        self.requests.reported(report)
        timings = []
        for timing in report.drafts:
            column = self._membership.column(timing.drafter)
            if column is None:
                self._count("timings_of_unknown_drafter", 1)
            elif timing.length > 0:
                timings.append((column, timing))
        self._learning.measured(timings, report)
        self._connections[connection].reported(report, self._sequences)
        outcomes: list[tuple[int, int, int, int]] = []  # row, column, drafted, accepted
        for played in report.rounds:
            due = self._played(played, outcomes)
            if due is not None:
                released.setdefault(played.seq, []).append(due)
        if outcomes:
            rows, *counts = np.array(outcomes).T
            self._learning.rounds(rows, Played(*counts))
        for seq in {played.seq for played in report.rounds} & self._sequences.keys():
            self._judge(self._sequences[seq])

    def _end(self, connection: int, closed: Sequence[int]) -> None:
        for seq in closed:
            self._connections[connection].dropped.pop(seq, None)
            if seq in self._sequences:
                self._close(seq)
            else:
                self._count("ends_of_unknown_sequence", 1)

    def pending(self, connection: int) -> bool:
        """Whether there is news for a target."""
        if self._membership.expire(self._clock()):
            self._members_changed()
        waiting = self._connections[connection]
        return bool(waiting.changed or waiting.dropped or waiting.members or waiting.idle)

    def update(self, connection: int) -> WeightsUpdate | None:
        """All news for a target, which then counts as told; None where there is none.

        A sequence that lost its learner has an empty row: the prior is its weights again.
        """
        if not self.pending(connection):
            return None
        waiting = self._connections[connection]
        rows = self._rows(waiting.changed)
        rings = [self._sequences[seq].ring for seq in waiting.changed]
        if self._learning.joint:
            running = self._rows(waiting.running)
            self._learning.hear(rows, rings)
            self._learning.price(running, self._access.available(running), waiting.others, self._access.new)
        choice = self._learning.choice(rows, rings, self._access.available(rows))
        begin = self._learning.begin(self._access.new)
        self._updates += 1
        update = WeightsUpdate(
            number=self._updates,
            drafters=self._membership.names,
            prior=begin.weights.astype(np.float32),
            sequences={
                **{seq: np.empty(0, dtype=np.float32) for seq in waiting.dropped},
                **dict(zip(waiting.changed, choice.weights.astype(np.float32), strict=True)),
            },
            members=self._membership.members if waiting.members and len(self._membership) else None,
            prior_lengths=_told(begin.lengths),
            lengths={
                seq: told for seq, row in zip(waiting.changed, choice.lengths, strict=True) if (told := _told(row))
            },
        )
        waiting.changed, waiting.dropped, waiting.members, waiting.idle = {}, {}, False, False
        self.requests.sent(update)
        return update

    def snapshot(self) -> SelectorSnapshot:
        """Everything a dashboard shows."""
        if self._membership.expire(self._clock()):
            self._members_changed()
        prior = self._learning.begin(self._access.new).weights
        draft_ms = self._learning.cost.draft_ms()
        return SelectorSnapshot(
            policy=self._config.policy,
            updates=self._updates,
            sequences=len(self._sequences),
            members=self._membership.members,
            drafters=tuple(
                tally.statistics(name, float(prior[column]), float(draft_ms[column]))
                for column, (name, tally) in enumerate(zip(self._membership.names, self._tallies, strict=True))
                if self._membership.present[column]
            ),
            plain_rounds=self._plain_rounds,
            uptime_s=self._clock() - self._started_s,
        )

    def state(self) -> SelectorState:
        """What is known beyond single sequences."""
        names = self._membership.names
        return self._learning.memory.state(self._config.policy, names, self._tallies, self._plain_rounds)

    def restore(self, state: SelectorState) -> None:
        """Go on from another life's state. Called before any drafter has come."""
        self._learning.memory.restore(state)
        self._plain_rounds = state.plain_rounds

    def _join(self, drafter: str) -> None:
        self._learning.join(drafter)
        self._tallies.append(DrafterTally(self._config.prior_memory))
        self._learning.memory.joined(drafter, len(self._tallies) - 1, self._tallies[-1])
        self._access.join()
        for sequence in self._sequences.values():
            sequence.ring.join()
            self._access.restrict(sequence.row, sequence.opened.drafters, self._membership.names)

    def _members_changed(self) -> None:
        """Weights are over those that are up, so every sequence's may have changed too."""
        self._access.follow(self._membership)
        for waiting in self._connections.values():
            waiting.members = True
        for seq, sequence in self._sequences.items():
            self._connections[sequence.connection].changed[seq] = None

    def _open(self, connection: int, opened: SequenceOpened) -> None:
        """Take a sequence; one announced again (its target reconnected) keeps what it learned."""
        waiting = self._connections[connection]
        sequence = self._sequences.get(opened.seq)
        if sequence is not None:
            self._connections[sequence.connection].ended(opened.seq)
            sequence.connection = connection
        else:
            if not self._free:
                self._evict()
            row = self._free.pop()
            ring = self._learning.open(row, opened, self._policy_of(opened))
            sequence = _Sequence(opened, row, connection, ring)
            self._sequences[opened.seq] = sequence
            self._access.open(row, opened.drafters, self._membership.names)
        self._sequences.move_to_end(opened.seq)
        waiting.dropped.pop(opened.seq, None)
        waiting.began(opened.seq, everyone=self._learning.joint)

    def _close(self, seq: int) -> None:
        sequence = self._sequences.pop(seq)
        self._learning.close(sequence.row, sequence.opened.sketch)
        self._free.append(sequence.row)
        if (waiting := self._connections.get(sequence.connection)) is not None:
            waiting.ended(seq, everyone=self._learning.joint)

    def _evict(self) -> None:
        seq, sequence = next(iter(self._sequences.items()))
        self._close(seq)
        self._connections[sequence.connection].dropped[seq] = None
        self._count("sequences_evicted", 1)

    def _played(self, played: SequenceRound, outcomes: list[tuple[int, int, int, int]]) -> Floats | None:
        """Note one round, and add it to `outcomes`; returns what it releases, None of an unknown sequence."""
        column = self._membership.column(played.drafter)
        if not played.drafted:
            self._plain_rounds += 1
        elif column is not None:
            self._tallies[column].played(played)
        elif played.drafter:
            self._count("rounds_of_unknown_drafter", 1)
        sequence = self._sequences.get(played.seq)
        if sequence is None:
            self._count("rounds_of_unknown_sequence", 1)
            return None
        self._sequences.move_to_end(played.seq)
        outcomes.append((sequence.row, -1 if column is None else column, played.drafted, played.accepted))
        if column is not None:
            self._learning.asked(sequence.row, column, played, sequence.ring)
        if column is not None and played.drafted and self._learning.policy.row_hears_gammas(sequence.row):
            start = max(sequence.ring.token_time, played.committed - played.accepted - 1)
            if played.committed > start:
                sequence.awaited.add(column, start, min(played.drafted, played.committed - start))
        self._connections[sequence.connection].changed[played.seq] = None
        return self._learning.released(sequence.ring, played.committed)

    def _judge(self, sequence: _Sequence) -> None:
        """Tell the policy of rounds whose scores are now complete."""
        for column, gammas in sequence.awaited.take(sequence.ring):
            self._learning.policy.judged(sequence.row, column, gammas)

    def _rows(self, seqs: Iterable[int]) -> Rows:
        return np.array([self._sequences[seq].row for seq in seqs], dtype=np.intp)

    def _policy_of(self, opened: SequenceOpened) -> str:
        if not opened.policy or opened.policy in REQUEST_POLICIES:
            return opened.policy
        self._count("sequences_of_unknown_policy", 1)
        return ""

    def _learn(self, released: dict[int, list[Floats]]) -> None:
        """Learn all sequences at once, and some positions of each, since an update costs the same for one as for many.

        A sequence that was evicted meanwhile has no learner any more.
        """
        whole = [part[:, :, -1] for parts in released.values() for part in parts if len(part)]
        if whole:
            for tally, starts in zip(self._tallies, np.concatenate(whole).T, strict=True):
                tally.released(starts)
        alive = {
            self._sequences[seq].row: np.concatenate(parts)
            for seq, parts in released.items()
            if seq in self._sequences and any(len(part) for part in parts)
        }
        for start in range(0, max(map(len, alive.values()), default=0), LEARN_TOGETHER):
            blocks = {row: part[start : start + LEARN_TOGETHER] for row, part in alive.items() if len(part) > start}
            rows = np.repeat(np.array(list(blocks), dtype=np.intp), [len(block) for block in blocks.values()])
            self._learning.learn(rows, np.concatenate(list(blocks.values())), self._access.allowed(rows))

    def _count(self, reason: str, amount: int) -> None:
        """Count what is refused or lost; log its first time, and then each time it has doubled."""
        before = self.counts[reason]
        self.counts[reason] += amount
        if amount and before.bit_length() != self.counts[reason].bit_length():
            logger.warning("%s: %d so far", reason, self.counts[reason])


def _told(lengths: Rows) -> tuple[int, ...]:
    """Lengths as targets are told them: none at all where the target sets them."""
    return tuple(lengths.tolist()) if lengths.any() else ()
