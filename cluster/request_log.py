"""The newest requests with what the selector saw, showed and learned of each: a bounded ring, to be explained.

The selector hands over what passes through it anyway: openings, reports, scores and the weights that it sends. Nothing
is computed until somebody asks. A round names the update that its choice went by, so that its weights are those that
the target held, not those of some moment before or after. `Selector` feeds it, and `SelectorServer` reads it, under one
lock.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from paceline.actors.messages import SequenceOpened, SequenceRound, TargetReport, WeightsUpdate
from paceline.cluster.explanation import (
    ExplainedRound,
    ExplainedSequence,
    Explanation,
    RequestList,
    RequestSummary,
)
from paceline.cluster.gamma_pages import GammaPages
from paceline.cluster.gamma_ring import wider
from paceline.cluster.score_table import Entries, Rows, ScoreTable
from paceline.cluster.speculation_report import PLAIN

TOKENS_PER_ROUND = 4  # that positions are kept for, on average: `explain_rounds` times this bounds a sequence's gammas
_OUTSTANDING = 64  # updates that no round has been played by yet
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class _Weights:
    """By name; lengths where the selector sets them, and else none."""

    names: tuple[str, ...]
    values: npt.NDArray[np.float32]
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Round:
    start: int
    report: TargetReport
    played: SequenceRound
    weights: _Weights | None


@dataclass(slots=True)
class _Sequence:
    opened: SequenceOpened
    target: str
    began_s: float
    row: int  # of its gammas
    finished: bool = False
    rounds: list[_Round] = field(default_factory=list)
    left_out: int = 0
    lost: int = 0
    committed: int = 0
    sent: deque[tuple[int, _Weights]] = field(default_factory=lambda: deque(maxlen=_OUTSTANDING))


@dataclass(slots=True)
class _Request:
    number: int
    sequences: list[_Sequence] = field(default_factory=list)


class RequestLog:
    """What is kept of the newest requests.

    Args:
        max_requests: Most requests kept; 0 keeps none.
        max_rounds: Most rounds kept of a sequence, the first ones.
        clock: Seconds, never going back.
    """

    def __init__(self, max_requests: int, max_rounds: int, clock: Callable[[], float]) -> None:
        self._max_requests = max_requests
        self._max_rounds = max_rounds
        self._clock = clock
        self._life = secrets.token_hex(4)
        self._requests: OrderedDict[str, _Request] = OrderedDict()  # oldest first
        self._sequences: dict[int, _Sequence] = {}
        self._rows: dict[int, int] = {}  # sequence -> row
        self._gammas = GammaPages(TOKENS_PER_ROUND * max_rounds)
        self._names: tuple[str, ...] = ()  # drafters, by column
        self._first: Rows = np.zeros(0, dtype=np.intp)  # by row: the first position that was not there already
        self._priors: deque[tuple[int, _Weights]] = deque(maxlen=_OUTSTANDING)
        self._seen = 0

    # ------------------------------------------------------------ what the selector hands over

    def opened(self, target: str, opened: SequenceOpened) -> None:
        """A sequence began, or was announced again."""
        if not self._max_requests or opened.seq in self._sequences:
            return
        name = split_request(opened)[0]
        request = self._requests.get(name)
        if request is None:
            self._seen += 1
            request = self._requests[name] = _Request(self._seen)
            while len(self._requests) > self._max_requests:
                _, oldest = self._requests.popitem(last=False)
                for sequence in oldest.sequences:
                    del self._sequences[sequence.opened.seq]
                    self._gammas.close(self._rows.pop(sequence.opened.seq))
        row = self._rows[opened.seq] = self._gammas.open()
        if row >= len(self._first):
            self._first = wider(self._first, (2 * row + 1,), 0)
        self._first[row] = opened.prompt_tokens
        sequence = _Sequence(opened, target, self._clock(), row, committed=opened.prompt_tokens)
        request.sequences.append(sequence)
        self._sequences[opened.seq] = sequence

    def scores(self, table: ScoreTable) -> None:
        """Drafters' gammas; those of sequences and positions that are not kept are passed over."""
        self._names = table.names
        rows = np.array([self._rows.get(seq, -1) for seq in table.seqs], dtype=np.intp)
        rows, columns, entries, gammas = table.of(rows >= 0, rows)
        if len(rows):
            own = entries.position - self._first[rows][entries.score]
            self._gammas.put(rows, columns, Entries(entries.score, own), gammas)

    def sent(self, update: WeightsUpdate) -> None:
        """An update goes to a target."""
        if not self._max_requests:
            return
        prior = _Weights(update.drafters, update.prior, update.prior_lengths)
        self._priors.append((update.number, prior))
        for seq, weights in update.sequences.items():
            if (sequence := self._sequences.get(seq)) is not None:
                # A view would keep the whole update alive.
                own = _Weights(update.drafters, weights.copy(), update.lengths.get(seq, ())) if len(weights) else prior
                sequence.sent.append((update.number, own))

    def reported(self, report: TargetReport) -> None:
        """A target's rounds and ends."""
        for played in report.rounds:
            if (sequence := self._sequences.get(played.seq)) is not None and played.committed > sequence.committed:
                self._add(sequence, played, report)
        for seq in report.closed:
            if (sequence := self._sequences.get(seq)) is not None:
                sequence.finished = True

    def _add(self, sequence: _Sequence, played: SequenceRound, report: TargetReport) -> None:
        start = max(sequence.committed, played.committed - played.accepted - 1)
        sequence.lost += start > sequence.committed
        sequence.committed = played.committed
        weights = self._weights(sequence, report.context.weights_number)
        most = sequence.opened.prompt_tokens + TOKENS_PER_ROUND * self._max_rounds
        if sequence.left_out or len(sequence.rounds) >= self._max_rounds or played.committed > most:
            sequence.left_out += 1
        else:
            sequence.rounds.append(_Round(start, report, played, weights))

    def _weights(self, sequence: _Sequence, number: int) -> _Weights | None:
        """What a target that holds this update goes by: the sequence's newest weights by then, else the prior."""
        if not number:
            return None
        sent = sequence.sent
        while len(sent) > 1 and sent[1][0] <= number:
            sent.popleft()
        only = sequence.opened.drafters
        named = sequence.opened.named and bool(only)
        if sent and sent[0][0] <= number:
            return _among(only, sent[0][1], plain=0.0) if named else sent[0][1]
        prior = next((weights for at, weights in reversed(self._priors) if at <= number), None)
        if prior is None or not only:
            return prior
        return _among(only, prior, 0.0 if named or not prior.lengths else max(1.0 - float(prior.values.sum()), 0.0))

    # ------------------------------------------------------------ what is asked

    def explain(self, request: str) -> Explanation | None:
        """One request; None where it is not kept."""
        held = self._requests.get(request)
        if held is None:
            return None
        choices = sorted((self._explained(sequence) for sequence in held.sequences), key=lambda choice: choice.index)
        return Explanation(request, held.number, all(choice.finished for choice in choices), choices)

    def newest(self, limit: int) -> RequestList:
        """At most so many requests, newest first."""
        listed = [self._summary(name) for name in list(reversed(self._requests))[:limit]]
        return RequestList(listed, len(self._requests), self._max_requests, self._seen, self._life)

    def _summary(self, name: str) -> RequestSummary:
        held = self._requests[name]
        rounds = Counter(
            entry.played.drafter if entry.played.drafted else PLAIN for item in held.sequences for entry in item.rounds
        )
        return RequestSummary(
            name,
            held.number,
            all(item.finished for item in held.sequences),
            round(self._clock() - held.sequences[0].began_s, 3),
            len({split_request(item.opened)[1] for item in held.sequences}),
            sum(item.committed - item.opened.prompt_tokens for item in held.sequences),
            dict(rounds.most_common()),
        )

    def _explained(self, sequence: _Sequence) -> ExplainedSequence:
        opened = sequence.opened
        return ExplainedSequence(
            index=split_request(opened)[1],
            seq=opened.seq,
            target=sequence.target,
            route=opened.route,
            drafters=list(opened.drafters),
            prompt_tokens=opened.prompt_tokens,
            finished=sequence.finished,
            age_s=round(self._clock() - sequence.began_s, 3),
            rounds=[
                _explained(number, entry, sequence, self._scored(sequence, entry))
                for number, entry in enumerate(sequence.rounds)
            ],
            rounds_left_out=sequence.left_out,
            rounds_lost=sequence.lost,
        )

    def _scored(self, sequence: _Sequence, entry: _Round) -> dict[str, list[float | None]]:
        """Gammas of a round's positions, [positions] by drafter; drafters that scored none of them are left out."""
        prompt = sequence.opened.prompt_tokens
        found = self._gammas.read(sequence.row, entry.start - prompt, entry.played.committed - prompt)
        return {
            name: [None if math.isnan(gamma) else _rounded(gamma) for gamma in found[:, column].tolist()]
            for column, name in enumerate(self._names[: found.shape[1]])
            if not np.isnan(found[:, column]).all()
        }


def split_request(opened: SequenceOpened) -> tuple[str, int]:
    """The request's id and the choice's index; a generation that is named otherwise is a request of its own."""
    name, _, index = opened.request.rpartition("-")
    if name and index.isdecimal():
        return name, int(index)
    return opened.request or str(opened.seq), 0


def _among(only: tuple[str, ...], weights: _Weights, plain: float) -> _Weights:
    """Weights of these drafters alone, as `HeldWeights` narrows them; plain decoding's share is given."""
    allowed = np.where([name in only for name in weights.names], weights.values, 0.0)
    if allowed.sum() > 0:
        return replace(weights, values=(allowed / (plain + allowed.sum())).astype(np.float32))
    known = dict(zip(weights.names, weights.lengths, strict=False))
    lengths = tuple(known[name] for name in only) if all(name in known for name in only) else ()
    return _Weights(only, np.full(len(only), 1.0 / len(only), dtype=np.float32), lengths)


def _explained(
    number: int, entry: _Round, sequence: _Sequence, gammas: dict[str, list[float | None]]
) -> ExplainedRound:
    played, report = entry.played, entry.report
    timing = next((item for item in report.drafts if item.drafter == played.drafter), None)
    return ExplainedRound(
        number=number,
        start=entry.start,
        committed=played.committed,
        drafter=played.drafter,
        length=played.length,
        drafted=played.drafted,
        accepted=played.accepted,
        carried=played.carried,
        weights=None if entry.weights is None else _by_name(entry.weights),
        lengths={} if entry.weights is None else dict(zip(entry.weights.names, entry.weights.lengths, strict=False)),
        gammas=gammas,
        draft_ms=None if timing is None or played.carried else _rounded(timing.draft_ms),
        wait_ms=_rounded(report.context.wait_ms),
        verify_ms=_rounded(report.verify_ms) if report.verify_ms else None,
        round_ms=_rounded(report.context.round_ms),
        verify_tokens=report.verify_tokens,
        sequences=len(report.rounds),
        token_ids=list(played.tokens),
    )


def _by_name(weights: _Weights) -> dict[str, float]:
    return {name: _rounded(value) for name, value in zip(weights.names, weights.values.tolist(), strict=True)}


def _rounded(value: float) -> float:
    return round(value, _DIGITS)
