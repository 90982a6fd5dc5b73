"""The selector's protocol as protobuf: scores, heartbeats, target reports and weights, both ways.

Decoding checks the version and ranges once, at the door; past it there is only the plain data of `messages`. Called by
`score_link` and `weights_link` on one end and by the selector's server on the other.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
import numpy as np

from paceline.actors import prompt_sketch
from paceline.actors.errors import ProtocolError
from paceline.actors.messages import (
    PROTOCOL_VERSION,
    DraftTiming,
    Heartbeat,
    Member,
    RoundContext,
    Score,
    ScoreArrays,
    SequenceOpened,
    SequenceRound,
    TargetReport,
    WeightsUpdate,
)
from paceline.protos import paceline_pb2 as pb

MAX_NAME_CHARACTERS = 256
MAX_FEATURE_LAYERS = 64  # each costs 2 * width bytes per token and drafter


def check_version(version: int) -> None:
    """Refuse a peer of another protocol.

    Raises:
        ProtocolError: the versions differ.
    """
    if version != PROTOCOL_VERSION:
        raise ProtocolError(f"version: expected {PROTOCOL_VERSION}, got {version}")


def reason(error: Exception) -> str:
    """Why a link to the selector failed, on one line, for logs."""
    if isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {str(error).strip()[:200]}"


def _named(name: str, field: str) -> str:
    if not 0 < len(name) <= MAX_NAME_CHARACTERS:
        raise ProtocolError(f"{field}: expected 1 to {MAX_NAME_CHARACTERS} characters, got {len(name)}")
    return name


def _feature_layers(message: pb.Heartbeat | pb.Member, field: str = "") -> tuple[int, ...]:
    """Whose features a drafter reads, checked together with how many rows of them."""
    layers = tuple(message.feature_layers)
    if len(layers) > MAX_FEATURE_LAYERS:
        raise ProtocolError(f"{field}feature_layers: expected at most {MAX_FEATURE_LAYERS}, got {len(layers)}")
    if list(layers) != sorted(set(layers)) or 0 in layers:
        raise ProtocolError(f"{field}feature_layers: expected ascending numbers from 1 on, got {list(layers)}")
    if (message.feature_window > 0) != bool(layers):
        raise ProtocolError(
            f"{field}feature_window: expected a number of rows where there are feature_layers, and 0 elsewhere; "
            f"got {message.feature_window} beside {list(layers)}"
        )
    return layers


# ---------------------------------------------------------------- drafter -> selector


def encode_scores(drafter: str, scores: list[Score]) -> pb.ScoreBatch:
    """Write one drafter's scores."""
    items = [pb.Score(seq=score.seq, start=score.start, gammas=score.gammas) for score in scores]
    return pb.ScoreBatch(version=PROTOCOL_VERSION, drafter=drafter, scores=items)


def decode_scores(message: pb.ScoreBatch) -> tuple[str, ScoreArrays]:
    """Read a drafter's name and scores. Gammas are not judged here: one bad score must not cost the others.

    Raises:
        ProtocolError: another version, or no name.
    """
    check_version(message.version)
    seqs: list[int] = []
    starts: list[int] = []
    counts: list[int] = []
    gammas: list[float] = []
    for item in message.scores:
        seqs.append(item.seq)
        starts.append(item.start)
        values = item.gammas
        counts.append(len(values))
        gammas.extend(values)
    return _named(message.drafter, "drafter"), ScoreArrays(seqs, starts, counts, np.array(gammas, dtype=np.float32))


def encode_heartbeat(heartbeat: Heartbeat) -> pb.Heartbeat:
    """Write a heartbeat."""
    return pb.Heartbeat(
        version=PROTOCOL_VERSION,
        drafter=heartbeat.drafter,
        kind=heartbeat.kind,
        address=heartbeat.address,
        node=heartbeat.node,
        device=heartbeat.device,
        pid=heartbeat.pid,
        sessions=heartbeat.sessions,
        capacity=heartbeat.capacity,
        scores_dropped=heartbeat.scores_dropped,
        feature_layers=heartbeat.feature_layers,
        feature_window=heartbeat.feature_window,
        replica=heartbeat.replica,
    )


def decode_heartbeat(message: pb.Heartbeat) -> Heartbeat:
    """Read a heartbeat.

    Raises:
        ProtocolError: another version, a name or address that is missing or too long, or features that cannot be.
    """
    check_version(message.version)
    return Heartbeat(
        drafter=_named(message.drafter, "drafter"),
        kind=_named(message.kind, "kind"),
        address=_named(message.address, "address"),
        node=message.node,
        device=message.device,
        pid=message.pid,
        sessions=message.sessions,
        capacity=message.capacity,
        scores_dropped=message.scores_dropped,
        feature_layers=_feature_layers(message),
        feature_window=message.feature_window,
        replica=message.replica,
    )


# ---------------------------------------------------------------- target -> selector


def encode_reports(reports: Iterable[TargetReport]) -> pb.TargetReports:
    """Write what a target has to tell, in order."""
    return pb.TargetReports(reports=[encode_report(report) for report in reports])


def decode_reports(message: pb.TargetReports) -> list[TargetReport]:
    """Read what a target has to tell; see `decode_report`."""
    return [decode_report(report) for report in message.reports]


def encode_report(report: TargetReport) -> pb.TargetReport:
    """Write a target's report."""
    return pb.TargetReport(
        version=PROTOCOL_VERSION,
        target=report.target,
        opened=[
            pb.SequenceOpened(
                seq=o.seq,
                prompt_tokens=o.prompt_tokens,
                route=o.route,
                drafters=o.drafters,
                request=o.request,
                policy=o.policy,
                sketch=o.sketch,
                named=o.named,
            )
            for o in report.opened
        ],
        rounds=[
            pb.SequenceRound(
                seq=r.seq,
                committed=r.committed,
                drafter=r.drafter,
                drafted=r.drafted,
                accepted=r.accepted,
                length=r.length,
                carried=r.carried,
                tokens=r.tokens,
            )
            for r in report.rounds
        ],
        closed=report.closed,
        drafts=[
            pb.DraftTiming(drafter=t.drafter, sequences=t.sequences, length=t.length, draft_ms=t.draft_ms)
            for t in report.drafts
        ],
        verify_ms=report.verify_ms,
        verify_tokens=report.verify_tokens,
        wait_ms=report.context.wait_ms,
        round_ms=report.context.round_ms,
        weights_number=report.context.weights_number,
    )


def decode_report(message: pb.TargetReport) -> TargetReport:
    """Read a target's report.

    Raises:
        ProtocolError: another version, no name, a sketch of another size, or a time that is not a finite number of at
            least 0.
    """
    check_version(message.version)
    return TargetReport(
        target=_named(message.target, "target"),
        opened=[_decode_opened(item, f"opened[{i}]") for i, item in enumerate(message.opened)],
        rounds=[
            SequenceRound(r.seq, r.committed, r.drafter, r.drafted, r.accepted, r.length, r.carried, tuple(r.tokens))
            for r in message.rounds
        ],
        closed=list(message.closed),
        drafts=[
            DraftTiming(t.drafter, t.sequences, t.length, _milliseconds(t.draft_ms, f"drafts[{i}].draft_ms"))
            for i, t in enumerate(message.drafts)
        ],
        verify_ms=_milliseconds(message.verify_ms, "verify_ms"),
        verify_tokens=message.verify_tokens,
        context=RoundContext(
            wait_ms=_milliseconds(message.wait_ms, "wait_ms"),
            round_ms=_milliseconds(message.round_ms, "round_ms"),
            weights_number=message.weights_number,
        ),
    )


def _decode_opened(o: pb.SequenceOpened, field: str) -> SequenceOpened:
    if len(o.sketch) not in {0, prompt_sketch.BYTES}:
        raise ProtocolError(f"{field}.sketch: expected {prompt_sketch.BYTES} bytes or none, got {len(o.sketch)}")
    return SequenceOpened(o.seq, o.prompt_tokens, o.route, tuple(o.drafters), o.request, o.policy, o.sketch, o.named)


def _milliseconds(value: float, field: str) -> float:
    if not 0.0 <= value < float("inf"):
        raise ProtocolError(f"{field}: expected a finite number of at least 0, got {value}")
    return value


# ---------------------------------------------------------------- selector -> target


def encode_update(update: WeightsUpdate) -> pb.WeightsUpdate:
    """Write an update."""
    return pb.WeightsUpdate(
        version=PROTOCOL_VERSION,
        number=update.number,
        drafters=update.drafters,
        prior=update.prior,
        sequences=[
            pb.SequenceWeights(seq=seq, weights=weights, lengths=update.lengths.get(seq, ()))
            for seq, weights in update.sequences.items()
        ],
        prior_lengths=update.prior_lengths,
        members=[encode_member(member) for member in update.members or ()],
        no_members=update.members == (),
    )


def decode_update(message: pb.WeightsUpdate) -> WeightsUpdate:
    """Read an update.

    Raises:
        ProtocolError: another version, weights that do not fit the drafters or are no weights, or a member's features
            that cannot be.
    """
    check_version(message.version)
    count = len(message.drafters)
    return WeightsUpdate(
        number=message.number,
        drafters=tuple(message.drafters),
        prior=_decode_weights(message.prior, count, "prior"),
        sequences={
            item.seq: _decode_weights(item.weights, len(item.weights) and count, f"sequences[{i}].weights")
            for i, item in enumerate(message.sequences)
        },
        members=() if message.no_members else decode_members(message.members) or None,
        prior_lengths=_decode_lengths(message.prior_lengths, count, "prior_lengths"),
        lengths={
            item.seq: lengths
            for i, item in enumerate(message.sequences)
            if (lengths := _decode_lengths(item.lengths, count, f"sequences[{i}].lengths"))
        },
    )


def _decode_lengths(values: Iterable[int], count: int, field: str) -> tuple[int, ...]:
    lengths = tuple(values)
    if lengths and len(lengths) != count:
        raise ProtocolError(f"{field}: expected none, or one for each of {count} drafters, got {len(lengths)}")
    if 0 in lengths:
        raise ProtocolError(f"{field}: expected lengths of at least 1, got {list(lengths)}")
    return lengths


def _decode_weights(values: object, count: int, field: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    weights = np.array(values, dtype=np.float32)
    if len(weights) != count:
        raise ProtocolError(f"{field}: expected a weight for each of {count} drafters, got {len(weights)}")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ProtocolError(f"{field}: expected finite numbers of at least 0, got {weights.tolist()}")
    return weights


def encode_member(member: Member) -> pb.Member:
    """Write a member."""
    return pb.Member(
        drafter=member.drafter,
        kind=member.kind,
        address=member.address,
        node=member.node,
        device=member.device,
        pid=member.pid,
        up=member.up,
        sessions=member.sessions,
        capacity=member.capacity,
        feature_layers=member.feature_layers,
        feature_window=member.feature_window,
        replica=member.replica,
        draining=member.draining,
    )


def decode_members(messages: Iterable[pb.Member]) -> tuple[Member, ...]:
    """Read members.

    Raises:
        ProtocolError: features that cannot be.
    """
    return tuple(_decode_member(message, f"members[{i}].") for i, message in enumerate(messages))


def _decode_member(message: pb.Member, field: str) -> Member:
    return Member(
        drafter=message.drafter,
        kind=message.kind,
        address=message.address,
        node=message.node,
        device=message.device,
        pid=message.pid,
        up=message.up,
        sessions=message.sessions,
        capacity=message.capacity,
        feature_layers=_feature_layers(message, field),
        feature_window=message.feature_window,
        replica=message.replica,
        draining=message.draining,
    )
