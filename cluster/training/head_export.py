"""Between a trained head and its folder: weights of 8 bits, head.json, and the model card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from paceline.actors.errors import ConfigError
from paceline.actors.head_config import WEIGHTS_FILE, HeadConfig
from paceline.actors.head_weights import NORMS, head_tensors, matrix_shapes, read_head
from paceline.cluster.training.head_evaluation import DomainResult
from paceline.cluster.training.head_module import HeadModule


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a model card tells besides the figures."""

    target: str
    sources: Sequence[str]  # of the prompts, with their licences
    domains: Sequence[str]
    answers: int
    answer_tokens: int
    tokens_seen: int
    steps: int
    seed: int
    device: str
    expert_of: str
    levels: int
    temperature: float


def export_head(
    head: HeadModule, folder: Path, results: Mapping[str, DomainResult], calibration: float, about: Provenance
) -> HeadConfig:
    """Write a drafter folder, whole or not at all; one that is there is replaced.

    Args:
        head: Trained.
        folder: Where to.
        results: Of the evaluation, by domain.
        calibration: See `HeadConfig`.
        about: For the card.

    Raises:
        ConfigError: it cannot be written.
    """
    config = replace(head.config, calibration=calibration)
    part = folder.with_name(folder.name + ".part")
    matrices = {name: getattr(head, name).weight for name in matrix_shapes(config)}
    norms = {name: getattr(head, name) for name in NORMS}
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_file(head_tensors(matrices, norms, head.ids), part / WEIGHTS_FILE)
        config.write(part)
        size = (part / WEIGHTS_FILE).stat().st_size
        (part / "README.md").write_text(model_card(folder.name, config, results, about, size), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(part, folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise ConfigError(f"{folder}: cannot be written: {error}") from error
    return config


def load_module(folder: Path, embedding: torch.Tensor, output_rows: torch.Tensor) -> HeadModule:
    """A head to be trained on, from a folder.

    Args:
        folder: As `export_head` wrote it.
        embedding: The target's [vocab, width].
        output_rows: The target's output matrix [vocab, width].

    Raises:
        ModelSourceError: the folder holds no head.
        ConfigError: the head is for another target.
    """
    config = HeadConfig.read(folder)
    if (config.vocab_size, config.width) != tuple(embedding.shape):
        own = (config.vocab_size, config.width)
        raise ConfigError(f"{folder}: is for a vocabulary and width of {own}; the target has {tuple(embedding.shape)}")
    weights = read_head(folder / WEIGHTS_FILE, config)
    head = HeadModule(replace(config, calibration=1.0), embedding, output_rows, weights.ids)
    with torch.no_grad():
        for name in matrix_shapes(config):
            getattr(head, name).weight.copy_(weights.matrix(name))
        for name in NORMS:
            getattr(head, name).copy_(weights.vector(name))
    return head


def model_card(name: str, config: HeadConfig, results: Mapping[str, DomainResult], about: Provenance, size: int) -> str:
    """README.md of a drafter folder."""
    parameters = sum(outputs * inputs for outputs, inputs in matrix_shapes(config).values())
    origin = f", starting from `{about.expert_of}`" if about.expert_of else ""
    lines = [
        f"# {name}",
        "",
        f"A draft head of paceline for {about.target}: one decoder layer over the target's features, "
        f"{parameters / 1e6:.1f} million weights of 8 bits ({size / 1e6:.1f} MB), {config.draft_vocab:,} draft tokens. "
        "It drafts for that target only; the target's text is the same with and without it.",
        "",
        "## Training",
        "",
        f"- Text: {about.answers:,} answers of the target, {about.answer_tokens:,} tokens"
        f" (half of them greedy, loops cut out); prompts of {', '.join(about.domains)}.",
        *(f"- Source of prompts: {source}" for source in about.sources),
        f"- Steps: {about.steps:,}, {about.tokens_seen:,} positions seen{origin}; seed {about.seed}, "
        f"device {about.device}.",
        f"- Features: the target's layers {', '.join(map(str, config.feature_layers))}; "
        f"{2 * len(config.feature_layers) * config.width:,} bytes a token.",
        "",
        f"## Tokens per round on held-out prompts (chains of {about.levels}, the bonus token included)",
        "",
        f"| domain | greedy | temperature {about.temperature:g} |",
        "|---|---|---|",
        *(
            f"| {domain} | {result.tokens_per_round:.2f} | {result.sampled_tokens_per_round:.2f} |"
            for domain, result in sorted(results.items())
        ),
        "",
        f"Deeper levels of a chain accept {config.calibration:.2f} times as often as the first does.",
        "",
    ]
    return "\n".join(lines)
