"""How a request wants its tokens drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of one sequence.

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off. With a `seed`, the noise of every position is a function
    of (seed, position) alone and drafts are verified by exact match, so the text does not depend on which drafter
    played, when it was late, or whether there was one at all.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    @property
    def greedy(self) -> bool:
        """Whether every token is the most likely one."""
        return self.temperature == 0.0

    @property
    def point_mass(self) -> bool:
        """Whether drafts are verified by exact match, so that a drafter should propose its single best guess."""
        return self.greedy or self.seed is not None
