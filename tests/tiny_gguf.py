"""A tiny GGUF of the kind that the embedded model is, written with gguf's own writer, from a tiny Llama's weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize
from tokenizers import pre_tokenizers

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "ll", "hell", "hello", "Ġhello"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ hello"]
HEADS, KV_HEADS, WIDTH, INNER, LAYERS = 4, 2, 64, 96, 2
_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def tiny_weights(tied: bool, seed: int = 0) -> dict[str, torch.Tensor]:
    """Hugging Face names to float32 weights that Q8_0 and bfloat16 both hold exactly.

    They are multiples of 1/1024 up to 127, and every block of 32 has one of 127, which makes Q8_0's scale 1/1024.
    """
    generator = torch.Generator().manual_seed(seed)
    kv = WIDTH // HEADS * KV_HEADS
    shapes = {"model.embed_tokens.weight": (len(TOKENS), WIDTH), "model.norm.weight": (WIDTH,)}
    if not tied:
        shapes["lm_head.weight"] = (len(TOKENS), WIDTH)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}{norm}_layernorm.weight": (WIDTH,) for norm in ("input", "post_attention")}
        shapes |= {f"{at}self_attn.{part}_proj.weight": (WIDTH, WIDTH) for part in "qo"}
        shapes |= {f"{at}self_attn.{part}_proj.weight": (kv, WIDTH) for part in "kv"}
        shapes |= {f"{at}mlp.{part}_proj.weight": (INNER, WIDTH) for part in ("gate", "up")}
        shapes[f"{at}mlp.down_proj.weight"] = (WIDTH, INNER)
    weights = {name: torch.randint(-127, 128, shape, generator=generator) / 1024 for name, shape in shapes.items()}
    for values in weights.values():
        values[..., ::32] = 127 / 1024
    return weights


def write_tiny_gguf(
    path: Path,
    *,
    tied: bool = True,
    architecture: str = "llama",
    pre: str = "smollm",
    extra_tensor: str | None = None,
    without: str | None = None,
) -> dict[str, torch.Tensor]:
    """Write the file; the arguments bend it into files that cannot be exported.

    Returns:
        The weights that went in, by their Hugging Face names.
    """
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    if without != "rope":
        writer.add_rope_freq_base(100000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types(
        [TokenType.CONTROL if token in SPECIAL else TokenType.NORMAL for token in TOKENS],
    )
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    weights = tiny_weights(tied)
    for name, values in weights.items():
        _add(writer, name, values)
    if extra_tensor:
        writer.add_tensor(extra_tensor, np.zeros(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def _add(writer: GGUFWriter, name: str, values: torch.Tensor) -> None:
    prefix, layer, part = "", "", name
    if name.startswith("model.layers."):
        layer, _, part = name.removeprefix("model.layers.").partition(".")
        prefix = f"blk.{layer}."
    data = values.numpy()
    if part.startswith(("self_attn.q", "self_attn.k")):
        heads = HEADS if ".q_" in part else KV_HEADS
        halves = data.reshape(heads, 2, -1, WIDTH)  # as llama.cpp's converter interleaves the two halves of a head
        data = halves.swapaxes(1, 2).reshape(data.shape)
    if data.ndim == 2:
        packed = quantize(np.ascontiguousarray(data), GGMLQuantizationType.Q8_0)
        writer.add_tensor(prefix + _NAMES[part], packed, raw_dtype=GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(prefix + _NAMES[part], data)
