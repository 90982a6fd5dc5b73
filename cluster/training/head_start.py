"""A head before its first step: the target's last layer, entered through an average of what it will be fed.

A layer that was trained to end in the target's own head needs far less data than one that starts from nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from paceline.actors.checkpoint import Checkpoint
from paceline.actors.errors import ConfigError
from paceline.actors.head_config import HeadConfig
from paceline.actors.llama_config import LlamaConfig
from paceline.actors.model_facts import read_json
from paceline.cluster.training.head_module import HeadModule


def draft_ids(answers: Iterable[Sequence[int]], size: int, vocab_size: int) -> torch.Tensor:
    """The `size` ids that the target's answers use most, ascending; ids never used fill up from the lowest.

    Returns:
        [size] int64.
    """
    counts = Counter(token for answer in answers for token in answer)
    often = [token for token, _ in counts.most_common(size)]
    chosen = set(often)
    rest = (token for token in range(vocab_size) if token not in chosen)
    often += [token for token, _ in zip(rest, range(size - len(often)), strict=False)]
    return torch.tensor(sorted(often))


def target_facts(target: Path) -> LlamaConfig:
    """A target's shapes.

    Raises:
        ConfigError: it is of another family than Llama's.
        ModelSourceError: its config.json cannot be read.
    """
    facts = LlamaConfig.parse(read_json(target / "config.json"))
    if facts is None:
        raise ConfigError(f"target: {target}: a head can be trained for models of the Llama family only")
    return facts


def feature_layers(asked: Sequence[int], last: int) -> tuple[int, ...]:
    """The target's layers that feed a head: those asked for, else a third of the way, two thirds, and the last.

    Args:
        asked: Empty for the default.
        last: The target's last layer, which must be among them: it is also the teacher.

    Raises:
        ConfigError: they do not ascend from 1 on to the last.
    """
    layers = tuple(asked) or tuple(sorted({max(1, last // 3), max(1, 2 * last // 3), last}))
    if list(layers) != sorted(set(layers)) or layers[0] < 1 or layers[-1] != last:
        raise ConfigError(f"feature_layers: expected ascending layers from 1 on, the last {last}, got {list(layers)}")
    return layers


def target_matrices(target: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """A target's embedding and output matrix, both [vocab, width] bfloat16; one tensor where they are tied.

    Raises:
        ConfigError: it is of another family than Llama's.
        ModelSourceError: its weights cannot be read.
    """
    checkpoint = Checkpoint(target, torch.device("cpu"), torch.bfloat16)
    embedding = checkpoint.tensor("model.embed_tokens.weight")
    return embedding, embedding if target_facts(target).tied else checkpoint.tensor("lm_head.weight")


def new_head(
    target: Path, ids: torch.Tensor, layers: Sequence[int], window: int, inner: int | None, seed: int
) -> HeadModule:
    """A head for a target.

    Args:
        target: The target's folder; it must be of the Llama family.
        ids: [draft_vocab] of the draft vocabulary.
        layers: As `feature_layers` gives them.
        window: A prompt's last tokens that the head looks at.
        inner: Width of the gated layer; None for the target's own. A smaller one keeps the largest gates.
        seed: Of what is not taken from the target.

    Raises:
        ConfigError: the target is of another family.
        ModelSourceError: its weights cannot be read.
    """
    facts = target_facts(target)
    checkpoint = Checkpoint(target, torch.device("cpu"), torch.float32)
    at = f"model.layers.{facts.layers - 1}."
    gate, up = (checkpoint.tensor(f"{at}mlp.{name}_proj.weight") for name in ("gate", "up"))
    down = checkpoint.tensor(f"{at}mlp.down_proj.weight")
    kept = torch.arange(len(gate))
    if inner is not None and inner < len(gate):
        kept = (gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)).topk(inner).indices.sort().values
    config = HeadConfig(
        vocab_size=facts.vocab_size,
        width=facts.width,
        heads=facts.heads,
        kv_heads=facts.kv_heads,
        head_dim=facts.head_dim,
        inner=len(kept),
        rope_theta=float(facts.rope["rope_theta"]),
        rms_eps=facts.rms_eps,
        draft_vocab=len(ids),
        feature_layers=tuple(layers),
        window=window,
    )
    torch.manual_seed(seed)
    head = HeadModule(config, *target_matrices(target), ids)
    with torch.no_grad():
        eye = torch.eye(facts.width)
        head.fuse.weight.normal_(std=0.01)
        head.fuse.weight[:, -facts.width :] += eye
        head.enter.weight.normal_(std=0.01)
        head.enter.weight[:, : facts.width] += 0.5 * eye
        head.enter.weight[:, facts.width :] += eye
        head.attention_norm.copy_(checkpoint.tensor(f"{at}input_layernorm.weight"))
        names = [f"{at}self_attn.{name}_proj.weight" for name in "qkv"]
        head.qkv.weight.copy_(torch.cat([checkpoint.tensor(name) for name in names]))
        head.output.weight.copy_(checkpoint.tensor(f"{at}self_attn.o_proj.weight"))
        head.mlp_norm.copy_(checkpoint.tensor(f"{at}post_attention_layernorm.weight"))
        head.gate_up.weight.copy_(torch.cat((gate[kept], up[kept])))
        head.down.weight.copy_(down[:, kept])
        head.norm.copy_(checkpoint.tensor("model.norm.weight"))
    return head
