"""What the lean decoder adds to the contract of `test_causal_model`: early exit, low precision, cache growth, masks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import make_tiny_llama
from transformers import AutoModelForCausalLM

from paceline.actors import llama_cache
from paceline.actors.causal_model import Step
from paceline.actors.llama import Llama
from paceline.actors.llama_cache import LlamaCache
from paceline.actors.llama_config import LlamaConfig
from paceline.actors.model_loader import load_model

TOKENS = [(i * i + 3) % 97 for i in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("llama"), layers=4)


@pytest.mark.parametrize("layers", [1, 3, 4])
def test_early_exit_is_the_first_layers_then_norm_and_head(folder: Path, layers: int) -> None:
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    reference.model.layers = reference.model.layers[:layers]
    with torch.inference_mode():
        truth = reference(torch.tensor([TOKENS]), use_cache=False).logits[0]
    model = load_model(folder, dtype="float32", layers=layers)
    cache = model.new_cache()
    torch.testing.assert_close(model.forward([Step(cache, TOKENS)]), truth, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_low_precision_stays_near_float32(folder: Path, dtype: str, bound: float) -> None:
    """Mean error within 8 roundings of the logits' spread; a sum kept in the low precision would be far outside."""
    exact = load_model(folder, dtype="float32")
    rough = load_model(folder, dtype=dtype)
    truth = exact.forward([Step(exact.new_cache(), TOKENS)])
    logits = rough.forward([Step(rough.new_cache(), TOKENS)])
    assert logits.dtype == getattr(torch, dtype)
    assert (logits.float() - truth).abs().mean() < 8 * bound * truth.std()


def test_the_cache_doubles_and_keeps_what_it_holds(folder: Path) -> None:
    model = load_model(folder, dtype="float32")
    grown, whole = model.new_cache(), model.new_cache()
    assert isinstance(grown, LlamaCache)
    text = TOKENS * 5
    capacities = set()
    for at in range(0, 300, 60):
        last = model.forward([Step(grown, text[at : at + 60], -1)])
        capacities.add(grown.capacity)
    assert capacities == {llama_cache.FIRST_POSITIONS, 2 * llama_cache.FIRST_POSITIONS, 4 * llama_cache.FIRST_POSITIONS}
    torch.testing.assert_close(last, model.forward([Step(whole, text, -1)]), atol=1e-4, rtol=0)


def test_the_buffer_never_outgrows_the_models_positions() -> None:
    cache = LlamaCache(torch.empty(1, 2, 0, 4), max_positions=200)
    assert cache.extend(150).shape == (1, 2, 150, 4)
    assert cache.capacity == 200
    with pytest.raises(ValueError, match="201 positions; the model has 200"):
        cache.extend(51)
    assert cache.length == 150


def test_long_prompts_do_not_build_a_square_mask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask holds at most one block of queries, however long the prompt."""
    sizes = []
    plain = Llama._mask

    def recorded(self: Llama, size: int, width: int) -> torch.Tensor:
        sizes.append(size)
        return plain(self, size, width)

    monkeypatch.setattr(Llama, "_mask", recorded)
    model = load_model(folder, dtype="float32")
    model.forward([Step(model.new_cache(), [1] * 500, -1), Step(model.new_cache(), [2] * 500, -1)])
    assert sizes == [128, 500 % 128]


PLAIN = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 512,
}


def test_configurations_of_both_transformers_generations_are_read() -> None:
    old = LlamaConfig.parse(PLAIN | {"rope_theta": 5e5})
    new = LlamaConfig.parse(PLAIN | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})
    assert old == new
    assert old is not None
    assert (old.kv_heads, old.head_dim, old.rope["rope_theta"]) == (6, 8, 5e5)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gpt2"},
        {"model_type": "mistral", "sliding_window": 4096},
        {"model_type": "qwen2", "use_sliding_window": True},
        {"hidden_act": "gelu"},
        {"mlp_bias": True},
        {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"partial_rotary_factor": 0.5},
        {"quantization_config": {"quant_method": "gptq"}},
    ],
    ids=str,
)
def test_what_would_be_computed_wrongly_is_left_to_transformers(change: dict[str, object]) -> None:
    assert LlamaConfig.parse(PLAIN | change) is None
