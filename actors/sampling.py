"""How a request wants its tokens drawn, and what it changes of the logits before."""

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


@dataclass(frozen=True, slots=True)
class LogitsProcessing:
    """One request's changes. Their order, and what they count, are vLLM's.

    First `logit_bias` is added and, below `min_tokens`, all stop ids are banned. `repetition_penalty` divides positive
    logits of tokens in prompt or answer, and multiplies negative ones (Keskar et al. 2019, arXiv 1909.05858). Then a
    token that the answer holds c > 0 times loses c * `frequency_penalty` + `presence_penalty` (OpenAI's definition).
    """

    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0

    @property
    def counts(self) -> bool:
        """Whether earlier tokens matter."""
        return self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0
