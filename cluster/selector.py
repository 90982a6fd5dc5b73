"""The selector: takes scores and reports, learns, and says which drafter should pull for each sequence.

Everything is keyed by sequence and bounded: one ring of gammas and one learner each, and where there are too many the
one idle longest goes. What costs is done to all at once: scores are looked at when somebody asks for what they change,
and the rounds of a message are learned from together. Time comes from outside. Not thread-safe but for `scores`:
`selector_server` calls it under one lock.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from paceline.actors.messages import (
    Heartbeat,
    Score,
    ScoreArrays,
    SelectorSnapshot,
    SequenceOpened,
    SequenceRound,
    TargetReport,
    WeightsUpdate,
)
from paceline.cluster.awaited_scores import AwaitedScores
from paceline.cluster.config import SelectorConfig, SpeculationConfig
from paceline.cluster.drafter_tally import DrafterTally
from paceline.cluster.learner import Rows
from paceline.cluster.learning import Learning
from paceline.cluster.membership import Membership
from paceline.cluster.policy_options import REQUEST_POLICIES
from paceline.cluster.request_log import RequestLog
from paceline.cluster.round_batch import RoundBatch
from paceline.cluster.score_table import ScoreInbox
from paceline.cluster.selector_state import SelectorState
from paceline.cluster.sequence_access import SequenceAccess
from paceline.cluster.target_connection import TargetConnection

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Sequence:
    opened: SequenceOpened
    row: int
    connection: int
    token_time: int  # tokens known to be committed, the newest report's rounds included


class Selector:
    """Learners, statistics and members of one cluster.

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
        self._rows: dict[int, int] = {}  # the same sequences'
        self._awaited = AwaitedScores()
        self._inbox = ScoreInbox()
        self._batch = RoundBatch()
        self._free = list(range(config.max_sequences - 1, -1, -1))
        self._connections: dict[int, TargetConnection] = {}
        self._ids = itertools.count(1)
        self._updates = 0
        self._plain_rounds = 0
        self._requests = RequestLog(config.explain_requests, config.explain_rounds, clock)
        self._counts: Counter[str] = Counter()

    @property
    def counts(self) -> Counter[str]:
        """What was refused or lost, by reason."""
        self.settle()
        return self._counts

    @property
    def requests(self) -> RequestLog:
        """Explains the newest ones."""
        self.settle()
        return self._requests

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
        self._counts["scores_dropped_by_drafters"] = self._membership.scores_dropped
        if changed:
            self._members_changed()

    def follow(self, roster: Mapping[str, bool]) -> None:
        """Take the roster, drafter -> whether it drains (see `Membership.follow`)."""
        if self._membership.follow(roster):
            self._members_changed()

    def scores(self, drafter: str, scores: Sequence[Score] | ScoreArrays) -> None:
        """Take a drafter's gammas, which are only noted here; `settle` looks at them. Any thread may call this."""
        self._inbox.put(drafter, scores if isinstance(scores, ScoreArrays) else ScoreArrays.of(scores))

    @property
    def unsettled(self) -> int:
        """Messages of scores that were not looked at yet."""
        return len(self._inbox)

    def settle(self) -> None:
        """Look at all scores that have come. What cannot be used is counted: unknown drafter or sequence, no
        probabilities, too late, too early."""
        table = self._inbox.take(self._membership.names, self._count)
        if table is None:
            return
        self._requests.scores(table)
        rows = np.array([self._rows.get(seq, -1) for seq in table.seqs], dtype=np.intp)
        known = rows >= 0
        self._count("scores_of_unknown_sequence", int((~known).sum()))
        rows, columns, entries, gammas = table.of(known, rows)
        placed = self._learning.rings.put(rows, columns, entries, gammas)
        self._access.scored(rows, columns)
        self._counts["gammas_late"] += placed.late
        self._counts["gammas_early"] += placed.early
        whose, gammas = columns[entries.score[placed.new]], gammas[placed.new]
        counts = np.bincount(whose, minlength=len(self._tallies))
        sums = np.bincount(whose, weights=gammas, minlength=len(self._tallies))
        for column in np.flatnonzero(counts).tolist():
            self._tallies[column].scores(float(sums[column]), int(counts[column]))
        self._judge()

    # ------------------------------------------------------------ targets

    def connect(self, target: str) -> int:
        """A target's stream began; returns its number. The first update goes out at once: members and the prior."""
        connection = next(self._ids)
        self._connections[connection] = TargetConnection(target)
        return connection

    def disconnect(self, connection: int) -> None:
        """A target's stream ended: its sequences go, except those announced anew on a later stream."""
        self.settle()
        del self._connections[connection]
        for seq in [seq for seq, sequence in self._sequences.items() if sequence.connection == connection]:
            self._close(seq)

    def report(self, connection: int, *reports: TargetReport) -> None:
        """Take a target's news, in order; of each report the openings, then the rounds, then the ends. Scores that have
        come are looked at before anything is released or closed: it would be lost to them.

        Rounds of several reports are learned from together, which is where the time goes.
        """
        self._batch = RoundBatch()
        for report in reports:
            if report.opened:
                self._learn()
                for opened in report.opened:
                    self._open(connection, opened)
                    self._requests.opened(report.target, opened)
            self._take(connection, report)
            if report.closed:
                self._learn()
                self.settle()
                self._end(connection, report.closed)
        self._learn()

    def _take(self, connection: int, report: TargetReport) -> None:
        """Note one report's times and rounds."""
        self._requests.reported(report)
        timings = []
        for timing in report.drafts:
            column = self._membership.column(timing.drafter)
            if column is None:
                self._count("timings_of_unknown_drafter", 1)
            elif timing.length > 0:
                timings.append((column, timing))
        self._learning.measured(timings, report)
        self._connections[connection].reported(report, self._sequences)
        for played in report.rounds:
            self._played(played)

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
        self.settle()
        waiting = self._connections[connection]
        rows = self._rows_of(waiting.changed)
        if self._learning.joint:
            running = self._rows_of(waiting.running)
            self._learning.hear(rows)
            self._learning.price(running, self._access.available(running), waiting.others, self._access.new)
        choice = self._learning.choice(rows, self._access.available(rows))
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
        self._requests.sent(update)
        return update

    def snapshot(self) -> SelectorSnapshot:
        """Everything a dashboard shows."""
        self.settle()
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
        self.settle()
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
            self._learning.open(row, opened, self._policy_of(opened))
            sequence = self._sequences[opened.seq] = _Sequence(opened, row, connection, opened.prompt_tokens)
            self._rows[opened.seq] = row
            self._access.open(row, opened.drafters, self._membership.names)
        self._sequences.move_to_end(opened.seq)
        waiting.dropped.pop(opened.seq, None)
        waiting.began(opened.seq, everyone=self._learning.joint)

    def _close(self, seq: int) -> None:
        sequence = self._sequences.pop(seq)
        self._awaited.forget(self._rows.pop(seq))
        self._learning.close(sequence.row, sequence.opened.sketch)
        self._free.append(sequence.row)
        if (waiting := self._connections.get(sequence.connection)) is not None:
            waiting.ended(seq, everyone=self._learning.joint)

    def _evict(self) -> None:
        seq, sequence = next(iter(self._sequences.items()))
        self._close(seq)
        self._connections[sequence.connection].dropped[seq] = None
        self._count("sequences_evicted", 1)

    def _played(self, played: SequenceRound) -> None:
        """Note one round."""
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
            return
        self._sequences.move_to_end(played.seq)
        self._connections[sequence.connection].changed[played.seq] = None
        row, before = sequence.row, sequence.token_time
        sequence.token_time = max(before, played.committed)
        self._batch.add(row, column, played, sequence.token_time)
        if column is None:
            return
        self._learning.asked(row, column, played, before)
        if played.drafted and self._learning.policy.row_hears_gammas(row):
            start = max(before, played.committed - played.accepted - 1)
            if played.committed > start:
                self._awaited.add(row, column, start, min(played.drafted, played.committed - start))

    def _judge(self, token_times: Mapping[int, int] | None = None) -> None:
        """Tell the policy of rounds whose scores are now complete; see `AwaitedScores.take`."""
        for row, column, gammas in self._awaited.take(self._learning.rings, token_times):
            self._learning.policy.judged(row, column, gammas)

    def _rows_of(self, seqs: Iterable[int]) -> Rows:
        return np.array([self._rows[seq] for seq in seqs], dtype=np.intp)

    def _policy_of(self, opened: SequenceOpened) -> str:
        if not opened.policy or opened.policy in REQUEST_POLICIES:
            return opened.policy
        self._count("sequences_of_unknown_policy", 1)
        return ""

    def _learn(self) -> None:
        """Learn from the rounds that are noted, of all sequences at once."""
        batch, self._batch = self._batch, RoundBatch()
        if batch:
            self.settle()
            self._learning.rounds(*batch.played())
            self._judge(batch.token_times)  # before their positions are released
            batch.learn(self._learning, self._access, self._tallies)

    def _count(self, reason: str, amount: int) -> None:
        """Count what is refused or lost; log its first time, and then each time it has doubled."""
        before = self._counts[reason]
        self._counts[reason] += amount
        if amount and before.bit_length() != self._counts[reason].bit_length():
            logger.warning("%s: %d so far", reason, self._counts[reason])


def _told(lengths: Rows) -> tuple[int, ...]:
    """Lengths as targets are told them: none at all where the target sets them."""
    return tuple(lengths.tolist()) if lengths.any() else ()
