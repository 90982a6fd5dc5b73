"""`paceline train`: a draft head for one's own target from one's own prompts, in stages that go on where they stopped.

answers     the target answers the prompts                      DATA/answers.jsonl, DATA/test.jsonl
features    its hidden states over prompts' ends and answers    DATA/features/, DATA/test-features/
train       the head, from the target's last layer or another head    OUTPUT.training/
evaluate    tokens per round by domain on held-out prompts
export      head.json, weights of 8 bits, model card, plot      OUTPUT/
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from paceline.actors.checkpoint import Checkpoint
from paceline.actors.errors import ConfigError
from paceline.actors.llama_config import LlamaConfig
from paceline.actors.model_facts import read_json
from paceline.actors.model_loader import load_model
from paceline.actors.model_source import resolve
from paceline.cluster.tokenizer import ChatTokenizer
from paceline.cluster.training import data_stages
from paceline.cluster.training.answer_store import Answer, AnswerStore
from paceline.cluster.training.feature_store import Passage, read_shards
from paceline.cluster.training.head_evaluation import DomainResult, calibration, evaluate_head
from paceline.cluster.training.head_export import Provenance, export_head, load_module
from paceline.cluster.training.head_module import HeadModule
from paceline.cluster.training.head_start import draft_ids, new_head
from paceline.cluster.training.head_training import Progress as Step
from paceline.cluster.training.head_training import TrainingPlan, train_head
from paceline.cluster.training.loss_plot import plot_training
from paceline.cluster.training.train_settings import TrainSettings

logger = logging.getLogger(__name__)

DRAFT_LENGTH = 7
TEMPERATURE = 0.7


def train(settings: TrainSettings, console: Console | None = None) -> int:
    """Run all stages; what an earlier run did is kept. Returns the exit status.

    Raises:
        ConfigError: a setting or file is wrong, or the disk is full.
        ModelSourceError: the target cannot be had.
    """
    console = console or Console()
    source = resolve(settings.data.target)
    device = data_stages.device_of(settings.device)
    facts = LlamaConfig.parse(read_json(source.path / "config.json"))
    if facts is None:
        raise ConfigError(f"target: {source.path}: heads are for targets of the Llama family")
    layers = settings.data.feature_layers or (facts.layers // 3, 2 * facts.layers // 3, facts.layers)
    if layers[-1] != facts.layers or list(layers) != sorted(set(layers)):
        raise ConfigError(f"feature_layers: expected ascending layers, the last {facts.layers}, got {list(layers)}")
    settings.data.claim(settings.data_folder)
    with _progress(console) as bars:
        answers, passages, tests = _data(settings, source.path, layers, facts.width, bars)
        head = _head(settings, source.path, layers, answers)
        plan = TrainingPlan(
            steps=settings.steps,
            batch_tokens=settings.batch_tokens,
            levels=settings.levels,
            learning_rate=settings.learning_rate,
            seed=settings.data.seed,
        )
        scratch = settings.output.with_name(settings.output.name + ".training")
        last = _train(head, passages, tests, plan, scratch, bars, str(device))
        bar = bars.add_task("evaluate", total=None, rate="")
        results = evaluate_head(head, tests, DRAFT_LENGTH, TEMPERATURE)
        bars.update(bar, total=1, completed=1)
    domains = sorted({passage.domain for passage in passages})
    about = Provenance(
        target=source.name,
        sources=settings.sources,
        domains=domains,
        answers=len(passages),
        answer_tokens=sum(len(passage.tokens) - passage.prompt_tokens for passage in passages),
        tokens_seen=last.tokens,
        steps=last.step,
        seed=settings.data.seed,
        device=str(device),
        expert_of=settings.expert_of.name if settings.expert_of else "",
        levels=DRAFT_LENGTH,
        temperature=TEMPERATURE,
    )
    export_head(head, settings.output, results, calibration(results.values()), about)
    plot_training(scratch / "loss.jsonl", settings.output / "training.png", settings.output.name)
    console.print(_table(settings.output.name, results))
    use = f"  - name: {settings.output.name}\n    kind: head\n    options: {{model: {settings.output.resolve()}}}"
    console.print(f"{settings.output}: written. To use it, add to the drafters of a configuration:", soft_wrap=True)
    console.print(use, soft_wrap=True)
    return 0


def _data(
    settings: TrainSettings, target: Path, layers: tuple[int, ...], width: int, bars: Progress
) -> tuple[list[Answer], list[Passage], list[Passage]]:
    """Answers to train on, their passages, and those to measure on."""
    data, folder = settings.data, settings.data_folder
    tokenizer = ChatTokenizer(target)
    model = load_model(target, dtype="bfloat16", device=settings.device, feature_layers=layers)
    found: list[list[Answer]] = []
    for name, files, each, temperatures in (
        ("answers", data.prompts, data.answers, data.temperatures),
        ("test", data.test_prompts, data.test_answers, (0.0,)),
    ):
        asked, left_out = data_stages.questions(files, each, temperatures, data.seed, data.max_prompt, tokenizer)
        if left_out:
            bars.console.print(f"{name}: {left_out} prompts are longer than {data.max_prompt} tokens, left out")
        store = AnswerStore(folder / f"{name}.jsonl")
        bar = bars.add_task(f"{name}: answers", total=len(asked), rate="")
        data_stages.answer_stage(
            model,
            target,
            asked,
            store,
            max_tokens=data.max_tokens,
            batch=settings.batch,
            seed=data.seed,
            advance=lambda count, bar=bar: bars.advance(bar, count),  # type: ignore[misc]
        )
        answers = data_stages.useful(list(store.read()))
        bar = bars.add_task(f"{name}: features", total=len(answers), rate="")
        features = folder / ("features" if name == "answers" else "test-features")
        data_stages.feature_stage(
            model,
            answers,
            features,
            data.prompt_tail,
            width,
            lambda count, bar=bar: bars.advance(bar, count),  # type: ignore[misc]
        )
        found.append(answers)
    passages = read_shards(folder / "features")
    if settings.domains:
        there = {passage.domain for passage in passages}
        if unknown := sorted(set(settings.domains) - there):
            raise ConfigError(f"domain: {', '.join(unknown)}: not in the data, which has {', '.join(sorted(there))}")
        passages = [passage for passage in passages if passage.domain in settings.domains]
    return found[0], passages, read_shards(folder / "test-features")


def _head(settings: TrainSettings, target: Path, layers: tuple[int, ...], answers: list[Answer]) -> HeadModule:
    if settings.expert_of is None:
        facts = LlamaConfig.parse(read_json(target / "config.json"))
        vocab_size = facts.vocab_size if facts else 0
        ids = draft_ids((answer.answer_ids for answer in answers), min(settings.draft_vocab, vocab_size), vocab_size)
        return new_head(target, ids, layers, settings.window, settings.inner, settings.data.seed)
    checkpoint = Checkpoint(target, torch.device("cpu"), torch.bfloat16)
    embedding = checkpoint.tensor("model.embed_tokens.weight")
    output = checkpoint.tensor("lm_head.weight") if "lm_head.weight" in checkpoint.names else embedding
    head = load_module(settings.expert_of, embedding, output)
    if head.config.feature_layers != layers:
        own = list(head.config.feature_layers)
        raise ConfigError(f"expert_of: {settings.expert_of} reads layers {own}; the data has {list(layers)}")
    return head


def _train(
    head: HeadModule,
    passages: list[Passage],
    tests: list[Passage],
    plan: TrainingPlan,
    scratch: Path,
    bars: Progress,
    device: str,
) -> Step:
    bar = bars.add_task("train", total=plan.steps, rate="")
    last = Step(0, 0.0, 0)
    some = tests[:: max(1, len(tests) // 32)]

    def report(step: Step) -> None:
        nonlocal last
        last = step
        bars.update(bar, completed=step.step, rate=f"loss {step.loss:.3f}  {step.tokens:,} positions")

    def measure() -> float:
        results = evaluate_head(head, some, DRAFT_LENGTH, TEMPERATURE).values()
        return sum(result.tokens for result in results) / max(1, sum(result.rounds for result in results))

    train_head(head, passages, plan, scratch, report, measure=measure, device=device)
    return last


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rate]}"),
        console=console,
    )


def _table(name: str, results: dict[str, DomainResult]) -> Table:
    table = Table(title=f"{name}: tokens per round, chains of {DRAFT_LENGTH}, the bonus token included")
    table.add_column("domain")
    table.add_column("greedy", justify="right")
    table.add_column(f"temperature {TEMPERATURE:g}", justify="right")
    for domain, result in sorted(results.items()):
        table.add_row(domain, f"{result.tokens_per_round:.2f}", f"{result.sampled_tokens_per_round:.2f}")
    return table
