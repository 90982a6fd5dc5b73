"""The selector's snapshot as protobuf, both ways: what a dashboard shows of it. Called by the selector's server."""

from __future__ import annotations

from paceline.actors.messages import PROTOCOL_VERSION, DrafterStatistics, SelectorSnapshot
from paceline.actors.selector_wire import check_version, decode_members, encode_member
from paceline.protos import paceline_pb2 as pb


def encode_snapshot(snapshot: SelectorSnapshot) -> pb.SnapshotReply:
    """Write a snapshot."""
    return pb.SnapshotReply(
        version=PROTOCOL_VERSION,
        policy=snapshot.policy,
        updates=snapshot.updates,
        sequences=snapshot.sequences,
        members=[encode_member(member) for member in snapshot.members],
        drafters=[
            pb.DrafterStatistics(
                drafter=d.drafter,
                scored=d.scored,
                gamma=d.gamma,
                eal=d.eal,
                weight=d.weight,
                rounds=d.rounds,
                drafted=d.drafted,
                accepted=d.accepted,
                draft_ms=d.draft_ms,
            )
            for d in snapshot.drafters
        ],
        plain_rounds=snapshot.plain_rounds,
        uptime_s=snapshot.uptime_s,
    )


def decode_snapshot(message: pb.SnapshotReply) -> SelectorSnapshot:
    """Read a snapshot.

    Raises:
        ProtocolError: another version, or a member's features that cannot be.
    """
    check_version(message.version)
    drafters = tuple(
        DrafterStatistics(d.drafter, d.scored, d.gamma, d.eal, d.weight, d.rounds, d.drafted, d.accepted, d.draft_ms)
        for d in message.drafters
    )
    members = decode_members(message.members)
    return SelectorSnapshot(
        message.policy,
        message.updates,
        message.sequences,
        members,
        drafters,
        message.plain_rounds,
        message.uptime_s,
    )
