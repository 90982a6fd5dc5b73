"""One running sequence, as the engine and the drafter pool see it: its tokens, its cache, its laws and its end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from paceline.actors.carried_draft import CarriedDraft
from paceline.actors.causal_model import Cache
from paceline.actors.errors import PacelineError
from paceline.actors.generation import Chunk, FinishReason, Generation
from paceline.actors.messages import Laws
from paceline.actors.sampling import Sampling

Listener = Callable[[Chunk | PacelineError], None]


class Sequence:
    """A generation in progress.

    Between rounds the target's cache holds every token but the last, whose forward is the next round's first position.
    Fresh sequences hold at most what the model knew of their prompt: their first round runs the rest. So do those that
    were preempted, with all their tokens; nothing else of them was lost.
    """

    def __init__(
        self, seq: int, generation: Generation, cache: Cache, listener: Listener, drafters: tuple[str, ...] = ()
    ) -> None:
        self.seq = seq
        self.drafters = drafters  # the only ones that follow it; empty means all
        self.generation = generation
        self.cache = cache
        self.listener = listener
        self.tokens: list[int] = list(generation.prompt)
        self.prompt_tokens = len(generation.prompt)
        self.cached_tokens = cache.length
        self.finished: FinishReason | None = None
        self.passed = 0  # others that joined while it was the first to wait for its memory
        self.carried: CarriedDraft | None = None
        self.noise = torch.Generator()
        self.noise.seed()
        self._laws: list[Laws] = []
        self._law_ends: list[int] = []

    @property
    def sampling(self) -> Sampling:
        """How its tokens are drawn."""
        return self.generation.sampling

    @property
    def remaining(self) -> int:
        """Tokens it may still generate."""
        return self.generation.max_tokens - (len(self.tokens) - self.prompt_tokens)

    @property
    def answer(self) -> list[int]:
        """All tokens generated so far, those included that another target generated before."""
        return self.tokens[self.prompt_tokens - self.generation.answered :]

    @property
    def pending(self) -> list[int]:
        """Committed tokens that the target's cache does not hold yet."""
        return self.tokens[self.cache.length :]

    @property
    def prefilling(self) -> bool:
        """Whether more than the last token is to be run: of its prompt, or of all that it was when it was preempted."""
        return len(self.tokens) == self.prompt_tokens or len(self.tokens) - self.cache.length > 1

    def draft_limit(self, max_draft: int) -> int:
        """Most tokens worth drafting now: the bonus token always takes one of those that remain."""
        if not self.generation.speculate or self.prefilling:
            return 0
        own = self.generation.max_draft
        return max(0, min(max_draft if own is None else min(own, max_draft), self.remaining - 1))

    def append(self, tokens: list[int], laws: Laws | None) -> list[int]:
        """Commit a round's tokens, cut where the text ends; sets `finished` there.

        Returns:
            The tokens that were kept.
        """
        kept = tokens[: self.remaining]
        for index, token in enumerate(kept):
            if token in self.generation.stop_ids:
                kept = kept[: index + 1]
                self.finished = "stop"
                break
        else:
            if len(kept) == self.remaining:
                self.finished = "length"
        self.tokens.extend(kept)
        if laws is not None:
            self._laws.append(Laws(laws.ids[: len(kept)], laws.probs[: len(kept)]))
            self._law_ends.append(len(self.tokens))
        return kept

    def laws(self, start: int) -> Laws | None:
        """The target's sparse laws at committed positions from `start` on; None where the sequence is greedy.

        Raises:
            ValueError: `start` lies in the prompt, where no law is kept.
        """
        if self.sampling.greedy:
            return None
        if start < self.prompt_tokens:
            raise ValueError(f"start {start} lies in the prompt of {self.prompt_tokens} tokens")
        first = int(np.searchsorted(self._law_ends, start, side="right"))
        rows = self._laws[first:]
        if not rows:
            return Laws(np.empty((0, 1), np.int32), np.empty((0, 1), np.float32))
        skipped = len(rows[0]) - (self._law_ends[first] - start)
        ids = np.concatenate([part.ids for part in rows])[skipped:]
        return Laws(ids, np.concatenate([part.probs for part in rows])[skipped:])
