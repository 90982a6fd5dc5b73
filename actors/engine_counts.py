"""What an engine did since it began, as plain numbers that only grow.

The engine's thread adds, some ten additions for each sequence's round; the replica's metrics read, from another thread.
"""

from __future__ import annotations

from collections import Counter

from paceline.actors.generation import Chunk
from paceline.actors.latency_histogram import REQUEST_BOUNDS_S, LatencyHistogram

NO_DRAFTER = "no_drafter"
NO_WEIGHTS = "no_weights"


class EngineCounts:
    """Counters of one engine.

    Attributes:
        rounds: Rounds of a sequence by the drafter that was played; "" for plain ones.
        drafted: Drafted tokens that were verified, by drafter.
        accepted: Drafted tokens that were kept, by drafter.
        accepted_at: By drafter, how often its token at each position of a draft was kept.
        fallbacks: Rounds that would have drafted, by why nobody was asked: `no_drafter` (none can be), `no_weights`
            (none of those that can be asked serves this sequence and has weight in it).
        prompt_tokens: Of admitted requests.
        cached_tokens: Those of them whose keys and values were there already.
        generated_tokens: Committed tokens.
        preemptions: Times a running sequence gave its keys and values back, to be run again when there is room.
        queue_s: How long requests waited for a place.
    """

    def __init__(self) -> None:
        self.rounds: Counter[str] = Counter()
        self.drafted: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self.accepted_at: dict[str, Counter[int]] = {}
        self.fallbacks: Counter[str] = Counter()
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generated_tokens = 0
        self.preemptions = 0
        self.queue_s = LatencyHistogram(REQUEST_BOUNDS_S)

    def admitted(self, prompt_tokens: int, cached_tokens: int, waited_s: float) -> None:
        """A request left the queue."""
        self.prompt_tokens += prompt_tokens
        self.cached_tokens += cached_tokens
        self.queue_s.observe(waited_s)

    def played(self, chunk: Chunk) -> None:
        """One sequence's round."""
        self.rounds[chunk.drafter] += 1
        self.generated_tokens += len(chunk.token_ids)
        if chunk.drafted:
            self.drafted[chunk.drafter] += chunk.drafted
            self.accepted[chunk.drafter] += chunk.accepted
            at = self.accepted_at.get(chunk.drafter)
            if at is None:
                at = self.accepted_at[chunk.drafter] = Counter()
            for position in range(chunk.accepted):
                at[position] += 1
