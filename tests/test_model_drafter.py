"""Caches, roll-backs and the options of model drafters, with a real (tiny) decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from table_model import TableModel
from tiny_models import make_tiny_llama

from paceline.actors.drafter_registry import DrafterContext, build_drafter
from paceline.actors.errors import ConfigError, ModelSourceError
from paceline.actors.messages import Commit, Laws, Open, Propose
from paceline.actors.model_drafter import ModelDrafter
from paceline.actors.sampling import Sampling


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    make_tiny_llama(path, vocab_size=64, layers=3, seed=1)
    return path


@pytest.fixture
def context(folder: Path) -> DrafterContext:
    return DrafterContext(folder, 64, dtype="float32", threads=torch.get_num_threads())


def test_an_lm_that_is_the_target_drafts_its_greedy_text(folder: Path, context: DrafterContext) -> None:
    lm = build_drafter("lm", {"model": str(folder)}, context)
    lm.open([Open(1, [3, 5, 9], Sampling())])
    text = lm.propose([Propose(1, 3, 12)])[0].tokens
    assert len(text) == 12
    other = build_drafter("lm", {"model": str(folder)}, context)
    other.open([Open(1, [3, 5, 9], Sampling())])
    assert other.commit([Commit(1, 3, text)])[0].tolist() == [1.0] * 12
    # draft, accept two of five and something else, go on: as if it had never drafted
    lm.propose([Propose(1, 3, 5)])
    wrong = (text[2] + 1) % 64
    lm.commit([Commit(1, 3, [*text[:2], wrong])])
    fresh = build_drafter("lm", {"model": str(folder)}, context)
    fresh.open([Open(1, [3, 5, 9, *text[:2], wrong], Sampling())])
    assert lm.propose([Propose(1, 6, 8)])[0].tokens == fresh.propose([Propose(1, 6, 8)])[0].tokens


def test_early_exit_with_all_layers_is_the_target(folder: Path, context: DrafterContext) -> None:
    whole = build_drafter("early_exit", {"layers": 3}, context)
    first = build_drafter("early_exit", {"layers": 1}, context)
    lm = build_drafter("lm", {"model": str(folder)}, context)
    drafts = []
    for drafter in (whole, first, lm):
        drafter.open([Open(1, [3, 5, 9], Sampling())])
        drafts.append(drafter.propose([Propose(1, 3, 10)])[0].tokens)
    assert drafts[0] == drafts[2] != drafts[1]


def test_early_exit_beyond_the_target_is_refused(context: DrafterContext) -> None:
    with pytest.raises(ModelSourceError, match="layers: 4"):
        build_drafter("early_exit", {"layers": 4}, context)


def test_another_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    make_tiny_llama(tmp_path, vocab_size=48, layers=1, seed=1)
    with pytest.raises(ConfigError, match=r"vocabulary of 48 tokens.* one of 64"):
        build_drafter("lm", {"model": str(tmp_path)}, DrafterContext(folder, 64, dtype="float32"))


def test_the_lms_own_dtype_is_used(folder: Path, context: DrafterContext) -> None:
    exact = build_drafter("lm", {"model": str(folder)}, context)
    rounded = build_drafter("lm", {"model": str(folder), "dtype": "bfloat16"}, context)
    laws = []
    for drafter in (exact, rounded):
        drafter.open([Open(1, [3, 5, 9], Sampling(temperature=1.0))])
        q = drafter.propose([Propose(1, 3, 1)])[0].q
        assert q is not None
        laws.append(sorted(zip(q.ids[0].tolist(), q.probs[0].tolist(), strict=True)))
    assert laws[0] != laws[1]


def test_width_bounds_the_law() -> None:
    drafter = ModelDrafter(TableModel(12), width=4, min_confidence=0.0, seed=0)
    drafter.open([Open(1, [1, 2], Sampling(temperature=1.0))])
    q = drafter.propose([Propose(1, 2, 3)])[0].q
    assert q is not None
    assert q.ids.shape == (3, 4)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)])
def test_min_confidence_ends_a_draft_early(sampling: Sampling) -> None:
    lengths = {}
    for floor in (0.0, 0.3):
        drafter = ModelDrafter(TableModel(12), width=12, min_confidence=floor, seed=0)
        drafter.open([Open(1, [1, 2], sampling)])
        lengths[floor] = len(drafter.propose([Propose(1, 2, 20)])[0].tokens)
    assert lengths[0.0] == 20
    assert lengths[0.3] < 8


def test_whether_a_draft_goes_on_is_settled_before_its_token_is_drawn() -> None:
    """The stop may depend on the law and earlier draws only; else drafts follow another law than the one sent."""
    model = TableModel(12)
    floor = float(torch.softmax(model.row([1, 2]), dim=-1).max()) - 1e-3
    seen = set()
    for seed in range(60):
        drafter = ModelDrafter(model, width=12, min_confidence=floor, seed=seed)
        drafter.open([Open(1, [1, 2], Sampling(temperature=1.0))])
        tokens = drafter.propose([Propose(1, 2, 1)])[0].tokens
        assert len(tokens) == 1
        seen.add(tokens[0])
    assert len(seen) > 1, "unlikely tokens are proposed too"


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)])
def test_a_sequence_beyond_the_context_costs_only_itself(sampling: Sampling) -> None:
    """As with a model of a longer context up to the 16 positions there are; nothing, and no error, from there on."""
    short, long = (
        ModelDrafter(TableModel(12, max_positions=size), width=12, min_confidence=0.0, seed=0) for size in (16, 512)
    )
    p = Laws(np.tile(np.arange(12, dtype=np.int32), (8, 1)), np.full((8, 12), 1 / 12, np.float32))
    other = []
    for drafter in (short, long):
        drafter.open([Open(1, [1, 2, 3, 4] * 3, sampling), Open(2, [5, 6], sampling), Open(3, [1] * 17, sampling)])
        drafts = drafter.propose([Propose(1, 12, 9), Propose(3, 17, 2)])
        if drafter is short:  # positions 12 to 16: the last one's law needs the 16 before it
            assert [len(draft.tokens) for draft in drafts] == [5, 0]
        tokens = [7, 8, 9, 10, 11, 0, 1, 2]
        laws = None if sampling.greedy else p
        other.append(drafter.commit([Commit(1, 12, tokens, laws), Commit(2, 2, tokens, laws)]))
    assert other[0][1].tolist() == other[1][1].tolist()
    assert other[0][0].tolist() == pytest.approx([*other[1][0].tolist()[:5], 0.0, 0.0, 0.0])
    assert sampling.greedy or all(other[0][0][:5] > 0)
    late = Commit(1, 20, [3], None if sampling.greedy else Laws(p.ids[:1], p.probs[:1]))
    assert short.commit([late])[0].tolist() == [0.0]
    assert [len(d.tokens) for d in short.propose([Propose(1, 21, 3), Propose(2, 10, 3)])] == [0, 3]


def test_closing_frees_the_cache(context: DrafterContext, folder: Path) -> None:
    drafter = build_drafter("lm", {"model": str(folder)}, context)
    assert isinstance(drafter, ModelDrafter)
    drafter.open([Open(seq, [1, 2, 3], Sampling()) for seq in range(5)])
    drafter.propose([Propose(seq, 3, 2) for seq in range(5)])
    drafter.close(list(range(5)))
    assert not drafter._sessions
