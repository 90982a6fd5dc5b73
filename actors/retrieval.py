"""`retrieval`: what followed the last tokens in a corpus, as often as it did there (REST, arXiv 2311.08252).

The corpus is a bounded table of n-grams (`ngram_store`), usually of the target's own answers. The longest context that
occurred drafts; counts make a law, so a sampled draft has a proper q. It holds no model, and learns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paceline.actors import drafter_law
from paceline.actors.drafter_law import Law
from paceline.actors.drafter_options import RetrievalOptions
from paceline.actors.errors import ModelSourceError
from paceline.actors.messages import Commit, Draft, Open, Probs, Propose
from paceline.actors.ngram_store import NgramStore


@dataclass(slots=True)
class _Text:
    tail: list[int]  # as much as a context may need
    point_mass: bool


class Retrieval:
    """The kind.

    Args:
        options: Of the kind.
        vocab_size: Of the target.
        seed: Of the draws.

    Raises:
        ModelSourceError: the table cannot be read, is for another vocabulary, or has only contexts that are shorter
            than `min_match`.
    """

    features = None

    def __init__(self, options: RetrievalOptions, vocab_size: int, seed: int) -> None:
        self.vocab_size = vocab_size
        self._options = options
        self._store = NgramStore.read(Path(options.model).expanduser())
        if self._store.vocab_size != vocab_size:
            own = self._store.vocab_size
            raise ModelSourceError(f"{options.model}: counts ids of a vocabulary of {own}; the target has {vocab_size}")
        if options.min_match >= self._store.order:
            longest = self._store.order - 1
            raise ModelSourceError(f"min_match: {options.min_match}; contexts in {options.model} have up to {longest}")
        self._chance = np.random.default_rng(seed)
        self._texts: dict[int, _Text] = {}

    def open(self, opens: Sequence[Open]) -> None:
        """Remember where each text ends."""
        for item in opens:
            self._texts[item.seq] = _Text(self._end(item.tokens), item.sampling.point_mass)

    def commit(self, commits: Sequence[Commit]) -> list[Probs]:
        """Append tokens; the law before each of them is what is scored."""
        scores = []
        for item in commits:
            text = self._texts[item.seq]
            laws = []
            for token in item.tokens:
                laws.append(self._law(text.tail, text.point_mass) or (_NO_GUESS if text.point_mass else _NO_LAW))
                text.tail = self._end([*text.tail, token])
            scores.append(drafter_law.gammas(laws, item))
        return scores

    def propose(self, proposes: Sequence[Propose]) -> list[Draft]:
        """Draft from the table, token by token."""
        drafts = []
        for item in proposes:
            text = self._texts[item.seq]
            tail, sure = text.tail, 1.0
            tokens: list[int] = []
            laws: list[Law] = []
            while len(tokens) < item.length:
                law = self._law(tail, text.point_mass)
                # Whether to go on may depend on the law, never on the token drawn from it (see suffix.py).
                if law is None or sure * law.sure < self._options.min_probability:
                    break
                token, probability = drafter_law.draw(law, self._chance)
                sure *= probability
                tokens.append(token)
                laws.append(law)
                tail = self._end([*tail, token])
            drafts.append(drafter_law.draft(item, tokens, laws))
        return drafts

    def close(self, seqs: Sequence[int]) -> None:
        """Forget the texts."""
        for seq in seqs:
            self._texts.pop(seq, None)

    def _end(self, tokens: Sequence[int]) -> list[int]:
        return list(tokens[-(self._store.order - 1) :])

    def _law(self, tail: Sequence[int], point_mass: bool) -> Law | None:
        for size in range(len(tail), self._options.min_match - 1, -1):
            ids, counts = self._store.continuations(tail[-size:])
            if len(ids):
                probs = (counts / counts.sum()).astype(np.float32)
                best = int(ids[-1])
                if point_mass:
                    return Law(best, float(probs[-1]))
                return Law(best, float(probs[-1]), ids[::-1].astype(np.int32), np.ascontiguousarray(probs[::-1]))
        return None


_NO_GUESS = Law(-1, 0.0)
_NO_LAW = Law(-1, 0.0, np.array([-1], dtype=np.int32), np.zeros(1, dtype=np.float32))
