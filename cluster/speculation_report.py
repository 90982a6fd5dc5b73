"""What speculation did for one request: `metrics.speculative_decoding` of its reply."""

from __future__ import annotations

from collections import Counter
from typing import Any

from paceline.actors.generation import Chunk

PLAIN = "plain"


class SpeculationReport:
    """Counts the rounds of one request, over all of its choices."""

    def __init__(self) -> None:
        self._rounds: Counter[str] = Counter()  # by drafter
        self._accepted: Counter[int] = Counter()  # rounds that drafted, by accepted tokens
        self._drafted = 0

    def add(self, chunk: Chunk) -> None:
        """Count one round."""
        self._rounds[chunk.drafter or PLAIN] += 1
        if chunk.drafted:
            self._drafted += chunk.drafted
            self._accepted[chunk.accepted] += 1

    def as_dict(self) -> dict[str, Any]:
        """The figures.

        `mean_acceptance_length` is tokens per drafting round, the bonus token included: 1 + accepted tokens / rounds
        that drafted, as vLLM's metrics define it. `acceptance_histogram[i]` is the number of drafting rounds that
        accepted i tokens. A rate over no draft at all is null. `rounds_by_drafter` are shares of all rounds.
        """
        drafting = self._accepted.total()
        accepted = sum(length * rounds for length, rounds in self._accepted.items())
        rounds = self._rounds.total()
        longest = max(self._accepted, default=-1)
        return {
            "mean_acceptance_length": 1.0 + accepted / drafting if drafting else 1.0,
            "draft_acceptance_rate": accepted / self._drafted if self._drafted else None,
            "acceptance_histogram": [self._accepted[length] for length in range(longest + 1)],
            "rounds": rounds,
            "draft_tokens": self._drafted,
            "accepted_tokens": accepted,
            "rounds_by_drafter": {name: count / rounds for name, count in self._rounds.most_common()},
        }
