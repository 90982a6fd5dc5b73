"""Between a trained head and its folder: weights of 8 bits, head.json, and the model card."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from paceline.actors.errors import ConfigError
from paceline.actors.head_config import CONFIG_FILE, FORMAT, WEIGHTS_FILE, HeadConfig
from paceline.actors.head_weights import NORMS, head_tensors, matrix_shapes, read_head
from paceline.cluster.training.head_evaluation import DomainResult, calibration
from paceline.cluster.training.head_module import HeadModule
from paceline.cluster.training.loss_plot import plot_training


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a model card tells besides the figures."""

    target: str
    sources: Sequence[str]  # of the prompts, with their licences
    domains: Sequence[str]
    answers: int
    answer_tokens: int
    greedy_share: float  # of the answers
    tokens_seen: int
    steps: int
    seed: int
    device: str
    expert_of: str
    start: Mapping[str, float]  # tokens per round of that head on the same prompts, by domain; empty: of none
    levels: int


def check_output(folder: Path, data: Path) -> None:
    """See that a head may be written to a folder: what it holds then will be replaced.

    Args:
        folder: Where to.
        data: The folder of answers and features, which must outlive it.

    Raises:
        ConfigError: it holds something else than a head, or is not to be had, or the data are in it.
    """
    if folder.resolve() in (data.resolve(), *data.resolve().parents):
        raise ConfigError(f"data: {data} is in the output folder {folder}, which is replaced; give another folder")
    try:
        if not folder.exists() or not any(folder.iterdir()):
            return
        document = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        document = None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConfigError(f"output: {folder} is there, and no draft head; expected a new, an empty, or a head's folder")


def export_head(
    head: HeadModule,
    folder: Path,
    log: Path,
    evaluate: Callable[[HeadModule], Mapping[str, DomainResult]],
    about: Provenance,
) -> Mapping[str, DomainResult]:
    """Write a drafter folder, whole or not at all; one that is there is replaced.

    Args:
        head: Trained.
        folder: Where to.
        log: `loss.jsonl` of the training.
        evaluate: Measures the head that is in the folder, whose weights have 8 bits.
        about: For the card.

    Returns:
        What was measured, by domain.

    Raises:
        OSError: it cannot be written; or SafetensorError.
    """
    part = folder.with_name(folder.name + ".part")
    matrices = {name: getattr(head, name).weight for name in matrix_shapes(head.config)}
    norms = {name: getattr(head, name) for name in NORMS}
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        save_file(head_tensors(matrices, norms, head.ids), part / WEIGHTS_FILE)
        head.config.write(part)
        results = evaluate(load_module(part, head.embedding, head.output_rows).to(head.norm.device))
        config = replace(head.config, calibration=calibration(results.values()))
        config.write(part)
        size = (part / WEIGHTS_FILE).stat().st_size
        (part / "README.md").write_text(model_card(folder.name, config, results, about, size), encoding="utf-8")
        plot_training(log, part / "training.png", folder.name)
        _put(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return results


def _put(part: Path, folder: Path) -> None:
    """Move a folder to where another may be, which is deleted last."""
    if not folder.exists():
        os.replace(part, folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}.old-", dir=folder.parent))
    old = aside / folder.name
    os.replace(folder, old)
    try:
        os.replace(part, folder)
    except OSError:
        os.replace(old, folder)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


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
        f" ({about.greedy_share:.0%} of the answers greedy, loops cut out); prompts of {', '.join(about.domains)}.",
        *(f"- Source of prompts: {source}" for source in about.sources),
        f"- Steps: {about.steps:,}, {about.tokens_seen:,} positions seen{origin}; seed {about.seed}, "
        f"device {about.device}.",
        f"- Features: the target's layers {', '.join(map(str, config.feature_layers))}; "
        f"{2 * len(config.feature_layers) * config.width:,} bytes a token.",
        "",
        f"## Tokens per round on held-out prompts (chains of {about.levels}, the bonus token included)",
        "",
        "| domain | greedy |" + (f" `{about.expert_of}` |" if about.start else ""),
        "|---|---|" + ("---|" if about.start else ""),
        *(
            f"| {domain} | {result.tokens_per_round:.2f} |" + (f" {about.start[domain]:.2f} |" if about.start else "")
            for domain, result in sorted(results.items())
        ),
        "",
        f"What catching up measures is multiplied by {config.calibration:.2f}, so that it tells the length of chains.",
        "",
    ]
    return "\n".join(lines)
