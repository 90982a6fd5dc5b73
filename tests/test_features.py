"""Features: every model keeps the hidden states that transformers would give, wherever its keys and values go.

The reference is a fresh forward of transformers over the whole text. Tolerance: 1e-4 on values that spread over units.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_tiny_gpt2, make_tiny_llama, make_tiny_mistral, make_tiny_qwen3
from transformers import AutoModelForCausalLM

from paceline.actors.causal_model import CausalModel, Step
from paceline.actors.errors import EngineError, ModelSourceError
from paceline.actors.llama import Llama
from paceline.actors.llama_cache import LlamaCache
from paceline.actors.model_loader import load_model
from paceline.kernels.decoder_ops import BLOCK

WIDTH = 48
LAYERS = (1, 3, 4)
TOKENS = [(i * i + 3) % 97 for i in range(60)]
TREE = [7, 8, 9, 10, 11, 12]
PARENTS = [-1, 0, 0, 1, -1, 4]


class Reference:
    """transformers' hidden states."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def features(self, tokens: list[int], layers: tuple[int, ...]) -> torch.Tensor:
        """[tokens, layers * width]"""
        with torch.inference_mode():
            states = self.model(torch.tensor([tokens]), use_cache=False, output_hidden_states=True).hidden_states
        return torch.cat([states[layer][0] for layer in layers], dim=-1)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


# ---------------------------------------------------------------- every model


MODELS: dict[str, tuple[Callable[[Path], Path], tuple[int, ...]]] = {
    "llama": (lambda folder: make_tiny_llama(folder, layers=4), LAYERS),
    "llama, last layer": (lambda folder: make_tiny_llama(folder, layers=4), (4,)),
    "mistral, torch's ops": (make_tiny_mistral, (1, 2)),
    "qwen3": (make_tiny_qwen3, (1, 2)),
    "gpt2": (make_tiny_gpt2, (1, 2)),
}


@pytest.fixture(scope="module", params=MODELS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[CausalModel, Reference]:
    make, layers = MODELS[request.param]
    folder = make(tmp_path_factory.mktemp("model"))
    return load_model(folder, dtype="float32", feature_layers=layers), Reference(folder)


def test_features_are_the_hidden_states_of_transformers(subject: tuple[CausalModel, Reference]) -> None:
    model, reference = subject
    one, two = model.new_cache(), model.new_cache()
    model.forward([Step(one, TOKENS[:20], -1), Step(two, TOKENS[30:33], 3)])
    model.forward([Step(two, TOKENS[33:40], -1), Step(one, TOKENS[20:])])
    truth = reference.features(TOKENS, model.feature_layers)
    assert truth.std() > 0.5  # else the tolerance says little
    close(one.features(0, 60), truth)
    close(one.features(15, 33), truth[15:33])
    close(two.features(0, 10), reference.features(TOKENS[30:40], model.feature_layers))
    assert one.features(7, 7).shape == (0, len(model.feature_layers) * WIDTH)


@pytest.mark.parametrize("keep", [0, 1, 16, 33])
def test_what_was_rolled_back_is_forgotten(subject: tuple[CausalModel, Reference], keep: int) -> None:
    model, reference = subject
    cache = model.new_cache()
    model.forward([Step(cache, TOKENS[:34], -1)])
    cache.truncate(keep)
    with pytest.raises(ValueError, match=f"features: positions 0 to {keep + 1}; the cache holds {keep}"):
        cache.features(0, keep + 1)
    other = [*TOKENS[:keep], 5, 6, 7]
    model.forward([Step(cache, other[keep:], -1)])
    close(cache.features(0, keep + 3), reference.features(other, model.feature_layers))


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 11), (11, 11)])
def test_positions_that_are_not_held_have_no_features(
    subject: tuple[CausalModel, Reference], start: int, stop: int
) -> None:
    model, _ = subject
    cache = model.new_cache()
    model.forward([Step(cache, TOKENS[:10], -1)])
    with pytest.raises(ValueError, match=f"features: positions {start} to {stop}; the cache holds 10"):
        cache.features(start, stop)


@pytest.mark.parametrize("make", [make_tiny_llama, make_tiny_gpt2])
def test_a_model_asked_for_nothing_keeps_nothing(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    model = load_model(make(tmp_path), dtype="float32")
    cache = model.new_cache()
    model.forward([Step(cache, TOKENS[:10], -1)])
    assert model.feature_layers == ()
    with pytest.raises(ValueError, match="the model keeps none"):
        cache.features(0, 1)
    if isinstance(cache, LlamaCache):
        assert [block.features for block in cache.blocks] == [None]


@pytest.mark.parametrize("make", [make_tiny_llama, make_tiny_gpt2])
@pytest.mark.parametrize("layers", [(0,), (3,), (2, 1), (1, 1), (-1,)], ids=str)
def test_layers_that_are_not_there_are_refused(
    tmp_path: Path, make: Callable[[Path], Path], layers: tuple[int, ...]
) -> None:
    folder = make(tmp_path)
    with pytest.raises(ModelSourceError, match=r"feature_layers: \[.*\]; expected ascending numbers from 1 to 2"):
        load_model(folder, dtype="float32", feature_layers=layers)


# ---------------------------------------------------------------- the lean decoder's blocks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("llama"), layers=4)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


@pytest.fixture
def sharing(folder: Path) -> Llama:
    model = load_model(folder, dtype="float32", kv_tokens=20 * BLOCK, feature_layers=LAYERS)
    assert isinstance(model, Llama)
    return model


def run(model: Llama, text: list[int]) -> LlamaCache:
    """A cache that holds a committed text."""
    cache = model.new_cache(text)
    model.forward([Step(cache, text[cache.length :], -1)])
    cache.truncate(len(text))
    return cache


def test_a_model_that_is_cut_numbers_the_layers_it_runs(folder: Path) -> None:
    """Its last layer's feature is what its own head reads."""
    model = load_model(folder, dtype="float32", layers=2, feature_layers=(1, 2))
    cache = model.new_cache()
    logits = model.forward([Step(cache, TOKENS)])
    head = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).lm_head.weight
    close(cache.features(0, 60)[:, WIDTH:] @ head.T.detach(), logits)
    with pytest.raises(ModelSourceError, match="from 1 to 2"):
        load_model(folder, dtype="float32", layers=2, feature_layers=(3,))


def test_a_prompt_that_begins_alike_has_the_features_of_what_was_computed(sharing: Llama, reference: Reference) -> None:
    run(sharing, TOKENS)
    other = [*TOKENS[:40], 5, 6, 7]
    cache = sharing.new_cache(other)
    assert cache.length == 32
    close(cache.features(0, 32), reference.features(TOKENS[:32], LAYERS))
    sharing.forward([Step(cache, other[32:], -1)])
    close(cache.features(0, 43), reference.features(other, LAYERS))


def test_a_shared_block_that_is_cut_takes_its_features_along(sharing: Llama, reference: Reference) -> None:
    first = run(sharing, TOKENS[:48])
    second = sharing.new_cache(TOKENS[:48])
    second.truncate(20)
    sharing.forward([Step(second, [9, 9, 9], -1)])
    close(second.features(0, 23), reference.features([*TOKENS[:20], 9, 9, 9], LAYERS))
    close(first.features(0, 48), reference.features(TOKENS[:48], LAYERS))


def test_blocks_used_again_hold_the_features_of_their_new_text(sharing: Llama, reference: Reference) -> None:
    for start in range(30):  # 30 texts of 4 blocks through a pool of 20
        text = [start, *TOKENS[:59]]
        cache = run(sharing, text)
        if start % 7 == 0:
            close(cache.features(0, 60), reference.features(text, LAYERS))


@pytest.mark.parametrize("rows", [[0, 1, 3], [0, 2], [4, 5], []])
def test_the_chosen_path_of_a_tree_keeps_its_features(sharing: Llama, reference: Reference, rows: list[int]) -> None:
    """14 positions held: the tree lies across two blocks."""
    cache = run(sharing, TOKENS[:14])
    sharing.forward([Step(cache, TREE, 0, PARENTS)])
    cache.keep(14, rows)
    text = TOKENS[:14] + [TREE[row] for row in rows]
    close(cache.features(0, len(text)), reference.features(text, LAYERS))


def test_a_refused_forward_leaves_features_as_they_were(sharing: Llama, reference: Reference) -> None:
    one, two = run(sharing, TOKENS), sharing.new_cache()
    with pytest.raises(EngineError):
        sharing.forward([Step(one, [1], -1), Step(two, [1] * 280, -1)])
    close(one.features(0, 60), reference.features(TOKENS, LAYERS))


def test_bfloat16_features_stay_near_float32(folder: Path, reference: Reference) -> None:
    model = load_model(folder, dtype="bfloat16", feature_layers=LAYERS)
    cache = model.new_cache()
    model.forward([Step(cache, TOKENS, -1)])
    features, truth = cache.features(0, 60), reference.features(TOKENS, LAYERS)
    assert features.dtype == torch.bfloat16
    assert (features.float() - truth).abs().mean() < 8 * 2**-8 * truth.std()
