"""What every drafter kind owes, over all kinds: one score per committed position, the same however it was committed.

Trajectories are fixed token lists with repetitions, so that lookup kinds have something to find; model kinds run a
table model. Each kind is scored token by token, in blocks, and after drafting with part of the draft accepted.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from table_model import TableModel
from tiny_head import WithFeatures, make_tiny_head
from tiny_models import make_tiny_llama

from paceline.actors.draft_head import DraftHead
from paceline.actors.drafter import Drafter
from paceline.actors.drafter_host import DrafterHost
from paceline.actors.drafter_options import NgramOptions, RetrievalOptions, SuffixOptions
from paceline.actors.head import Head
from paceline.actors.messages import Commit, Draft, DrafterBatch, Laws, Open, Propose
from paceline.actors.model_drafter import ModelDrafter
from paceline.actors.ngram import Ngram
from paceline.actors.ngram_store import build_store
from paceline.actors.retrieval import Retrieval
from paceline.actors.sampling import Sampling
from paceline.actors.suffix import Suffix

VOCAB = 12


@functools.cache
def _head_folders() -> tuple[Path, Path]:
    """A target and a head for it, made once."""
    folder = Path(tempfile.mkdtemp(prefix="head-contract-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = make_tiny_llama(folder / "target", vocab_size=VOCAB, layers=2, seed=2)
    make_tiny_head(folder / "head", target, (1, 2), range(1, VOCAB), seed=3)
    return target, folder / "head"


@functools.cache
def _corpus() -> Path:
    """A table of texts like TEXT, and of others."""
    folder = Path(tempfile.mkdtemp(prefix="corpus-contract-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    others = np.random.default_rng(4).integers(0, VOCAB, (20, 30)).tolist()
    build_store([[4, 5, 1, 2, 3, 4, 6, 7, 1, 2], [9, 9, 9, 3, 4, 5], *others], VOCAB, 1000).write(folder)
    return folder


def _head() -> Drafter:
    target, folder = _head_folders()
    model = DraftHead(folder, target, torch.float32, torch.device("cpu"), "none")
    return WithFeatures(Head(model, width=VOCAB, min_confidence=0.0, seed=1))


SEED = 37  # of a table whose greedy guesses hit the trajectory now and then
KINDS: dict[str, Callable[[], Drafter]] = {
    "ngram": lambda: Ngram(NgramOptions(), VOCAB),
    "ngram of one": lambda: Ngram(NgramOptions(max_ngram=2, min_ngram=1), VOCAB),
    "suffix": lambda: Suffix(SuffixOptions(memory_tokens=0), VOCAB, seed=1),
    "suffix with memory": lambda: Suffix(SuffixOptions(min_match=1, min_probability=0.0), VOCAB, seed=1),
    "model": lambda: ModelDrafter(TableModel(VOCAB, seed=SEED), width=VOCAB, min_confidence=0.0, seed=1),
    "model, narrow": lambda: ModelDrafter(TableModel(VOCAB, seed=SEED), width=3, min_confidence=0.0, seed=1),
    "head": _head,
    "retrieval": lambda: Retrieval(
        RetrievalOptions(model=str(_corpus()), min_match=1, min_probability=0.0), VOCAB, seed=1
    ),
}
SAMPLINGS = {
    "greedy": Sampling(),
    "seeded": Sampling(temperature=0.8, seed=3),
    "sampled": Sampling(temperature=0.8, top_k=6, top_p=0.9),
}
PROMPT = [1, 2, 3, 4, 5, 1, 2, 3]
TEXT = [4, 5, 1, 2, 3, 4, 6, 7, 1, 2, 3, 4, 5, 1, 2, 9, 9, 9, 9, 3, 4, 5]

kinds = pytest.mark.parametrize("kind", KINDS)
samplings = pytest.mark.parametrize("sampling", SAMPLINGS)


def target_laws(start: int, count: int) -> Laws:
    """Some target's sparse laws at positions from `start`, the same for every way of committing."""
    chance = [np.random.default_rng(position) for position in range(start, start + count)]
    probs = np.array([rng.dirichlet(np.full(VOCAB, 0.4))[:8] for rng in chance], dtype=np.float32)
    return Laws(np.tile(np.arange(8, dtype=np.int32), (count, 1)), probs)


def commit(seq: int, at: int, tokens: Sequence[int], sampling: Sampling) -> Commit:
    p = None if sampling.greedy else target_laws(at, len(tokens))
    return Commit(seq, at, list(tokens), p)


def score(drafter: Drafter, sampling: Sampling, blocks: Sequence[int], draft: bool) -> list[float]:
    """Gammas of TEXT, committed in blocks of these sizes, asking for a draft before each if wanted."""
    drafter.open([Open(7, PROMPT, sampling)])
    gammas: list[float] = []
    at = 0
    for size in blocks:
        start = len(PROMPT) + at
        if draft:
            drafter.propose([Propose(7, start, 5)])
        gammas += drafter.commit([commit(7, start, TEXT[at : at + size], sampling)])[0].tolist()
        at += size
    drafter.close([7])
    return gammas


@kinds
@samplings
def test_a_score_does_not_depend_on_how_tokens_are_committed(kind: str, sampling: str) -> None:
    chosen = SAMPLINGS[sampling]
    one_by_one = score(KINDS[kind](), chosen, [1] * len(TEXT), draft=False)
    assert len(one_by_one) == len(TEXT)
    assert all(0.0 <= gamma <= 1.0 for gamma in one_by_one)
    assert any(gamma > 0 for gamma in one_by_one), "the trajectory must give every kind a chance"
    for blocks, draft in (([len(TEXT)], False), ([5, 1, 8, 8], False), ([5, 1, 8, 8], True), ([1] * len(TEXT), True)):
        assert score(KINDS[kind](), chosen, blocks, draft) == pytest.approx(one_by_one, abs=1e-6)


@kinds
def test_a_greedy_score_is_whether_a_fresh_draft_would_begin_with_the_token(kind: str) -> None:
    gammas = score(KINDS[kind](), Sampling(), [len(TEXT)], draft=False)
    for index, (token, gamma) in enumerate(zip(TEXT, gammas, strict=True)):
        drafter = KINDS[kind]()
        held = PROMPT + TEXT[:index]
        drafter.open([Open(1, held, Sampling())])
        draft = drafter.propose([Propose(1, len(held), 1)])[0]
        assert gamma == float(draft.tokens == [token])


@kinds
def test_a_sampled_score_is_the_overlap_of_the_law_that_is_drawn_from(kind: str) -> None:
    sampling = SAMPLINGS["sampled"]
    gammas = score(KINDS[kind](), sampling, [len(TEXT)], draft=False)
    for index, gamma in enumerate(gammas):
        drafter = KINDS[kind]()
        held = PROMPT + TEXT[:index]
        drafter.open([Open(1, held, sampling)])
        draft = drafter.propose([Propose(1, len(held), 1)])[0]
        p = target_laws(len(held), 1)
        law = dict(zip(p.ids[0].tolist(), p.probs[0].tolist(), strict=True))
        if not draft.tokens:
            expected = 0.0
        elif draft.q is None:
            expected = law.get(draft.tokens[0], 0.0)
        else:
            q = zip(draft.q.ids[0].tolist(), draft.q.probs[0].tolist(), strict=True)
            expected = sum(min(law.get(token, 0.0), mass) for token, mass in q)
        assert gamma == pytest.approx(expected, abs=1e-6)


@kinds
@samplings
def test_drafts_are_proper(kind: str, sampling: str) -> None:
    drafter, chosen = KINDS[kind](), SAMPLINGS[sampling]
    drafter.open([Open(1, PROMPT, chosen), Open(2, PROMPT[:5], chosen)])
    for draft in drafter.propose([Propose(2, 5, 3), Propose(1, len(PROMPT), 6)]):
        check(draft, chosen, 3 if draft.seq == 2 else 6)
    again = drafter.propose([Propose(1, len(PROMPT), 2)])[0]
    check(again, chosen, 2)


def check(draft: Draft, sampling: Sampling, most: int) -> None:
    assert len(draft.tokens) <= most
    assert all(0 <= token < VOCAB for token in draft.tokens)
    if sampling.point_mass or not draft.tokens:
        assert draft.q is None
    elif draft.q is not None:
        assert draft.q.ids.shape == draft.q.probs.shape
        assert draft.q.probs.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
        for token, ids, probs in zip(draft.tokens, draft.q.ids, draft.q.probs, strict=True):
            assert probs[ids == token] > 0
            used = ids[ids >= 0]
            assert len(set(used.tolist())) == len(used)


@kinds
def test_a_sampled_first_token_follows_the_law_that_is_sent(kind: str) -> None:
    """4,000 draws; each token's share within 5 standard errors: a right drafter fails in under 1 of 100,000 seeds."""
    drafter = KINDS[kind]()
    counts = np.zeros(VOCAB)
    q = np.zeros(VOCAB)
    draws = 4000
    for seq in range(draws):
        drafter.open([Open(seq, PROMPT, SAMPLINGS["sampled"])])
        draft = drafter.propose([Propose(seq, len(PROMPT), 1)])[0]
        drafter.close([seq])
        counts[draft.tokens[0]] += 1
        if draft.q is None:
            q[draft.tokens[0]] = 1.0
        else:
            q[draft.q.ids[0][draft.q.ids[0] >= 0]] = draft.q.probs[0][draft.q.ids[0] >= 0]
    errors = np.sqrt(q * (1 - q) / draws)
    assert (np.abs(counts / draws - q) <= 5 * errors + 1e-6).all()


@kinds
def test_sequences_do_not_disturb_one_another(kind: str) -> None:
    alone = score(KINDS[kind](), Sampling(), [3, 4, 15], draft=False)
    drafter = KINDS[kind]()
    drafter.open([Open(1, PROMPT, Sampling()), Open(2, [7, 7, 7], SAMPLINGS["seeded"]), Open(3, [2], Sampling())])
    gammas: list[float] = []
    at = 0
    for size in (3, 4, 15):
        start = len(PROMPT) + at
        drafter.propose([Propose(3, 1, 4)])
        both = [commit(1, start, TEXT[at : at + size], Sampling()), commit(2, 3 + at, [7] * size, SAMPLINGS["seeded"])]
        gammas += drafter.commit(both)[0].tolist()
        at += size
    assert gammas == alone


@kinds
@samplings
def test_repeats_and_split_messages_score_as_one(kind: str, sampling: str) -> None:
    chosen = SAMPLINGS[sampling]
    expected = score(KINDS[kind](), chosen, [len(TEXT)], draft=False)
    host = DrafterHost(KINDS[kind](), max_sessions=1)
    host.handle(DrafterBatch(opens=[Open(7, PROMPT, chosen)]))
    gammas: list[float] = []
    for at in range(0, len(TEXT), 4):
        start = len(PROMPT) + at
        parts = [TEXT[at : at + 1], TEXT[at : at + 4]]  # the second overlaps the first
        commits = [commit(7, start, part, chosen) for part in parts]
        batch = DrafterBatch(1, commits=commits, proposes=[Propose(7, min(start + 4, len(PROMPT) + len(TEXT)), 3)])
        for _ in range(2):
            reply, scores = host.handle(batch)
            assert (reply.failures, reply.resyncs, len(reply.drafts)) == ([], [], 1)
            for item in scores:
                assert item.start == len(PROMPT) + len(gammas)
                gammas += item.gammas.tolist()
    assert gammas == pytest.approx(expected, abs=1e-6)


@kinds
def test_closing_forgets_every_sequence(kind: str) -> None:
    drafter = KINDS[kind]()
    seqs = list(range(5))
    drafter.open([Open(seq, PROMPT, Sampling()) for seq in seqs])
    drafter.propose([Propose(seq, len(PROMPT), 3) for seq in seqs])
    tables = [
        value
        for value in vars(getattr(drafter, "inner", drafter)).values()
        if isinstance(value, dict) and len(value) == len(seqs)
    ]
    assert tables, "every kind keeps its sequences in a table"
    drafter.close(seqs)
    assert not any(tables)
