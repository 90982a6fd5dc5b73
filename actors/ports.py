"""The two things the decoding loop talks to, as it sees them: a pool of drafters, and a board of weights.

The engine and the round know only these Protocols; `session_pool` and `weights_link` are the gRPC-backed instances that
`target_replica` injects, and tests inject in-process ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from paceline.actors.causal_model import Cache
from paceline.actors.messages import Draft, DraftTiming, Laws, Member, RoundContext, SequenceOpened, SequenceRound
from paceline.actors.sampling import Sampling


class Tracked(Protocol):
    """What the pool needs to know of a sequence to keep drafters up to date with it."""

    @property
    def seq(self) -> int:
        """Its id, unique across targets."""
        ...

    @property
    def tokens(self) -> list[int]:
        """Prompt and committed tokens."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """How many of them are the prompt."""
        ...

    @property
    def sampling(self) -> Sampling:
        """How its tokens are drawn."""
        ...

    @property
    def drafters(self) -> tuple[str, ...]:
        """The only drafters it may use; empty means all."""
        ...

    @property
    def cache(self) -> Cache:
        """The target's cache of it, where its features are."""
        ...

    def laws(self, start: int) -> Laws | None:
        """The target's sparse laws at committed positions from `start` (>= prompt_tokens) on; None where greedy."""
        ...


@dataclass(frozen=True, slots=True)
class Drafts:
    """What a round's proposals brought: drafts by sequence (late, failed and empty ones are absent), and timings."""

    by_seq: Mapping[int, Draft]
    timings: list[DraftTiming]


class DrafterPool(Protocol):
    """All drafters a target can ask. Called by the engine's thread only; nothing here raises for a drafter's fault."""

    def usable(self) -> Sequence[str]:
        """Drafters that may be asked now: connected, not quarantined, and with no overdue answer."""
        ...

    def serves(self, drafter: str, seq: int) -> bool:
        """Whether a usable drafter may be asked for this sequence (it refused it, say, when it was at capacity)."""
        ...

    def draft_ms(self, drafter: str) -> float | None:
        """How long a drafter usually takes to answer; None while too few of its answers were timed."""
        ...

    def open(self, sequence: Tracked) -> None:
        """Announce a sequence to every drafter it may use, so that they prefill while the target does.

        Those that read the target's features hear of it after that.
        """
        ...

    def propose(self, asks: Mapping[str, Sequence[tuple[Tracked, int]]]) -> Drafts:
        """Ask each drafter for drafts (sequence, length), in parallel; wait until each one's deadline at most."""
        ...

    def commit(self, sequences: Sequence[Tracked]) -> None:
        """Note that these sequences grew. Sends what is due; what is not yet due is coalesced with later rounds."""
        ...

    def close(self, seq: int) -> None:
        """Free the sequence's sessions everywhere."""
        ...


class WeightsBoard(Protocol):
    """The newest weights a target holds, and the way news reaches the selector. Nothing here waits."""

    @property
    def weights_number(self) -> int:
        """Number of the selector's update that `weights` are from; 0 where its present stream has brought none."""
        ...

    def weights(self, seq: int) -> Mapping[str, float]:
        """Drafter -> weight for this sequence (its own, else the prior, else all on the configured default drafter)."""
        ...

    def lengths(self, seq: int) -> Mapping[str, int]:
        """Drafter -> length of its drafts for this sequence, where the selector sets them: what is missing from its
        weights to 1 is then plain decoding's. Elsewhere empty."""
        ...

    def members(self) -> Sequence[Member]:
        """Every drafter known."""
        ...

    def opened(self, sequence: SequenceOpened) -> None:
        """Tell the selector of a new sequence."""
        ...

    def played(
        self,
        rounds: Sequence[SequenceRound],
        drafts: Sequence[DraftTiming],
        verify_ms: float,
        verify_tokens: int,
        context: RoundContext = RoundContext(),
    ) -> None:
        """Tell the selector what a round did."""
        ...

    def closed(self, seq: int) -> None:
        """Tell the selector that a sequence ended."""
        ...
