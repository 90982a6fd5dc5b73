"""What the lean decoder adds to `test_causal_model`'s contract: early exit, low precision, shared blocks, trees."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from tiny_models import make_tiny_llama
from transformers import AutoModelForCausalLM

from paceline.actors.causal_model import Step
from paceline.actors.errors import EngineError, ModelSourceError
from paceline.actors.kv_pool import KVPool
from paceline.actors.llama import Llama
from paceline.actors.llama_cache import LlamaCache
from paceline.actors.llama_config import LlamaConfig
from paceline.actors.model_loader import load_model
from paceline.kernels.decoder_ops import BLOCK

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


def logits_after(model: Llama, text: list[int]) -> torch.Tensor:
    return model.forward([Step(model.new_cache(), text, -1)])[0]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@pytest.fixture
def sharing(folder: Path) -> Llama:
    model = load_model(folder, dtype="float32", kv_tokens=20 * BLOCK)
    assert isinstance(model, Llama)
    return model


def run(model: Llama, text: list[int]) -> LlamaCache:
    """A cache that holds a committed text."""
    cache = model.new_cache(text)
    model.forward([Step(cache, text[cache.length :], -1)])
    cache.truncate(len(text))
    return cache


def test_a_prompt_that_begins_alike_takes_what_was_computed(sharing: Llama) -> None:
    first = run(sharing, TOKENS)
    other = [*TOKENS[:40], 5, 6, 7]
    cache = sharing.new_cache(other)
    assert cache.length == 32  # whole blocks
    assert cache.blocks == first.blocks[:2]
    close(sharing.forward([Step(cache, other[32:], -1)])[0], logits_after(sharing, other))


def test_the_last_token_of_a_known_prompt_is_still_run(sharing: Llama) -> None:
    run(sharing, TOKENS[:32])
    assert sharing.new_cache(TOKENS[:32]).length == 16
    assert sharing.new_cache(TOKENS[:33]).length == 32


def test_a_draft_that_was_refused_is_never_shared(sharing: Llama) -> None:
    cache = run(sharing, TOKENS[:30])
    sharing.forward([Step(cache, [1, 2, 3, 4], -1)])  # fills the second block
    assert sharing.new_cache([*TOKENS[:30], 1, 2, 3, 4, 5]).length == 16
    cache.truncate(30)
    assert sharing.new_cache([*TOKENS[:30], 1, 2, 3, 4, 5]).length == 16


def test_to_go_on_from_the_middle_of_a_shared_block_leaves_it_to_the_others(sharing: Llama) -> None:
    first = run(sharing, TOKENS[:48])
    second = sharing.new_cache(TOKENS[:48])
    second.truncate(20)
    sharing.forward([Step(second, [9, 9, 9], -1)])
    close(sharing.forward([Step(second, [1], -1)])[0], logits_after(sharing, [*TOKENS[:20], 9, 9, 9, 1]))
    close(sharing.forward([Step(first, [1], -1)])[0], logits_after(sharing, [*TOKENS[:48], 1]))


def test_caches_that_are_gone_leave_their_blocks_to_the_next(sharing: Llama) -> None:
    pool = sharing.pool
    for start in range(30):  # 30 texts of 4 blocks through a pool of 20
        run(sharing, [start, *TOKENS[:59]])
        assert pool.held == 0
    assert pool.cached == 19  # three blocks of each text, and of the oldest that is left its beginning
    assert sharing.new_cache([29, *TOKENS[:59]]).length == 48
    assert sharing.new_cache([0, *TOKENS[:59]]).length == 0


def test_a_full_pool_refuses_and_leaves_every_cache_as_it_was(sharing: Llama) -> None:
    one, two = run(sharing, TOKENS), sharing.new_cache()
    with pytest.raises(EngineError, match="all 20 blocks of 16 positions are in use"):
        sharing.forward([Step(one, [1], -1), Step(two, [1] * 280, -1)])
    assert (one.length, two.length) == (60, 0)
    close(sharing.forward([Step(one, [1], -1)])[0], logits_after(sharing, [*TOKENS, 1]))


def test_without_a_bound_nothing_is_shared(folder: Path) -> None:
    model = load_model(folder, dtype="float32")
    assert isinstance(model, Llama)
    run(model, TOKENS)
    assert model.new_cache(TOKENS).length == 0
    assert (model.pool.held, model.pool.cached) == (0, 0)
    with pytest.raises(ValueError, match="max_blocks: None"):
        KVPool(torch.empty(1, 1, 2, 16), share=True)


TREE = [7, 8, 9, 10, 11, 12]
PARENTS = [-1, 0, 0, 1, -1, 4]
PATHS = {0: [7], 1: [7, 8], 2: [7, 9], 3: [7, 8, 10], 4: [11], 5: [11, 12]}


def test_every_node_of_a_tree_sees_its_own_path(sharing: Llama) -> None:
    cache, chain = run(sharing, TOKENS), run(sharing, TOKENS[:20])
    long = run(sharing, TOKENS[:5])
    steps = [
        Step(chain, [1, 2, 3], -1),
        Step(cache, TREE, 0, PARENTS),
        Step(long, [4] * 100, -1),  # more rows than a tree may have
    ]
    logits = sharing.forward(steps)
    close(logits[0], logits_after(sharing, [*TOKENS[:20], 1, 2, 3]))
    for node, path in PATHS.items():
        close(logits[1 + node], logits_after(sharing, TOKENS + path))
    close(logits[7], logits_after(sharing, TOKENS[:5] + [4] * 100))


@pytest.mark.parametrize("rows", [[0, 1, 3], [0, 2], [4, 5], []])
def test_the_chosen_path_of_a_tree_is_kept(sharing: Llama, rows: list[int]) -> None:
    """14 positions held: the tree lies across two blocks."""
    cache = run(sharing, TOKENS[:14])
    sharing.forward([Step(cache, TREE, 0, PARENTS)])
    cache.keep(14, rows)
    text = TOKENS[:14] + [TREE[row] for row in rows]
    assert cache.length == len(text)
    close(sharing.forward([Step(cache, [3], -1)])[0], logits_after(sharing, [*text, 3]))


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ([-1, 0], "parents: 2 of 3 tokens"),
        ([-1, 1, 0], "parents: 1 of token 1; expected -1 to 0"),
        ([-2, 0, 0], "parents: -2 of token 0"),
    ],
)
def test_what_is_no_tree_is_refused(sharing: Llama, parents: list[int], message: str) -> None:
    cache = run(sharing, TOKENS[:5])
    with pytest.raises(ValueError, match=re.escape(message)):
        sharing.forward([Step(cache, [1, 2, 3], 0, parents)])
    assert cache.length == 5


@pytest.mark.parametrize("rows", [[1, 0], [0, 0], [6], [-1]])
def test_rows_that_are_not_held_are_not_kept(sharing: Llama, rows: list[int]) -> None:
    cache = run(sharing, TOKENS[:20])
    with pytest.raises(ValueError, match="from position 14 on; expected ascending ones below 6"):
        cache.keep(14, rows)
    assert cache.length == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 1}, r"k_proj.weight: shape \(32, 48\); config.json says \(16, 48\)"),
        ({"num_attention_heads": 3, "num_key_value_heads": 1}, r"q_proj.weight: shape \(96, 48\)"),
        ({"vocab_size": 90}, r"embed_tokens.weight: shape \(97, 48\)"),
    ],
    ids=str,
)
def test_weights_of_other_shapes_than_the_configuration_says_are_refused(
    folder: Path, tmp_path: Path, change: dict[str, int], message: str
) -> None:
    """The compiled ops would read and write beyond them."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelSourceError, match=message):
        load_model(tmp_path, dtype="float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_part_of_a_prompt_may_want_no_logits(tmp_path: Path, dtype: str) -> None:
    """A vocabulary whose head has a kernel for few rows, of which none is not one."""
    model = load_model(make_tiny_llama(tmp_path, vocab_size=96), dtype=dtype)
    cache = model.new_cache()
    assert model.forward([Step(cache, [1, 2, 3], 3)]).shape == (0, 96)
    assert cache.length == 3


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
