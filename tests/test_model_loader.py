"""Which decoder runs which folder, and what is said about folders that cannot be loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_tiny_gpt2, make_tiny_llama
from transformers import MambaConfig, MambaForCausalLM

from paceline.actors.causal_model import Step
from paceline.actors.errors import ModelSourceError
from paceline.actors.model_facts import eos_ids
from paceline.actors.model_loader import load_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_llama(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("make", [make_tiny_llama, make_tiny_gpt2])
def test_the_model_has_the_dtype_asked_for(make: Callable[[Path], Path], tmp_path: Path, dtype: str) -> None:
    model = load_model(make(tmp_path), dtype=dtype)
    assert (model.dtype, model.device, model.vocab_size) == (getattr(torch, dtype), torch.device("cpu"), 97)
    assert model.forward([Step(model.new_cache(), [1, 2, 3])]).dtype == getattr(torch, dtype)


def test_shards_are_one_model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    sharded = tmp_path_factory.mktemp("sharded")
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    for index, part in enumerate((names[::2], names[1::2]), start=1):
        save_file({name: weights[name] for name in part}, sharded / f"model-0000{index}-of-00002.safetensors")
    (sharded / "config.json").write_text((folder / "config.json").read_text())
    whole, parts = load_model(folder, dtype="float32"), load_model(sharded, dtype="float32")
    steps = [1, 5, 9]
    assert torch.equal(whole.forward([Step(whole.new_cache(), steps)]), parts.forward([Step(parts.new_cache(), steps)]))


def drop_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def edit_config(**change: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({k: v for k, v in (json.loads(path.read_text()) | change).items() if v is not None}))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "expected a JSON object"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"holds no \*.safetensors"),
        (cut_weights, "cannot be read .*fetch or copy"),
        (drop_tensor, r"lack the tensor 'model.layers.1.mlp.up_proj.weight'"),
        (edit_config(hidden_size=None), "missing or wrong: 'hidden_size'"),
        (edit_config(vocab_size=96), r"shape \(97, 48\); config.json says \(96, 48\)"),
        (edit_config(num_hidden_layers=3), "model.layers.2"),
        (edit_config(model_type="no-such-model"), "transformers cannot load it"),
    ],
)
def test_a_damaged_folder_is_named(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(ModelSourceError, match=message):
        load_model(folder, dtype="float32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int4"}, "dtype: 'int4'; expected one of float32, bfloat16, float16"),
        ({"dtype": "float32", "layers": 0}, "layers: 0; the model has 2, expected 1 to 2"),
        ({"dtype": "float32", "layers": 3}, "layers: 3"),
        ({"dtype": "float32", "device": "abacus"}, "device: 'abacus'; expected cpu"),
        ({"dtype": "float32", "device": "cuda:77"}, "device: 'cuda:77'; torch sees"),
    ],
)
def test_bad_arguments_are_refused(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelSourceError, match=message):
        load_model(folder, **arguments)


def test_early_exit_needs_the_lean_decoder(tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match="layers=1 is for Llama-like models; this 'gpt2' is run by transformers"):
        load_model(make_tiny_gpt2(tmp_path), dtype="float32", layers=1)


def test_a_recurrent_model_is_refused_since_it_cannot_roll_back(tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=97, hidden_size=16, state_size=4, num_hidden_layers=1)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelSourceError, match="recurrent state, which cannot be rolled back"):
        load_model(tmp_path, dtype="float32")


@pytest.mark.parametrize(
    ("generation", "config", "ids"),
    [
        ({"eos_token_id": [2, 7]}, {"eos_token_id": 5}, {2, 7}),
        ({"eos_token_id": 0}, {"eos_token_id": 5}, {0}),
        ({}, {"eos_token_id": 5}, {5}),
        (None, {"eos_token_id": [5]}, {5}),
        (None, {}, set()),
        ({"eos_token_id": None}, {"eos_token_id": None}, set()),
    ],
)
def test_ids_that_end_a_text(
    tmp_path: Path, generation: dict[str, Any] | None, config: dict[str, Any], ids: set[int]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert eos_ids(tmp_path) == ids
