"""Stochastic suffix drafting: what followed the longest repeated suffix, as often as it did.

Each sequence has a suffix automaton of its own text; a bounded memory of earlier outputs, shared by all sequences, is
two more. The longest match among them drafts; counts make a law, so a sampled draft has a proper q (as in STAND,
arXiv 2506.04708; memory across requests as in SuffixDecoding, arXiv 2411.04975). What a token costs is in
`suffix_automaton`: a full memory of 65,536 tokens takes about 30 MB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.actors.drafter_options import SuffixOptions
from paceline.actors.gamma import overlap_sparse, point_gammas
from paceline.actors.messages import Commit, Draft, Laws, Open, Probs, Propose
from paceline.actors.suffix_automaton import ROOT, SuffixAutomaton

SEPARATOR = -1
WIDTH = 32  # ids of a law: the most frequent continuations
CONTEXT = 4  # tokens of a prompt that are remembered with its output, so that the output's start can be found
REMATCH = 64  # tokens looked back to find a sequence's place in a fresh memory

Law = dict[int, float]  # token -> probability


class _Match:
    """Where one sequence's text stands in one memory."""

    def __init__(self, memory: SuffixAutomaton, tokens: Sequence[int]) -> None:
        self.memory = memory
        self.state, self.length = ROOT, 0
        for token in tokens[-REMATCH:]:
            self.follow(token)

    def follow(self, token: int) -> None:
        """The text goes on."""
        self.state, self.length = self.memory.advance(self.state, self.length, token)

    def place(self) -> int:
        """The match's state now: other sequences' outputs may have split the one it was found in."""
        self.state = self.memory.settled(self.state, self.length)
        return self.state


class _Text:
    """One sequence."""

    def __init__(self, item: Open) -> None:
        self.tokens = list(item.tokens)
        self.prompt_tokens = len(item.tokens)
        self.point_mass = item.sampling.point_mass
        self.own = SuffixAutomaton()
        for token in item.tokens:
            self.own.append(token)
        self.generation = -1
        self.matches: list[_Match] = []

    def enter(self, memories: Sequence[SuffixAutomaton], generation: int) -> None:
        """Find the text's place in new memories."""
        self.generation = generation
        kept = {id(match.memory): match for match in self.matches}
        self.matches = [kept.get(id(memory)) or _Match(memory, self.tokens) for memory in memories]

    def append(self, token: int) -> None:
        """Commit a token."""
        self.tokens.append(token)
        self.own.append(token)
        for match in self.matches:
            match.follow(token)


class Suffix:
    """The `suffix` kind."""

    features = None

    def __init__(self, options: SuffixOptions, vocab_size: int, seed: int) -> None:
        self.vocab_size = vocab_size
        self._options = options
        self._chance = np.random.default_rng(seed)
        self._texts: dict[int, _Text] = {}
        self._memories: list[SuffixAutomaton] = [SuffixAutomaton()] if options.memory_tokens else []
        self._generation = 0  # of the memories

    def open(self, opens: Sequence[Open]) -> None:
        """Index each prompt and find its place in the memories."""
        for item in opens:
            text = self._texts[item.seq] = _Text(item)
            text.enter(self._memories, self._generation)

    def commit(self, commits: Sequence[Commit]) -> list[Probs]:
        """Append tokens; the law before each of them is what is scored."""
        return [self._score(commit) for commit in commits]

    def propose(self, proposes: Sequence[Propose]) -> list[Draft]:
        """Draft along the longest match."""
        return [self._draft(self._texts[item.seq], item) for item in proposes]

    def close(self, seqs: Sequence[int]) -> None:
        """Forget the texts; what was generated goes to the memory."""
        for seq in seqs:
            text = self._texts.pop(seq, None)
            if text is not None and self._memories:
                self._remember(text)

    def _remember(self, text: _Text) -> None:
        """Add an output, with the end of its prompt as context; where it does not fit, the older half is dropped.

        Of an output that is longer than half the memory, the end is kept.
        """
        if len(text.tokens) == text.prompt_tokens:
            return
        half = max(self._options.memory_tokens // 2, 1)
        output = [*text.tokens[max(0, text.prompt_tokens - CONTEXT) :], SEPARATOR][-half:]
        if 0 < len(self._memories[-1]) > half - len(output):
            self._memories = [self._memories[-1], SuffixAutomaton()]
            self._generation += 1
        for token in output:
            self._memories[-1].append(token)

    def _best(self, text: _Text) -> tuple[SuffixAutomaton, int, int]:
        """The automaton with the longest match, its state and length; on a tie the sequence's own text."""
        if text.generation != self._generation:
            text.enter(self._memories, self._generation)
        own = text.own.repeated
        best = text.own, own, text.own.length[own]
        for match in text.matches:
            if match.length > best[2]:
                best = match.memory, match.place(), match.length
        return best

    def _law(self, automaton: SuffixAutomaton, state: int, matched: int) -> tuple[Law, int, int]:
        """The next token's law, and the state and length it was read at: shorter where the longest has no sequel."""
        while matched >= self._options.min_match:
            counts = automaton.continuations(state)
            if counts:
                kept = sorted(counts.items(), key=lambda item: item[1])[-WIDTH:]  # stable: of equals the latest is last
                total = sum(count for _, count in kept)
                return {token: count / total for token, count in kept}, state, matched
            state = automaton.link[state]
            matched = automaton.length[state] if state > ROOT else 0
        return {}, ROOT, 0

    def _score(self, commit: Commit) -> Probs:
        text = self._texts[commit.seq]
        laws = []
        for token in commit.tokens:
            laws.append(self._law(*self._best(text))[0])
            text.append(token)
        if text.point_mass or commit.p is None:
            return point_gammas([next(reversed(law), -1) for law in laws], commit)
        return overlap_sparse(commit.p, _as_laws(laws))

    def _draft(self, text: _Text, item: Propose) -> Draft:
        automaton, state, matched = self._best(text)
        tokens: list[int] = []
        laws: list[Law] = []
        sure = 1.0
        while len(tokens) < item.length:
            law, state, matched = self._law(automaton, state, matched)
            # Whether to go on may depend on the law, never on the token drawn from it: leaving out unlikely draws would
            # make the drafts follow another law than the one that is sent.
            if not law or sure * max(law.values()) < self._options.min_probability:
                break
            token = next(reversed(law)) if text.point_mass else self._sample(law)
            sure *= law[token]
            tokens.append(token)
            laws.append(law)
            state, matched = automaton.next[state][token], matched + 1
        return Draft(item.seq, item.start, tokens, None if text.point_mass or not laws else _as_laws(laws))

    def _sample(self, law: Law) -> int:
        left = self._chance.random()
        for token, probability in law.items():  # a few entries: quicker than an array
            left -= probability
            if left < 0:
                return token
        return next(reversed(law))  # the probabilities' sum was rounded to a little less than 1


def _as_laws(laws: Sequence[Law]) -> Laws:
    width = max((len(law) for law in laws), default=1) or 1
    ids = np.full((len(laws), width), -1, dtype=np.int32)
    probs = np.zeros((len(laws), width), dtype=np.float32)
    for row, law in enumerate(laws):
        ids[row, : len(law)] = list(law)
        probs[row, : len(law)] = list(law.values())
    return Laws(ids, probs)
