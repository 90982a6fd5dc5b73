"""A target replica's samples, read from its engine, its pool of drafters and its link to the selector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from paceline.actors.engine import Engine
from paceline.actors.engine_counts import NO_DRAFTER, NO_WEIGHTS
from paceline.actors.session_pool import SessionPool
from paceline.actors.weights_link import WeightsLink
from paceline.cluster.metrics import names
from paceline.cluster.metrics.labels import LabelNames
from paceline.cluster.metrics.samples import Samples
from paceline.cluster.speculation_report import PLAIN

NONE = "none"  # the drafter of a fallback that no drafter had a part in

# What `drafter_peer` counts -> the reason of a fallback. Those not named here cost no draft, or are told elsewhere.
REASONS = {
    "late": "late",
    "lost": "lost",
    "not_asked": "not_asked",
    "oversize": "oversize",
    "unmet_features": "no_features",
    "failure_capacity": "capacity",
}
PREFIX_REASONS = (("failure_", "failure"), ("invalid_", "bad_draft"))
_ALL_REASONS = (*REASONS.values(), *(reason for _, reason in PREFIX_REASONS))


def fallback_reason(count: str) -> str | None:
    """The reason that a count of `drafter_peer` stands for; None where it is no fallback."""
    if count in REASONS:
        return REASONS[count]
    return next((reason for prefix, reason in PREFIX_REASONS if count.startswith(prefix)), None)


class TargetMetrics:
    """Gathers one replica's samples.

    Args:
        engine: Its engine.
        pool: Its drafters.
        board: Its link to the selector.
        drafters: The configured drafters' names: always labels, and their counters begin at 0.
    """

    def __init__(self, engine: Engine, pool: SessionPool, board: WeightsLink, drafters: Iterable[str]) -> None:
        self._engine = engine
        self._pool = pool
        self._board = board
        self._drafters = tuple(drafters)
        self._name = LabelNames((*self._drafters, PLAIN, NONE))

    def gather(self) -> Samples:
        """Everything, as it is now."""
        samples = Samples()
        self._rounds(samples)
        self._links(samples)
        engine, counts = self._engine, self._engine.counts
        samples.add(names.RUNNING, engine.running)
        samples.add(names.WAITING, engine.waiting)
        samples.add(names.KV_USAGE, engine.kv_usage)
        samples.add(names.PREEMPTIONS, counts.preemptions)
        pace = engine.pace.count
        samples.add(names.DECODE_SECONDS, pace.decode_ms / 1e3)
        samples.add(names.PLAIN_DECODE_SECONDS, pace.plain_ms / 1e3)
        samples.add(names.QUEUE_SECONDS, counts.queue_s.count)
        samples.add(names.PROMPT_TOKENS, counts.prompt_tokens)
        samples.add(names.CACHED_TOKENS, counts.cached_tokens)
        samples.add(names.GENERATION_TOKENS, counts.generated_tokens)
        samples.add(names.REPORTS_DROPPED, self._board.rounds_dropped)
        return samples

    def _rounds(self, samples: Samples) -> None:
        counts, name = self._engine.counts, self._name
        for drafter in ("", *self._drafters):
            samples.add(names.ROUNDS, 0, drafter or PLAIN)  # a share needs those that never pulled, too
        for drafter in self._drafters:
            for metric in (names.SPEC_DRAFTS, names.SPEC_DRAFT_TOKENS, names.SPEC_ACCEPTED_TOKENS):
                samples.add(metric, 0, drafter)
            samples.add(names.SPEC_ACCEPTED_TOKENS_PER_POS, 0, drafter, "0")  # that none is kept is a figure, too
        for drafter, rounds in _copy(counts.rounds).items():
            samples.add(names.ROUNDS, rounds, name(drafter or PLAIN))
            if drafter:
                samples.add(names.SPEC_DRAFTS, rounds, name(drafter))
        for drafter, tokens in _copy(counts.drafted).items():
            samples.add(names.SPEC_DRAFT_TOKENS, tokens, name(drafter))
        for drafter, tokens in _copy(counts.accepted).items():
            samples.add(names.SPEC_ACCEPTED_TOKENS, tokens, name(drafter))
        for drafter, at in list(counts.accepted_at.items()):
            for position, tokens in _copy(at).items():
                samples.add(names.SPEC_ACCEPTED_TOKENS_PER_POS, tokens, name(drafter), str(position))
        for reason in (NO_DRAFTER, NO_WEIGHTS):
            samples.add(names.FALLBACKS, 0, NONE, reason)
        for reason, rounds in _copy(counts.fallbacks).items():
            samples.add(names.FALLBACKS, rounds, NONE, reason)

    def _links(self, samples: Samples) -> None:
        name = self._name
        connected = set(self._pool.connected())
        lost = {member.drafter for member in self._board.members()} - connected
        there = (*sorted(lost), *sorted(connected))  # of names that share a label, one that is connected counts
        for drafter in there:
            samples.add(names.USABLE, float(drafter in connected), name(drafter))
        for drafter in dict.fromkeys((*self._drafters, *there)):
            for reason in _ALL_REASONS:  # from 0 on, so that the first one is a rise
                samples.add(names.FALLBACKS, 0, name(drafter), reason)
        for drafter, counts in self._pool.counters().items():
            label = name(drafter)
            samples.add(names.QUARANTINES, counts.get("quarantined", 0), label)
            samples.add(names.LINK_BYTES, counts.get("bytes_sent", 0), label, "sent")
            samples.add(names.LINK_BYTES, counts.get("bytes_received", 0), label, "received")
            for count, amount in counts.items():
                if (why := fallback_reason(count)) is not None:
                    samples.add(names.FALLBACKS, amount, label, why)
        for drafter, waits in self._pool.waits().items():
            samples.add(names.RPC_SECONDS, waits, name(drafter))


def _copy(counts: Mapping[str, int] | Mapping[int, int]) -> dict[str, int]:
    """At one moment: another thread adds to it."""
    return dict(counts)  # type: ignore[arg-type]
