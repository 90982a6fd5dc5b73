"""From a GGUF file of a Llama model to a folder that every reader of Hugging Face models understands.

The one idea: dequantise once, so that nothing else here needs to know GGUF. Weights become bfloat16 safetensors;
vocabulary, merges and chat template become tokenizer.json and tokenizer_config.json. `model_source` calls `export`, in
a folder that it renames into place afterwards; its EXPORT_VERSION goes up when the files written here change.

GGUF's llama layout permutes the rows of Q and K for interleaved rotary pairs (2i, 2i + 1); Hugging Face pairs
(i, i + d/2), and so the permutation is undone here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, ReaderTensor, TokenType
from gguf.quants import dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm

from paceline.actors.errors import ModelSourceError

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}


def export(gguf_path: Path, folder: Path, *, progress: bool = True) -> None:
    """Write config.json, generation_config.json, model.safetensors and the tokenizer's files into `folder`.

    Args:
        gguf_path: A GGUF file of architecture `llama` with a byte-level BPE vocabulary (`smollm`).
        folder: An existing folder; files of the same names are overwritten.
        progress: Show a bar on standard error.

    Raises:
        ModelSourceError: the file is not GGUF, or is of a kind that is not understood.
        OSError: the files cannot be written.
    """
    try:
        reader = GGUFReader(gguf_path)
    except ValueError as error:
        raise ModelSourceError(f"{gguf_path}: not a GGUF file ({error})") from error
    metadata = _Metadata(reader, gguf_path)
    metadata.expect("general.architecture", "llama")
    metadata.expect("tokenizer.ggml.model", "gpt2")
    metadata.expect("tokenizer.ggml.pre", "smollm")
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    config = _config(metadata, tied)
    _write_json(folder / "config.json", config)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", ids)
    _write_tokenizer(metadata, config, folder)
    _write_weights(reader.tensors, config, folder / "model.safetensors", progress)


class _Metadata:
    """The key-value part of a GGUF file."""

    def __init__(self, reader: GGUFReader, path: Path) -> None:
        self._fields = reader.fields
        self._path = path

    def get(self, key: str) -> Any:
        if key not in self._fields:
            raise ModelSourceError(f"{self._path}: the GGUF file lacks {key}")
        return self._fields[key].contents()

    def expect(self, key: str, value: str) -> None:
        if self.get(key) != value:
            raise ModelSourceError(f"{self._path}: {key} is {self.get(key)!r}; only {value!r} can be exported")


def _config(metadata: _Metadata, tied: bool) -> dict[str, Any]:
    heads = int(metadata.get("llama.attention.head_count"))
    width = int(metadata.get("llama.embedding_length"))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(metadata.get("tokenizer.ggml.tokens")),
        "hidden_size": width,
        "intermediate_size": int(metadata.get("llama.feed_forward_length")),
        "num_hidden_layers": int(metadata.get("llama.block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(metadata.get("llama.attention.head_count_kv")),
        "head_dim": width // heads,
        "hidden_act": "silu",
        "max_position_embeddings": int(metadata.get("llama.context_length")),
        # GGUF stores float32; the nearest short decimal is the number that was meant (1e-05, not 9.99999974e-06).
        "rms_norm_eps": float(f"{metadata.get('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(metadata.get("llama.rope.freq_base"))},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": int(metadata.get("tokenizer.ggml.bos_token_id")),
        "eos_token_id": int(metadata.get("tokenizer.ggml.eos_token_id")),
        "pad_token_id": int(metadata.get("tokenizer.ggml.padding_token_id")),
        "dtype": "bfloat16",
    }


def _write_tokenizer(metadata: _Metadata, config: dict[str, Any], folder: Path) -> None:
    tokens: list[str] = metadata.get("tokenizer.ggml.tokens")
    kinds: list[int] = metadata.get("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in metadata.get("tokenizer.ggml.merges")]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",  # takes tokenizer.json as it is
            "bos_token": tokens[config["bos_token_id"]],
            "eos_token": tokens[config["eos_token_id"]],
            "pad_token": tokens[config["pad_token_id"]],
            "unk_token": tokens[metadata.get("tokenizer.ggml.unknown_token_id")],
            "model_max_length": config["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
            "chat_template": metadata.get("tokenizer.chat_template"),
        },
    )


def _write_weights(tensors: list[ReaderTensor], config: dict[str, Any], path: Path, progress: bool) -> None:
    weights = {}
    with tqdm(tensors, desc="dequantising", unit="tensor", disable=not progress, leave=False) as bar:
        for tensor in bar:
            values = dequantize(tensor.data, tensor.tensor_type)  # [rows, columns] float32
            if tensor.name.endswith("attn_q.weight"):
                values = _unpermute(values, config["num_attention_heads"])
            elif tensor.name.endswith("attn_k.weight"):
                values = _unpermute(values, config["num_key_value_heads"])
            # dequantize may hand out a view of the mapped, read-only file; the cast to bfloat16 copies.
            weights[_hf_name(tensor.name)] = torch.from_numpy(np.require(values, requirements="W")).bfloat16()
    save_file(weights, path, metadata={"format": "pt"})
    shutil.copymode(path.parent / "config.json", path)  # safetensors writes 0600; the cache may be shared


def _unpermute(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of each head from pairs (2i, 2i+1) back to halves (i, i + d/2)."""
    rows, columns = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


def _hf_name(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    prefix, _, rest = name.partition(".")
    layer, _, part = rest.partition(".")
    if prefix != "blk" or part not in _LAYER:
        raise ModelSourceError(f"tensor {name!r} of the GGUF file has no place in a plain Llama model")
    return f"model.layers.{layer}.{_LAYER[part]}"


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
