"""The head kind against the module it was trained as, and against the target's own features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_head import make_tiny_head
from tiny_models import make_tiny_gpt2, make_tiny_llama

from paceline.actors.bfloat16 import to_bits
from paceline.actors.draft_head import DraftHead, HeadStep
from paceline.actors.drafter_registry import DrafterContext, build_drafter, features_needed
from paceline.actors.errors import ConfigError, ModelSourceError
from paceline.actors.head_config import CONFIG_FILE, WEIGHTS_FILE, HeadConfig
from paceline.actors.messages import Commit, Open, Propose
from paceline.actors.sampling import Sampling
from paceline.cluster.training.head_export import load_module
from paceline.cluster.training.head_module import HeadModule

VOCAB = 97
IDS = list(range(3, 90, 2))
LAYERS = (1, 3)
SLOTS, LEVELS = 20, 4


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("target"), layers=3, seed=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, target: Path) -> Path:
    folder = tmp_path_factory.mktemp("head")
    make_tiny_head(folder, target, LAYERS, IDS, seed=1)
    return folder


@pytest.fixture(scope="module")
def module(folder: Path, target: Path) -> HeadModule:
    """What is on disk, 8-bit weights widened."""
    tensors = load_file(target / "model.safetensors")
    return load_module(folder, tensors["model.embed_tokens.weight"], tensors["lm_head.weight"])


def text(seed: int, length: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, length).tolist()


def features(seed: int, rows: int) -> torch.Tensor:
    return torch.randn(rows, len(LAYERS) * 48, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("block", [1, 7, SLOTS])
def test_every_level_computes_what_was_trained(folder: Path, target: Path, module: HeadModule, block: int) -> None:
    """Tolerance 1e-3 on logits that spread over units: float32 twice, summed in another order."""
    head = DraftHead(folder, target, torch.float32, torch.device("cpu"), "none")
    tokens, rows = text(1, SLOTS + LEVELS), features(2, SLOTS)
    states = module(torch.tensor([tokens[: SLOTS + LEVELS - 1]]), rows[None], LEVELS)
    expected = [state[0] @ module.head_rows.T.float() for state in states]  # by level, [slots, draft_vocab]
    cache = head.new_cache()
    for start in range(0, SLOTS, block):
        part = slice(start, min(start + block, SLOTS))
        state, logits = head.run([HeadStep(cache, tokens[part], head.fuse(rows[part]))])
        torch.testing.assert_close(logits, expected[0][part], atol=1e-3, rtol=1e-3)
        last, held = part.stop, cache.length
        state = state[-1:]
        for level in range(1, LEVELS):  # a chain from the last slot, then forgotten
            state, logits = head.run([HeadStep(cache, [tokens[last - 1 + level]], state)])
            torch.testing.assert_close(logits[0], expected[level][last - 1], atol=1e-3, rtol=1e-3)
        cache.truncate(held)


def test_sequences_in_one_forward_do_not_disturb_one_another(folder: Path, target: Path) -> None:
    head = DraftHead(folder, target, torch.float32, torch.device("cpu"), "none")
    parts = [(text(seed, 5 + seed), head.fuse(features(seed, 5 + seed))) for seed in range(3)]
    together = head.run([HeadStep(head.new_cache(), tokens, states) for tokens, states in parts])[1]
    alone = torch.cat([head.run([HeadStep(head.new_cache(), tokens, states)])[1] for tokens, states in parts])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_eight_bits_move_the_logits_little(folder: Path, target: Path) -> None:
    """The matrices are stored in 8 bits anyway; what differs is the output rows, and bfloat16 on the way."""
    exact = DraftHead(folder, target, torch.float32, torch.device("cpu"), "none")
    small = DraftHead(folder, target, torch.bfloat16, torch.device("cpu"), "int8")
    tokens, rows = text(1, SLOTS), features(2, SLOTS)
    logits = [head.run([HeadStep(head.new_cache(), tokens, head.fuse(rows))])[1].float() for head in (exact, small)]
    assert (logits[0] - logits[1]).abs().mean() < 0.05 * logits[0].std()


def test_greedy_drafts_are_the_modules_chains(folder: Path, target: Path, module: HeadModule) -> None:
    drafter = build_drafter("head", {"model": str(folder)}, DrafterContext(target, VOCAB, dtype="float32"))
    tokens, rows = text(3, SLOTS + 1), features(4, SLOTS)
    chains = module.chain(torch.tensor([tokens[1:]]), rows[None], LEVELS)[0]
    drafter.open([Open(1, tokens[:6], Sampling(), to_bits(rows[:5]))])
    for held in range(6, SLOTS + 1):
        draft = drafter.propose([Propose(1, held, LEVELS)])[0]
        assert draft.tokens == chains[held - 2].tolist()
        assert set(draft.tokens) <= set(IDS)
        if held <= SLOTS:
            drafter.commit([Commit(1, held, tokens[held : held + 1], None, to_bits(rows[held - 1 : held]))])


def test_calibration_scales_every_score(tmp_path: Path, target: Path) -> None:
    tokens, rows = text(3, 12), features(4, 11)
    scores = []
    for factor in (1.0, 0.5):
        folder = tmp_path / str(factor)
        make_tiny_head(folder, target, LAYERS, range(VOCAB), seed=1, calibration=factor)
        drafter = build_drafter("head", {"model": str(folder)}, DrafterContext(target, VOCAB, dtype="float32"))
        drafter.open([Open(1, tokens[:4], Sampling(), to_bits(rows[:3]))])
        first = drafter.propose([Propose(1, 4, 1)])[0].tokens
        own = [*first, *tokens[5:]]
        scores.append(drafter.commit([Commit(1, 4, own, None, to_bits(rows[3:]))])[0])
    assert scores[0][0] == 1.0
    np.testing.assert_allclose(scores[1], 0.5 * scores[0])


def test_a_text_of_one_token_is_no_ground_to_draft_on(folder: Path, target: Path) -> None:
    drafter = build_drafter("head", {"model": str(folder)}, DrafterContext(target, VOCAB, dtype="float32"))
    drafter.open([Open(1, [5], Sampling())])
    assert drafter.propose([Propose(1, 1, 3)])[0].tokens == []
    assert drafter.commit([Commit(1, 1, [7, 9], None, to_bits(features(1, 2)))])[0].shape == (2,)
    assert len(drafter.propose([Propose(1, 3, 3)])[0].tokens) == 3


def test_a_commit_beyond_the_window_is_scored_where_it_can_be(folder: Path, target: Path) -> None:
    drafter = build_drafter("head", {"model": str(folder)}, DrafterContext(target, VOCAB, dtype="float32"))
    drafter.open([Open(1, [5, 6], Sampling(), to_bits(features(1, 1)))])
    window = HeadConfig.read(folder).window
    tokens = text(2, window + 10)
    gammas = drafter.commit([Commit(1, 2, tokens, None, to_bits(features(2, window)))])[0]
    assert len(gammas) == window + 10
    assert not gammas[:11].any()
    assert len(drafter.propose([Propose(1, 2 + len(tokens), 3)])[0].tokens) == 3


def test_a_draft_ends_where_it_becomes_improbable(folder: Path, target: Path) -> None:
    lengths = []
    for least in (0.0, 1.0):
        options = {"model": str(folder), "min_confidence": least}
        drafter = build_drafter("head", options, DrafterContext(target, VOCAB, dtype="float32"))
        drafter.open([Open(1, text(3, 6), Sampling(), to_bits(features(4, 5)))])
        lengths.append(len(drafter.propose([Propose(1, 6, 5)])[0].tokens))
    assert lengths == [5, 0]


def test_the_cluster_knows_which_layers_a_head_reads(folder: Path) -> None:
    assert features_needed("head", {"model": str(folder)}) == LAYERS


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("format", "other", "format"),
        ("width", 64, "width"),
        ("vocab_size", 50, "vocab_size"),
        ("feature_layers", [3, 1], "feature_layers"),
        ("feature_layers", [1, 9], "feature_layers"),
        ("draft_vocab", 10, "draft_ids"),
        ("inner", True, "inner"),
        ("calibration", 0, "calibration"),
        ("calibration", 1.5, "calibration"),
        ("window", 5000, "window"),
    ],
)
def test_a_head_of_another_shape_is_refused_by_name(
    tmp_path: Path, target: Path, field: str, value: object, told: str
) -> None:
    make_tiny_head(tmp_path, target, LAYERS, IDS)
    path = tmp_path / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ModelSourceError, match=told):
        build_drafter("head", {"model": str(tmp_path)}, DrafterContext(target, VOCAB))


def test_damaged_weights_are_refused_by_name(tmp_path: Path, target: Path) -> None:
    make_tiny_head(tmp_path, target, LAYERS, IDS)
    tensors = load_file(tmp_path / WEIGHTS_FILE)
    tensors["draft_ids"][0] = VOCAB
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    with pytest.raises(ModelSourceError, match="draft_ids"):
        build_drafter("head", {"model": str(tmp_path)}, DrafterContext(target, VOCAB))
    (tmp_path / WEIGHTS_FILE).write_bytes(b"not weights")
    with pytest.raises(ModelSourceError, match=WEIGHTS_FILE):
        build_drafter("head", {"model": str(tmp_path)}, DrafterContext(target, VOCAB))


def test_other_families_and_missing_folders_are_refused(tmp_path: Path, folder: Path) -> None:
    gpt2 = make_tiny_gpt2(tmp_path / "gpt2")
    with pytest.raises(ModelSourceError, match="Llama"):
        build_drafter("head", {"model": str(folder)}, DrafterContext(gpt2, VOCAB))
    with pytest.raises(ModelSourceError, match=CONFIG_FILE):
        features_needed("head", {"model": str(tmp_path / "nowhere")})
    with pytest.raises(ConfigError, match="model"):
        features_needed("head", {})
