"""What targets, drafters and the selector say to one another, as plain data: the wire messages without the wire.

`wire` turns these into protobuf and back; in-process links pass them as they are. Positions count tokens from the start
of the prompt; a position's law is the law of the token *at* that position given all tokens before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from paceline.actors.sampling import Sampling

PROTOCOL_VERSION = 1

Ids = npt.NDArray[np.int32]
Probs = npt.NDArray[np.float32]
Features = npt.NDArray[np.uint16]  # [rows, layers * width], the bits of bfloat16; `bfloat16` makes tensors of them


@dataclass(frozen=True, slots=True)
class Laws:
    """A sparse law per position. Unused slots hold id -1 and probability 0."""

    ids: Ids  # [positions, width]
    probs: Probs  # [positions, width]

    def __len__(self) -> int:
        return int(self.ids.shape[0])


@dataclass(frozen=True, slots=True)
class Open:
    """Start (or restart) a session: the prompt and everything committed so far.

    `features` as in `Commit`; the first token has no row, since nothing comes before it.
    """

    seq: int
    tokens: list[int]
    sampling: Sampling
    features: Features | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """Tokens that the target committed from position `start` on.

    `p` is the target's law at those positions, truncated to its most likely ids *without* renormalising, so the missing
    mass is known; None where the sequence is greedy (the law is then a point mass on the token itself).

    `features` are the target's hidden states one position before each token: the row that goes with the token at
    position j was computed when the target ran the token at j - 1. They go to drafters that ask for them, at most the
    `feature_window` last ones, and are aligned to the end: the last row goes with the last token.
    """

    seq: int
    start: int
    tokens: list[int]
    p: Laws | None = None
    features: Features | None = None

    def after(self, position: int) -> Commit:
        """The part of it from `position` on, which lies in it or at its end."""
        known = position - self.start
        if known == 0:
            return self
        p = None if self.p is None else Laws(self.p.ids[known:], self.p.probs[known:])
        tokens, features = self.tokens[known:], self.features
        if features is not None:  # aligned to the end of the tokens, of which a window may have left the first without
            features = features[max(0, len(features) - len(tokens)) :]
        return Commit(self.seq, position, tokens, p, features)


@dataclass(frozen=True, slots=True)
class Propose:
    """Ask for up to `length` tokens that continue the `start` committed ones."""

    seq: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class DrafterBatch:
    """One message to one drafter, handled in the order opens, commits, proposes, closes.

    `round` is echoed in the reply; 0 where none is awaited (a reply may still come, for a resync or a failure).
    """

    round: int = 0
    opens: list[Open] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    proposes: list[Propose] = field(default_factory=list)
    closes: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.opens or self.commits or self.proposes or self.closes)


@dataclass(frozen=True, slots=True)
class Draft:
    """A drafter's proposal. `q` is the law each token was sampled from; None where each token is a point mass.

    Each row of `q` sums to 1 and gives its own token a positive probability. An empty draft proposes nothing.
    """

    seq: int
    start: int
    tokens: list[int]
    q: Laws | None = None


@dataclass(frozen=True, slots=True)
class Resync:
    """The drafter lacks the session, or tokens before the message's start: it must be opened afresh."""

    seq: int
    held: int


@dataclass(frozen=True, slots=True)
class Failure:
    """What a drafter could not do. `code` is one of VERSION, INVALID, CAPACITY, INTERNAL."""

    code: str
    message: str
    seqs: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DrafterReply:
    """A drafter's answer to one batch."""

    round: int
    drafts: list[Draft] = field(default_factory=list)
    resyncs: list[Resync] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    busy_ms: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.round or self.resyncs or self.failures)


@dataclass(frozen=True, slots=True)
class Score:
    """One drafter's acceptance probabilities (gamma) at consecutive committed positions of one sequence."""

    seq: int
    start: int
    gammas: Probs  # [positions]


@dataclass(frozen=True, slots=True)
class ScoreArrays:
    """One drafter's scores of many sequences, flat, since they are many and short: gammas of all, one after another."""

    seqs: list[int]  # [scores]
    starts: list[int]  # [scores]
    counts: list[int]  # [scores], positions of each
    gammas: Probs  # [sum of counts]

    def __len__(self) -> int:
        return len(self.seqs)

    @classmethod
    def of(cls, scores: Sequence[Score]) -> ScoreArrays:
        """The same as single scores."""
        parts = [score.gammas for score in scores]
        return cls(
            [score.seq for score in scores],
            [score.start for score in scores],
            [len(part) for part in parts],
            np.concatenate(parts) if parts else np.empty(0, dtype=np.float32),
        )


def replica_name(drafter: str, replica: int) -> str:
    """A replica's name for people, logs and traces: the first has the drafter's own."""
    return f"{drafter}/{replica}" if replica else drafter


@dataclass(frozen=True, slots=True)
class Member:
    """A drafter replica as the selector knows it. The features it reads are as in `drafter.FeatureRequest`."""

    drafter: str
    kind: str
    address: str
    node: str = ""
    device: str = "cpu"
    pid: int = 0
    up: bool = True
    sessions: int = 0
    capacity: int = 0
    feature_layers: tuple[int, ...] = ()
    feature_window: int = 0
    replica: int = 0
    draining: bool = False  # it takes no new sequences

    @property
    def full(self) -> bool:
        """Whether it held as many sessions as it takes when it was last heard of."""
        return 0 < self.capacity <= self.sessions


@dataclass(frozen=True, slots=True)
class SequenceOpened:
    """A target took a sequence. `drafters` names the only ones it may use; empty means all. `named` tells that its
    request names them: they are played whatever is thought of them, and nothing is left to plain decoding. `policy` is
    the one that chooses among them; empty means the cluster's.

    `request` is the generation's id: choice i of request R is `R-i`. `sketch` is the prompt's (`prompt_sketch`); empty
    where there is none.
    """

    seq: int
    prompt_tokens: int
    route: str = ""
    drafters: tuple[str, ...] = ()
    request: str = ""
    policy: str = ""
    sketch: bytes = b""
    named: bool = False


@dataclass(frozen=True, slots=True)
class SequenceRound:
    """What one round did for one sequence. `drafter` is the one that was asked, empty where none was; where it had
    nothing to offer `drafted` is 0, and the round was decoded plainly.

    `length` is how many of its tokens were wanted; `carried` says that the draft was at hand from the round before.
    `tokens` is what was committed, where the settings want text explained, and else empty.
    """

    seq: int
    committed: int
    drafter: str
    drafted: int
    accepted: int
    length: int = 0
    carried: bool = False
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RoundContext:
    """What one round took besides its verification, in milliseconds, and what its choice went by.

    Attributes:
        wait_ms: Until all drafts were there.
        round_ms: From the choice to the verdict.
        weights_number: Of the update whose weights the choice went by; 0 where none had come on this stream.
    """

    wait_ms: float = 0.0
    round_ms: float = 0.0
    weights_number: int = 0


@dataclass(frozen=True, slots=True)
class DraftTiming:
    """How long one drafter took, from Propose sent to Draft received."""

    drafter: str
    sequences: int
    length: int
    draft_ms: float


@dataclass(frozen=True, slots=True)
class TargetReport:
    """One target's news for the selector: sequences that came and went, and what a round did."""

    target: str
    opened: list[SequenceOpened] = field(default_factory=list)
    rounds: list[SequenceRound] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    drafts: list[DraftTiming] = field(default_factory=list)
    verify_ms: float = 0.0
    verify_tokens: int = 0
    context: RoundContext = RoundContext()

    @property
    def decoding(self) -> int:
        """Sequences in the forward, also those that no round is told of: each has a position beside its draft's. Means
        nothing where prompts were run in it, or no forward (`verify_ms` 0)."""
        return self.verify_tokens - sum(played.drafted for played in self.rounds)


@dataclass(frozen=True, slots=True)
class WeightsUpdate:
    """The selector's news for one target. Weights are by `drafters` and sum to 1; `members` is None where unchanged.

    Lengths are those of each drafter's drafts, where the selector sets them; there what is missing from weights to 1 is
    plain decoding's. Elsewhere there are none.
    """

    number: int
    drafters: tuple[str, ...]
    prior: Probs  # [drafters]
    sequences: dict[int, Probs] = field(default_factory=dict)  # seq -> [drafters]
    members: tuple[Member, ...] | None = None
    prior_lengths: tuple[int, ...] = ()  # [drafters]
    lengths: dict[int, tuple[int, ...]] = field(default_factory=dict)  # seq -> [drafters]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A drafter's replica says that it is there, where, and which features it reads (`drafter.FeatureRequest`).

    `scores_dropped` counts scores it could not send in time.
    """

    drafter: str
    kind: str
    address: str
    node: str = ""
    device: str = "cpu"
    pid: int = 0
    sessions: int = 0
    capacity: int = 0
    scores_dropped: int = 0
    feature_layers: tuple[int, ...] = ()
    feature_window: int = 0
    replica: int = 0


@dataclass(frozen=True, slots=True)
class DrafterStatistics:
    """What the selector knows of one drafter: `gamma` and `eal` (tokens of a round, had it drafted
    alone) are discounted means, 0 where nothing was scored."""

    drafter: str
    scored: int = 0  # positions
    gamma: float = 0.0
    eal: float = 0.0
    weight: float = 0.0  # of a new sequence
    rounds: int = 0  # it was played in
    drafted: int = 0
    accepted: int = 0
    draft_ms: float = 0.0  # 0 where it was never measured


@dataclass(frozen=True, slots=True)
class SelectorSnapshot:
    """The selector at one moment."""

    policy: str
    updates: int
    sequences: int
    members: tuple[Member, ...]
    drafters: tuple[DrafterStatistics, ...]
    plain_rounds: int
    uptime_s: float
