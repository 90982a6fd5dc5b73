"""A causal language model as a drafter: catching up is scoring, drafting is a few more steps of the same cache.

Per sequence it holds a cache and the laws it already knows beyond the committed text: the one of the next position, and
those of the positions it drafted. A commit keeps whatever of that agrees with the committed tokens, runs the rest of
all sequences in one forward, and reads every position's score off laws that were needed anyway. A sequence that
outgrows the model's context has no laws from there on: it proposes nothing, scores 0, and costs the others nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from paceline.actors import drafter_law
from paceline.actors.causal_model import Cache, CausalModel, Step
from paceline.actors.drafter_law import Law
from paceline.actors.law_reader import LawReader
from paceline.actors.messages import Commit, Draft, Open, Probs, Propose
from paceline.actors.sampling import Sampling

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Session:
    sampling: Sampling
    tokens: list[int]  # committed
    cache: Cache
    drafted: list[int] = field(default_factory=list)  # beyond them
    laws: list[Law] = field(default_factory=list)  # laws[i]: of position len(tokens) + i, given drafted[:i]
    outgrown: bool = False  # longer than the model's context


class ModelDrafter:
    """Behind the `lm` and `early_exit` kinds.

    Args:
        model: Drafts; its vocabulary is the target's.
        width: Ids kept of a law that is sampled from.
        min_confidence: A draft ends where even its likeliest next token would make it less probable than this.
        seed: Of the draws.
    """

    features = None

    def __init__(self, model: CausalModel, width: int, min_confidence: float, seed: int) -> None:
        self.vocab_size = model.vocab_size
        self._model = model
        self._laws = LawReader(min(width, model.vocab_size), min_confidence)
        self._min_confidence = min_confidence
        self._chance = np.random.default_rng(seed)
        self._sessions: dict[int, _Session] = {}

    def open(self, opens: Sequence[Open]) -> None:
        """Take sequences; their prompts are run with the first commit or propose."""
        for item in opens:
            self._sessions[item.seq] = _Session(item.sampling, list(item.tokens), self._model.new_cache())

    def commit(self, commits: Sequence[Commit]) -> list[Probs]:
        """Append, roll back what was drafted otherwise, catch up, score."""
        sessions = [self._sessions[item.seq] for item in commits]
        before = [_append(session, item.tokens) for session, item in zip(sessions, commits, strict=True)]
        self._catch_up(sessions, before)
        gammas = []
        for session, item, start in zip(sessions, commits, before, strict=True):
            laws = session.laws[: len(item.tokens)]
            gammas.append(drafter_law.gammas(laws, item))
            session.laws = session.laws[len(session.tokens) - start :]
            self._retire_outgrown(session, item.seq)
        return gammas

    def propose(self, proposes: Sequence[Propose]) -> list[Draft]:
        """Draft for all sequences in one batch, a forward per token."""
        sessions = [self._sessions[item.seq] for item in proposes]
        for session in sessions:
            if session.drafted:  # an earlier draft came to nothing: the target asks again from the same place
                session.cache.truncate(min(session.cache.length, len(session.tokens)))
                session.drafted, session.laws = [], session.laws[:1]
        self._catch_up(sessions, [len(session.tokens) for session in sessions])
        for session, item in zip(sessions, proposes, strict=True):
            self._retire_outgrown(session, item.seq)
        # A draft's last token is never run, so it may stand one beyond the context.
        most = [
            min(item.length, self._model.max_positions + 1 - len(session.tokens))
            for session, item in zip(sessions, proposes, strict=True)
        ]
        sure = [1.0] * len(sessions)
        active = [i for i, length in enumerate(most) if length > 0]
        while active:
            # Whether to go on may depend on the law, never on the token drawn from it (see suffix.py).
            active = [i for i in active if sure[i] * sessions[i].laws[-1].sure >= self._min_confidence]
            for i in active:
                token, probability = drafter_law.draw(sessions[i].laws[-1], self._chance)
                sessions[i].drafted.append(token)
                sure[i] *= probability
            active = [i for i in active if len(sessions[i].drafted) < most[i]]
            if active:
                steps = [Step(sessions[i].cache, sessions[i].drafted[-1:], -1) for i in active]
                logits = self._model.forward(steps)
                for i, law in zip(active, self._laws.read(logits, [sessions[i].sampling for i in active]), strict=True):
                    sessions[i].laws.append(law)
        return [
            drafter_law.draft(item, list(session.drafted), session.laws)
            for item, session in zip(proposes, sessions, strict=True)
        ]

    def close(self, seqs: Sequence[int]) -> None:
        """Free the caches."""
        for seq in seqs:
            self._sessions.pop(seq, None)

    def _catch_up(self, sessions: list[_Session], starts: list[int]) -> None:
        """Run what keeps a session from knowing the laws of positions `start` .. len(tokens), the next one included.

        `session.laws` begins at position `start`; what is missing is missing at its end. Laws beyond the model's
        context stay missing.
        """
        steps, wanted = [], []
        for session, start in zip(sessions, starts, strict=True):
            first = start + len(session.laws) - 1  # the token whose forward gives the first missing law
            end = min(len(session.tokens), self._model.max_positions)
            if first < end:
                pending = session.tokens[session.cache.length : end]
                steps.append(Step(session.cache, pending, first - session.cache.length))
                wanted.append((session, end - first))
        if not steps:
            return
        logits = self._model.forward(steps)
        laws = iter(self._laws.read(logits, [session.sampling for session, count in wanted for _ in range(count)]))
        for session, count in wanted:
            session.laws += [next(laws) for _ in range(count)]

    def _retire_outgrown(self, session: _Session, seq: int) -> None:
        if len(session.tokens) > self._model.max_positions and not session.outgrown:
            logger.info("sequence %d outgrew the %d positions of the drafter's model", seq, self._model.max_positions)
            session.outgrown, session.cache = True, self._model.new_cache()


def _append(session: _Session, tokens: Sequence[int]) -> int:
    """Commit tokens; keep the laws and the cache of the drafted prefix that agrees with them.

    Returns:
        The position that `session.laws` begins at: where the commit begins.
    """
    start = len(session.tokens)
    agreed = 0
    while agreed < min(len(session.drafted), len(tokens)) and session.drafted[agreed] == tokens[agreed]:
        agreed += 1
    session.laws = session.laws[: agreed + 1]
    session.cache.truncate(min(session.cache.length, start + agreed))
    session.tokens.extend(tokens)
    session.drafted = []
    return start
