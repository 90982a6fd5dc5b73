"""Every metric there is: name, kind, unit, labels and what it tells. Nothing else defines one.

The names are Prometheus's; Ray's own export puts `ray_` before each. The four `spec_decode` counters are vLLM's, with a
`drafter` label; request metrics follow vLLM's names, too. `docs/metrics.md` holds the table made from this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paceline.actors.latency_histogram import (
    DRAFT_BOUNDS_S,
    FIRST_TOKEN_BOUNDS_S,
    REQUEST_BOUNDS_S,
    TOKEN_BOUNDS_S,
)

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: As Prometheus sees it.
        kind: Counters only grow, from 0 at each start.
        unit: Of its value.
        help: What it tells.
        labels: Names of its labels, in order; each has a bounded number of values (`labels`).
        bounds_s: Upper bounds of a histogram's buckets, in seconds.
        gathered: How a gauge of several replicas of the target becomes one.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    bounds_s: tuple[float, ...] = ()
    gathered: Literal["sum", "max"] = "sum"


# ---------------------------------------------------------------- drafting, as the target sees it

SPEC_DRAFTS = Metric(
    "paceline_spec_decode_num_drafts_total",
    "counter",
    "drafts",
    "Drafts that were verified: a sequence's round with a drafter.",
    ("drafter",),
)
SPEC_DRAFT_TOKENS = Metric(
    "paceline_spec_decode_num_draft_tokens_total",
    "counter",
    "tokens",
    "Drafted tokens that were verified.",
    ("drafter",),
)
SPEC_ACCEPTED_TOKENS = Metric(
    "paceline_spec_decode_num_accepted_tokens_total",
    "counter",
    "tokens",
    "Drafted tokens that were kept; the bonus token is not among them.",
    ("drafter",),
)
SPEC_ACCEPTED_TOKENS_PER_POS = Metric(
    "paceline_spec_decode_num_accepted_tokens_per_pos_total",
    "counter",
    "tokens",
    "Drafted tokens that were kept, by their position in the draft (0 is the first).",
    ("drafter", "position"),
)
ROUNDS = Metric(
    "paceline_rounds_total",
    "counter",
    "rounds",
    "Rounds of a sequence by the drafter that pulled; `plain` where it was decoded without a draft.",
    ("drafter",),
)
FALLBACKS = Metric(
    "paceline_fallbacks_total",
    "counter",
    "drafts",
    "Drafts that were wanted and not had: `late` missed the deadline, `lost` died with its link, `bad_draft` could not "
    "be verified, `failure` and `capacity` were refused by the drafter, `not_asked` had no line or was in quarantine, "
    "`oversize` fits no message, `no_features` needs what the target does not keep. Drafter `none`: rounds in which "
    "nobody could be asked (`no_drafter`), or nobody that serves the sequence has weight in it (`no_weights`).",
    ("drafter", "reason"),
)
QUARANTINES = Metric(
    "paceline_drafter_quarantines_total",
    "counter",
    "times",
    "Times a drafter was left alone for its conduct.",
    ("drafter",),
)
USABLE = Metric(
    "paceline_drafter_usable",
    "gauge",
    "0 or 1",
    "Whether the target has a line to the drafter and would ask it. Of several targets: the best off.",
    ("drafter",),
    gathered="max",
)
RPC_SECONDS = Metric(
    "paceline_drafter_rpc_seconds",
    "histogram",
    "seconds",
    "How long the target waited for a draft: from Propose sent to Draft received, or given up.",
    ("drafter",),
    DRAFT_BOUNDS_S,
)
LINK_BYTES = Metric(
    "paceline_drafter_link_bytes_total",
    "counter",
    "bytes",
    "Traffic of the gRPC link between target and drafter, as the target sees it.",
    ("drafter", "direction"),
)
DECODE_SECONDS = Metric(
    "paceline_decode_seconds_total",
    "counter",
    "seconds",
    "Time of rounds without prefill, from the first plain round on.",
)
PLAIN_DECODE_SECONDS = Metric(
    "paceline_plain_decode_seconds_total",
    "counter",
    "seconds",
    "What plain decoding would have taken for the same tokens, by this target's own plain rounds. Over "
    "`paceline_decode_seconds_total` it is the speed-up.",
)

# ---------------------------------------------------------------- the target

RUNNING = Metric("paceline_num_requests_running", "gauge", "sequences", "Sequences being decoded.")
WAITING = Metric("paceline_num_requests_waiting", "gauge", "sequences", "Sequences in the queue.")
QUEUE_SECONDS = Metric(
    "paceline_request_queue_time_seconds",
    "histogram",
    "seconds",
    "How long a sequence waited in the target's queue.",
    (),
    REQUEST_BOUNDS_S,
)
KV_USAGE = Metric(
    "paceline_kv_cache_usage_ratio",
    "gauge",
    "0 to 1",
    "Share of `target.max_tokens_in_flight` that running sequences hold; near 1 others wait, and the newest are "
    "preempted. Of several targets: the fullest.",
    gathered="max",
)
PREEMPTIONS = Metric(
    "paceline_num_preemptions_total",
    "counter",
    "times",
    "Times a running sequence gave its keys and values back for others to go on, and waited to be run again.",
)
PROMPT_TOKENS = Metric("paceline_prompt_tokens_total", "counter", "tokens", "Prompt tokens of admitted sequences.")
CACHED_TOKENS = Metric(
    "paceline_prompt_tokens_cached_total",
    "counter",
    "tokens",
    "Those of them whose keys and values were shared with an earlier text.",
)
GENERATION_TOKENS = Metric("paceline_generation_tokens_total", "counter", "tokens", "Tokens committed.")
REPORTS_DROPPED = Metric(
    "paceline_rounds_unreported_total",
    "counter",
    "rounds",
    "Rounds that the selector never heard of, because it was away too long.",
)

# ---------------------------------------------------------------- requests, as clients see them

REQUESTS = Metric(
    "paceline_requests_finished_total",
    "counter",
    "answers",
    "Answers (a request with n choices has n) by how they ended: `stop`, `length`, `abort` (the client left), "
    "`shutdown` (the server was stopped), `error`.",
    ("finish_reason",),
)
REFUSED = Metric(
    "paceline_requests_refused_total",
    "counter",
    "requests",
    "HTTP requests under `/v1/` that were answered with a status of 400 or more.",
    ("status",),
)
TTFT_SECONDS = Metric(
    "paceline_time_to_first_token_seconds",
    "histogram",
    "seconds",
    "Streamed answers: from the request's arrival to its first token.",
    (),
    FIRST_TOKEN_BOUNDS_S,
)
INTER_TOKEN_SECONDS = Metric(
    "paceline_inter_token_latency_seconds",
    "histogram",
    "seconds",
    "Streamed answers: time between rounds that brought tokens, shared by a round's tokens; each token counts once.",
    (),
    TOKEN_BOUNDS_S,
)
E2E_SECONDS = Metric(
    "paceline_e2e_request_latency_seconds",
    "histogram",
    "seconds",
    "Completed requests: from arrival to the last byte handed over.",
    (),
    REQUEST_BOUNDS_S,
)

# ---------------------------------------------------------------- drafters and the selector

ACTOR_UP = Metric(
    "paceline_actor_up",
    "gauge",
    "0 or 1",
    "Whether an actor answers: `target` and `ingress` by Serve's word, the others by their own.",
    ("actor", "kind"),
)
DRAFTER_WEIGHT = Metric(
    "paceline_drafter_weight", "gauge", "0 to 1", "The drafter's weight in a new sequence.", ("drafter",)
)
DRAFTER_EAL = Metric(
    "paceline_drafter_expected_accepted_length",
    "gauge",
    "tokens",
    "Expected accepted length (EAL): tokens of a round, bonus token included, had it alone made all drafts, each "
    "as long as may be, over the last positions it was scored at, whoever pulled.",
    ("drafter",),
)
DRAFTER_ACCEPTANCE = Metric(
    "paceline_drafter_acceptance_ratio",
    "gauge",
    "0 to 1",
    "Mean probability that the target accepts its next token, over the last positions it was scored at.",
    ("drafter",),
)
SCORED_POSITIONS = Metric(
    "paceline_drafter_scored_positions_total",
    "counter",
    "positions",
    "Committed positions at which the drafter scored itself, pulling or not.",
    ("drafter",),
)
BUSY_SECONDS = Metric(
    "paceline_drafter_busy_seconds_total",
    "counter",
    "seconds",
    "The drafter's own time by work: `open` (prompts), `catch_up` (scoring, the cost of evaluation), `propose`.",
    ("drafter", "work"),
)
DRAFTER_SESSIONS = Metric(
    "paceline_drafter_sessions", "gauge", "sequences", "Sequences that the drafter holds.", ("drafter",)
)
SCORES_DROPPED = Metric(
    "paceline_drafter_scores_dropped_total",
    "counter",
    "scores",
    "Scores that the drafter had to drop, because the selector took them too slowly or was away.",
    ("drafter",),
)
SELECTOR_SEQUENCES = Metric(
    "paceline_selector_sequences", "gauge", "sequences", "Sequences that the selector holds a learner for."
)
SELECTOR_DISCARDS = Metric(
    "paceline_selector_discards_total",
    "counter",
    "items",
    "What the selector could not use, by reason (`selector.counts`).",
    ("reason",),
)
INFO = Metric(
    "paceline_info", "gauge", "1", "The served model and the policy, as labels.", ("model", "policy"), gathered="max"
)

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
BY_NAME = {metric.name: metric for metric in METRICS}
