"""`head`: a draft head that goes on from the target's own features (EAGLE-3, arXiv 2503.01840).

Slot j of its cache is fed token j and the features of token j - 1, and gives the law of token j + 1. Committed text is
caught up with in one forward, on true features; a draft goes on from there on the head's own states, a forward per
token after the first, and its slots are forgotten with the next commit, true features being better. So a commit
measures the acceptance of a chain's first level only, and deeper ones are worse: every gamma is multiplied by
`calibration`, with which the first level's tell the length of chains as it was measured when the head was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from paceline.actors import drafter_law
from paceline.actors.bfloat16 import from_bits
from paceline.actors.draft_head import DraftHead, HeadStep
from paceline.actors.drafter import FeatureRequest
from paceline.actors.drafter_law import Law
from paceline.actors.drafter_options import HeadOptions
from paceline.actors.drafter_registry import DrafterContext
from paceline.actors.law_reader import LawReader
from paceline.actors.llama_cache import LlamaCache
from paceline.actors.messages import Commit, Draft, Features, Open, Probs, Propose
from paceline.actors.model_facts import Quantization
from paceline.actors.model_loader import DTYPES, device_named
from paceline.actors.sampling import Sampling


def build_head(options: HeadOptions, context: DrafterContext) -> Head:
    """Load a head.

    Raises:
        ModelSourceError: its folder cannot be read, or it is for another target.
    """
    torch.set_num_threads(context.threads)
    device = device_named(context.device)
    quantization: Quantization = "int8" if device.type == "cpu" else "none"
    folder = Path(options.model).expanduser()
    model = DraftHead(folder, context.target_path, DTYPES[context.dtype], device, quantization)
    return Head(model, options.width, options.min_confidence, context.seed)


@dataclass(slots=True)
class _Session:
    sampling: Sampling
    cache: LlamaCache
    pending: list[int]  # committed tokens that were not run yet
    features: list[Features]  # that go with them, row for row
    state: torch.Tensor  # [1, width] of the last slot run
    law: Law | None = None  # of the next position
    slots: int = 0  # of the cache


class Head:
    """The kind.

    Args:
        model: The head.
        width: Ids kept of a law that is sampled from.
        min_confidence: A draft ends where even its likeliest next token would make it less probable than this.
        seed: Of the draws.
    """

    def __init__(self, model: DraftHead, width: int, min_confidence: float, seed: int) -> None:
        config = model.config
        self.vocab_size = config.vocab_size
        self.features = FeatureRequest(config.feature_layers, config.window, config.width)
        self._model = model
        self._calibration = config.calibration
        self._min_confidence = min_confidence
        self._laws = LawReader(min(width, config.draft_vocab), min_confidence, model.vocabulary)
        self._chance = np.random.default_rng(seed)
        self._sessions: dict[int, _Session] = {}

    def open(self, opens: Sequence[Open]) -> None:
        """Take sequences; what is seen of their prompts is run with the first commit or propose."""
        for item in opens:
            session = _Session(item.sampling, self._model.new_cache(), [], [], self._model.no_state())
            _append(session, item)
            self._sessions[item.seq] = session

    def commit(self, commits: Sequence[Commit]) -> list[Probs]:
        """Append, forget what was drafted, catch up, score."""
        sessions = [self._sessions[item.seq] for item in commits]
        self._catch_up(sessions)  # for the law of each commit's first position
        before = [session.law for session in sessions]
        for session, item in zip(sessions, commits, strict=True):
            _append(session, item)
        laws = self._catch_up(sessions)
        gammas = []
        for item, first, own in zip(commits, before, laws, strict=True):
            whole = first is not None and len(own) == len(item.tokens)
            known = [first, *own[:-1]] if first is not None and whole else own[:-1]
            # Where features begin inside a commit (a text's first token has none), what is before them is unknown.
            scored = np.zeros(len(item.tokens), dtype=np.float32)
            if known:
                start = len(item.tokens) - len(known)
                scored[start:] = drafter_law.gammas(known, item.after(item.start + start)) * self._calibration
            gammas.append(scored)
        return gammas

    def propose(self, proposes: Sequence[Propose]) -> list[Draft]:
        """Draft for all sequences in one batch, a forward for each token after the first."""
        sessions = [self._sessions[item.seq] for item in proposes]
        self._catch_up(sessions)
        laws: list[list[Law]] = [[] if session.law is None else [session.law] for session in sessions]
        states = [session.state for session in sessions]
        drafted: list[list[int]] = [[] for _ in sessions]
        sure = [1.0] * len(sessions)
        active = [i for i, own in enumerate(laws) if own]
        while active:
            # Whether to go on may depend on the law, never on the token drawn from it (see suffix.py).
            active = [i for i in active if sure[i] * laws[i][-1].sure >= self._min_confidence]
            for i in active:
                token, probability = drafter_law.draw(laws[i][-1], self._chance)
                drafted[i].append(token)
                sure[i] *= probability
            active = [i for i in active if len(drafted[i]) < proposes[i].length]
            if active:
                steps = [HeadStep(sessions[i].cache, drafted[i][-1:], states[i]) for i in active]
                new, logits = self._model.run(steps)
                read = self._laws.read(logits, [sessions[i].sampling for i in active])
                for i, state, law in zip(active, torch.split(new, 1), read, strict=True):
                    states[i] = state
                    laws[i].append(law)
        for session in sessions:  # text that is committed comes with features, which are better than states
            session.cache.truncate(session.slots)
        return [drafter_law.draft(item, tokens, own) for item, tokens, own in zip(proposes, drafted, laws, strict=True)]

    def close(self, seqs: Sequence[int]) -> None:
        """Free the caches."""
        for seq in seqs:
            self._sessions.pop(seq, None)

    def _catch_up(self, sessions: Sequence[_Session]) -> list[list[Law]]:
        """Run what is pending, of all sessions in one forward.

        Returns:
            Per session, the laws that its pending tokens gave: of the positions after each of them.
        """
        behind = [session for session in sessions if session.pending]
        laws: dict[int, list[Law]] = {}
        if behind:
            fused = self._model.fuse(
                from_bits(np.concatenate([rows for session in behind for rows in session.features]))
            )
            counts = [len(session.pending) for session in behind]
            steps = []
            for session, states in zip(behind, torch.split(fused, counts), strict=True):
                steps.append(HeadStep(session.cache, session.pending, states))
            states, logits = self._model.run(steps)
            samplings = [session.sampling for session, count in zip(behind, counts, strict=True) for _ in range(count)]
            read = iter(self._laws.read(logits, samplings))
            last = 0
            for session, count in zip(behind, counts, strict=True):
                last += count
                own = laws[id(session)] = [next(read) for _ in range(count)]
                session.slots += count
                session.state, session.law = states[last - 1 : last].clone(), own[-1]
                session.pending, session.features = [], []
        return [laws.get(id(session), []) for session in sessions]


def _append(session: _Session, item: Open | Commit) -> None:
    """Tokens with features join what is pending; the head looks no further back."""
    if item.features is not None and len(item.features):
        session.pending += item.tokens[-len(item.features) :]
        session.features.append(item.features)
