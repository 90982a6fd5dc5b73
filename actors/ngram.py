"""Prompt lookup: what followed the last time the text ended like this will follow again.

The longest n-gram that ends the text and occurred before is looked up; the draft copies what came after it, and goes on
copying from itself where the copy reaches the end (a loop is drafted as a loop). Every draft is a point mass.
Saxena, "Prompt lookup decoding" (2023); transformers and vLLM have it as `prompt_lookup` and `ngram`.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.actors.drafter_options import NgramOptions
from paceline.actors.gamma import point_gammas
from paceline.actors.messages import Commit, Draft, Open, Probs, Propose


class _Text:
    """One sequence's tokens, and where each of its n-grams was last followed by a token."""

    def __init__(self, least: int, most: int) -> None:
        self.tokens: list[int] = []
        self._sizes = range(most, least - 1, -1)
        self._after: dict[tuple[int, ...], int] = {}

    def append(self, token: int) -> None:
        """Add a token: it follows every n-gram that ends the text now."""
        tokens, end = self.tokens, len(self.tokens)
        for size in self._sizes:
            if size <= end:
                self._after[tuple(tokens[end - size :])] = end
        tokens.append(token)

    def match(self) -> int | None:
        """Position of what followed the most recent earlier occurrence of the longest n-gram that ends the text."""
        tokens, end = self.tokens, len(self.tokens)
        for size in self._sizes:
            if size <= end:
                position = self._after.get(tuple(tokens[end - size :]))
                if position is not None:
                    return position
        return None


class Ngram:
    """The `ngram` kind."""

    features = None

    def __init__(self, options: NgramOptions, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._options = options
        self._texts: dict[int, _Text] = {}

    def open(self, opens: Sequence[Open]) -> None:
        """Index each prompt."""
        for item in opens:
            text = _Text(self._options.min_ngram, self._options.max_ngram)
            for token in item.tokens:
                text.append(token)
            self._texts[item.seq] = text

    def commit(self, commits: Sequence[Commit]) -> list[Probs]:
        """Append tokens; the guess before each of them is what is scored."""
        return [self._score(commit) for commit in commits]

    def propose(self, proposes: Sequence[Propose]) -> list[Draft]:
        """Copy what followed."""
        return [Draft(item.seq, item.start, self._copy(self._texts[item.seq], item.length)) for item in proposes]

    def close(self, seqs: Sequence[int]) -> None:
        """Forget the texts."""
        for seq in seqs:
            self._texts.pop(seq, None)

    def _score(self, commit: Commit) -> Probs:
        text = self._texts[commit.seq]
        guesses = []
        for token in commit.tokens:
            position = text.match()
            guesses.append(-1 if position is None else text.tokens[position])
            text.append(token)
        return point_gammas(guesses, commit)

    @staticmethod
    def _copy(text: _Text, length: int) -> list[int]:
        start = text.match()
        if start is None:
            return []
        period = len(text.tokens) - start
        draft = text.tokens[start : start + length]
        while len(draft) < length:
            draft.append(draft[len(draft) - period])
        return draft
