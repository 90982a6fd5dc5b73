"""`paceline train`: a draft head for one's own target from one's own prompts, in stages that go on where they stopped.

answers     the target answers the prompts                      DATA/answers.jsonl, DATA/test.jsonl
features    its hidden states over prompts' ends and answers    DATA/features/, DATA/test-features/
train       the head, from the target's last layer or another head    OUTPUT.training/
export      weights of 8 bits, measured on held-out prompts; head.json, model card, plot    OUTPUT/
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from safetensors import SafetensorError

from paceline.actors.errors import ConfigError
from paceline.actors.head_config import HeadConfig
from paceline.actors.llama_config import LlamaConfig
from paceline.actors.model_loader import load_model
from paceline.actors.model_source import resolve
from paceline.cluster.tokenizer import ChatTokenizer
from paceline.cluster.training import data_stages
from paceline.cluster.training.answer_store import Answer, AnswerStore
from paceline.cluster.training.feature_store import Passage, read_shards
from paceline.cluster.training.head_evaluation import DomainResult, evaluate_head
from paceline.cluster.training.head_export import Provenance, check_output, export_head, load_module
from paceline.cluster.training.head_module import HeadModule
from paceline.cluster.training.head_start import draft_ids, feature_layers, new_head, target_facts, target_matrices
from paceline.cluster.training.head_training import Progress as Step
from paceline.cluster.training.head_training import TrainingPlan, train_head
from paceline.cluster.training.train_settings import DRAFT_VOCAB, WINDOW, TrainSettings

DRAFT_LENGTH = 7


def train(settings: TrainSettings, console: Console | None = None) -> int:
    """Run all stages; what an earlier run did is kept. Returns the exit status.

    Raises:
        ConfigError: a setting or file is wrong, or a folder cannot be written, as on a full disk.
        ModelSourceError: the target, or the head to go on from, cannot be had.
    """
    console = console or Console()
    check_output(settings.output, settings.data_at)
    source = resolve(settings.data.target)
    device = str(data_stages.device_of(settings.device))
    facts = target_facts(source.path)
    layers = _layers(settings, facts)
    with _progress(console) as bars:
        with _written_in(settings.data_at):
            answers, passages, tests = _data(settings, source.path, facts, layers, bars)
        if settings.expert_of is None:
            ids = draft_ids(
                (answer.answer_ids for answer in answers),
                min(settings.draft_vocab or DRAFT_VOCAB, facts.vocab_size),
                facts.vocab_size,
            )
            window = settings.window or WINDOW
            head = new_head(source.path, ids, layers, window, settings.inner, settings.data.seed)
        else:
            head = load_module(settings.expert_of, *target_matrices(source.path))
        # What it is to be better than. A head that starts from nothing drafts nothing yet.
        start = evaluate_head(head, tests, DRAFT_LENGTH) if settings.expert_of else {}
        with _written_in(settings.scratch):
            last = _train(head, passages, tests, settings, bars, device)
        bar = bars.add_task("evaluate", total=1, rate="")
        about = Provenance(
            target=source.name,
            sources=settings.sources,
            domains=sorted({passage.domain for passage in passages}),
            answers=len(passages),
            answer_tokens=sum(len(passage.tokens) - passage.prompt_tokens for passage in passages),
            greedy_share=sum(passage.temperature == 0 for passage in passages) / len(passages),
            tokens_seen=last.tokens,
            steps=last.step,
            seed=settings.data.seed,
            device=device,
            expert_of=settings.expert_of.name if settings.expert_of else "",
            start={domain: result.tokens_per_round for domain, result in start.items()},
            levels=DRAFT_LENGTH,
        )
        with _written_in(settings.output):
            results = export_head(
                head,
                settings.output,
                settings.scratch / "loss.jsonl",
                lambda written: evaluate_head(written, tests, DRAFT_LENGTH),
                about,
            )
        bars.advance(bar)
    how = f"greedy, chains of {DRAFT_LENGTH}, the bonus token included"
    console.print(f"tokens per round on held-out prompts ({how}):", soft_wrap=True, highlight=False)
    console.print(_table(settings.output.name, results, about))
    name, model = settings.output.name, settings.output.resolve()
    console.print(f"{settings.output}: written. A running cluster takes it at once:", soft_wrap=True)
    add = f"  paceline drafters add name={name} kind=head options.model={model}"
    console.print(add, soft_wrap=True, highlight=False)
    console.print("and every later one where its configuration has, among the drafters:", soft_wrap=True)
    use = f"  - name: {name}\n    kind: head\n    options: {{model: {model}}}"
    console.print(use, soft_wrap=True, highlight=False)
    return 0


def _layers(settings: TrainSettings, facts: LlamaConfig) -> tuple[int, ...]:
    """The layers that feed the head; an expert's are seen to be the same before anything is made for it."""
    layers = feature_layers(settings.data.feature_layers, facts.layers)
    if settings.expert_of is not None:
        own = HeadConfig.read(settings.expert_of).feature_layers
        if own != layers:
            given = f"the data have {list(layers)} (--layers)"
            raise ConfigError(f"expert_of: {settings.expert_of} reads layers {list(own)}; {given}")
    return layers


def _data(
    settings: TrainSettings, target: Path, facts: LlamaConfig, layers: tuple[int, ...], bars: Progress
) -> tuple[list[Answer], list[Passage], list[Passage]]:
    """Answers to train on, their passages, and those to measure on."""
    data, folder = settings.data, settings.data_at
    if data.max_prompt + data.max_tokens > facts.max_positions:
        raise ConfigError(
            f"max_prompt, max_tokens: {data.max_prompt} + {data.max_tokens} tokens are more than "
            f"the target's context of {facts.max_positions}; lower one of them"
        )
    to_train, to_test = data_stages.questions(data, ChatTokenizer(target))
    if not data.test_prompts:
        bars.console.print(f"prompts: {len(to_test.questions)} are held out to measure on (--test FILE gives others)")
    elif to_train.repeated:
        bars.console.print(f"prompts: {to_train.repeated} are also among the test prompts, left out")
    data.claim(folder, data_stages.questions_hash(to_train, to_test))
    model = load_model(target, dtype="bfloat16", device=settings.device, feature_layers=layers)
    found: list[list[Answer]] = []
    for name, asked, features in (("answers", to_train, "features"), ("test", to_test, "test-features")):
        if asked.too_long:
            bars.console.print(f"{name}: {asked.too_long} prompts are longer than {data.max_prompt} tokens, left out")
        store = AnswerStore(folder / f"{name}.jsonl")
        data_stages.answer_stage(
            model,
            target,
            asked.questions,
            store,
            max_tokens=data.max_tokens,
            batch=settings.batch,
            seed=data.seed,
            advance=_bar(bars, f"{name}: answers", len(asked.questions), "tokens"),
        )
        answers = data_stages.useful(list(store.read()))
        advance = _bar(bars, f"{name}: features", len(answers), "tokens")
        data_stages.feature_stage(model, answers, folder / features, data.prompt_tail, facts.width, advance)
        found.append(answers)
    passages = read_shards(folder / "features")
    if settings.domains:
        there = {passage.domain for passage in passages}
        if unknown := sorted(set(settings.domains) - there):
            raise ConfigError(f"domain: {', '.join(unknown)}: not in the data, which has {', '.join(sorted(there))}")
        passages = [passage for passage in passages if passage.domain in settings.domains]
    return found[0], passages, read_shards(folder / "test-features")


def _train(
    head: HeadModule,
    passages: list[Passage],
    tests: list[Passage],
    settings: TrainSettings,
    bars: Progress,
    device: str,
) -> Step:
    plan = TrainingPlan(
        steps=settings.steps,
        batch_tokens=settings.batch_tokens,
        levels=settings.levels,
        learning_rate=settings.learning_rate,
        seed=settings.data.seed,
    )
    advance = _bar(bars, "train", plan.steps, "positions")
    last = Step(0, 0.0, 0)
    some = tests[:: max(1, len(tests) // 32)]

    def report(step: Step) -> None:
        nonlocal last
        work = step.tokens - last.tokens if last.step else 0  # the first step's also tell of what was there before
        advance(step.step - last.step, work, f"loss {step.loss:.3f}")
        last = step

    def measure() -> float:
        results = evaluate_head(head, some, DRAFT_LENGTH).values()
        return sum(result.tokens for result in results) / max(1, sum(result.rounds for result in results))

    done = train_head(head, passages, plan, settings.scratch, report, measure=measure, device=device)
    advance(done.step - last.step, 0)
    return done


@contextmanager
def _written_in(folder: Path) -> Iterator[None]:
    """What a disk that is full, or not to be written, does to a stage is an error that names the path."""
    try:
        yield
    except BrokenPipeError:  # of the screen
        raise
    except (OSError, SafetensorError) as error:
        path, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
        raise ConfigError(
            f"{path or folder}: {reason or error}; see to free space and permissions, then give the same command "
            "again: it goes on where it stopped"
        ) from error


def _bar(bars: Progress, name: str, total: int, unit: str) -> Callable[..., None]:
    """A stage's line of progress.

    Returns:
        Takes how many of `total` were dealt with, the units of work that this took, and more to show. Work per second
        counts from its first call on, which tells of what an earlier run left.
    """
    bar = bars.add_task(name, total=total, rate="")
    began: float | None = None
    done = 0

    def advance(count: int, work: int, more: str = "") -> None:
        nonlocal began, done
        now = time.monotonic()
        began = now if began is None else began
        done += work
        rate = f"{done:,} {unit}, {done / max(now - began, 1e-3):,.0f} {unit}/s" if done else ""
        bars.update(bar, advance=count, rate=f"{rate}  {more}".strip())

    return advance


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rate]}"),
        console=console,
    )


def _table(name: str, results: Mapping[str, DomainResult], about: Provenance) -> Table:
    table = Table()
    table.add_column("domain")
    for column in (name, *([about.expert_of] if about.start else [])):
        table.add_column(column, justify="right")
    for domain, result in sorted(results.items()):
        before = [f"{about.start[domain]:.2f}"] if about.start else []
        table.add_row(domain, f"{result.tokens_per_round:.2f}", *before)
    return table
