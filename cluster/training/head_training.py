"""The training loop of a draft head: batches of passages, several levels unrolled, the target's law as the teacher.

The teacher at a position is the softmax of the target's own final state (the last feature layer) over the draft
vocabulary; the loss is the cross entropy of the head's law against it, each deeper level counting a little less, as it
is reached less often. State is saved as it goes; a run that was broken off goes on where it was, with the same batches.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from paceline.actors.errors import ConfigError
from paceline.cluster.training.feature_store import Passage
from paceline.cluster.training.head_module import HeadModule

_POOL = 8  # batches that are drawn together and sorted by length, so that little is padding


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How long and how. `batch_tokens` bounds the memory of a step."""

    steps: int
    batch_tokens: int = 2048
    levels: int = 4
    level_weight: float = 0.8  # of a level, relative to the one before
    prompt_weight: float = 0.3  # of a prompt's positions, relative to an answer's
    learning_rate: float = 1e-3
    warmup_steps: int = 40
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """One step's news."""

    step: int
    loss: float
    tokens: int  # seen so far, each epoch anew


@dataclass(slots=True)
class _Batch:
    tokens: torch.Tensor  # [batch, slots + levels] int64
    features: torch.Tensor  # [batch, slots, layers * width]
    teacher: torch.Tensor  # [batch, slots + levels - 1, width]: row i is the final state of token i + 1
    weights: torch.Tensor  # [batch, slots + levels - 1] of the positions; 0 is padding

    @property
    def slots(self) -> int:
        return self.features.shape[1]


def train_head(
    head: HeadModule,
    passages: Sequence[Passage],
    plan: TrainingPlan,
    folder: Path,
    report: Callable[[Progress], None],
    *,
    measure: Callable[[], float] | None = None,
    measure_every: int = 250,
    save_every: int = 100,
    device: str = "cpu",
) -> Progress:
    """Train, saving to `folder` and going on from what is saved there.

    Args:
        head: Changed in place.
        passages: What to learn from.
        plan: How long and how.
        folder: Of `state.pt` and `loss.jsonl`.
        report: Hears of every step.
        measure: Tokens per round on other passages; goes into the log.
        measure_every: Steps between two of its calls.
        save_every: Steps between saved states.
        device: As torch names it.

    Returns:
        The last step's news.

    Raises:
        ConfigError: the saved state is of another plan, head, or data.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made_of = _made_of(head, passages, plan)
    head.to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    progress = _resume(folder, head, optimizer, made_of)
    batches = _batches(passages, plan, head, progress.step)
    half = torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
    with (folder / "loss.jsonl").open("a", encoding="utf-8", buffering=1) as log:  # by lines, to be watched
        for step, batch in zip(range(progress.step + 1, plan.steps + 1), batches, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * _schedule(step, plan)
            moved = _to(batch, device)
            with half:
                loss = _loss(head, moved, plan)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
            tokens = progress.tokens + int((batch.weights[:, : batch.slots] > 0).sum())
            progress = Progress(step, float(loss.detach()), tokens)
            report(progress)
            news = asdict(progress)
            if measure is not None and (step % measure_every == 0 or step == plan.steps):
                news["tokens_per_round"] = measure()
            log.write(json.dumps(news) + "\n")
            if step % save_every == 0 or step == plan.steps:
                _save(folder, head, optimizer, made_of, progress)
    return progress


def _loss(head: HeadModule, batch: _Batch, plan: TrainingPlan) -> torch.Tensor:
    states = head(batch.tokens, batch.features, plan.levels)
    slots = batch.slots
    rows = head.head_rows
    teacher = (batch.teacher.to(rows.dtype) @ rows.T).float().softmax(dim=-1)
    total = torch.zeros((), device=teacher.device)
    mass = 0.0
    for level, state in enumerate(states):
        weights = batch.weights[:, level : level + slots]
        live = weights > 0
        logits = (state[live].to(rows.dtype) @ rows.T).float()
        own = -(teacher[:, level : level + slots][live] * F.log_softmax(logits, dim=-1)).sum(dim=-1)
        importance = plan.level_weight**level
        total = total + importance * (own * weights[live]).sum() / weights.sum().clamp(min=1)
        mass += importance
    return total / mass


def _schedule(step: int, plan: TrainingPlan) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    if step <= plan.warmup_steps:
        return step / plan.warmup_steps
    done = (step - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


def _batches(passages: Sequence[Passage], plan: TrainingPlan, head: HeadModule, skip: int) -> Iterator[_Batch]:
    """Endless batches in an order that the seed fixes; the first `skip` are passed over."""
    chance = torch.Generator().manual_seed(plan.seed)
    longest = max(len(passage.tokens) for passage in passages)
    each = max(1, plan.batch_tokens // longest)
    while True:
        order = torch.randperm(len(passages), generator=chance).tolist()
        for start in range(0, len(order), _POOL * each):
            pool = sorted(order[start : start + _POOL * each], key=lambda index: len(passages[index].tokens))
            groups = list(_grouped([(index, len(passages[index].tokens)) for index in pool], plan.batch_tokens))
            for chosen in torch.randperm(len(groups), generator=chance).tolist():
                if skip:
                    skip -= 1
                    continue
                yield _collate([passages[index] for index in groups[chosen]], plan, head.config.width)


def _grouped(lengths: list[tuple[int, int]], most: int) -> Iterator[list[int]]:
    """Groups of indices whose padded length is within `most` tokens; `lengths` ascend."""
    group: list[int] = []
    for index, length in lengths:
        if group and (len(group) + 1) * length > most:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _collate(passages: Sequence[Passage], plan: TrainingPlan, width: int) -> _Batch:
    """Slot i is token i + 1, which has a feature before it."""
    slots = max(len(passage.tokens) for passage in passages) - 1
    layers_width = passages[0].features.shape[1]
    ahead = slots + plan.levels - 1
    tokens = torch.zeros(len(passages), ahead, dtype=torch.int64)
    features = torch.zeros(len(passages), slots, layers_width, dtype=torch.bfloat16)
    teacher = torch.zeros(len(passages), ahead, width, dtype=torch.bfloat16)
    weights = torch.zeros(len(passages), ahead)
    for row, passage in enumerate(passages):
        count = len(passage.tokens) - 1
        tokens[row, :count] = passage.tokens[1:]
        features[row, :count] = passage.features[:-1]
        teacher[row, :count] = passage.features[1:, -width:]
        weights[row, :count] = 1.0
        weights[row, : max(0, passage.prompt_tokens - 2)] = plan.prompt_weight
    return _Batch(tokens, features, teacher, weights)


def _to(batch: _Batch, device: str) -> _Batch:
    return _Batch(*(part.to(device) for part in (batch.tokens, batch.features, batch.teacher, batch.weights)))


def _made_of(head: HeadModule, passages: Sequence[Passage], plan: TrainingPlan) -> dict[str, Any]:
    """All that decides how a training goes, by the name that a message gives it."""
    return {
        **asdict(plan),
        **asdict(head.config),
        "draft_ids": _hash([head.ids]),
        "starting_weights": _hash(head.parameters()),
        "domains": sorted({passage.domain for passage in passages}),
        "passages": len(passages),
        "passage_tokens": sum(len(passage.tokens) for passage in passages),
    }


def _hash(tensors: Iterable[torch.Tensor]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def _save(
    folder: Path, head: HeadModule, optimizer: torch.optim.Optimizer, made_of: dict[str, Any], progress: Progress
) -> None:
    state = {
        "head": head.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": asdict(progress),
        "made_of": made_of,
    }
    part = folder / "state.part"
    try:
        torch.save(state, part)
    except RuntimeError as error:  # torch's file writer says so, and little else, where a disk is full
        if not any(word in str(error) for word in ("iostream", "inline_container", "PytorchStreamWriter")):
            raise
        raise OSError(errno.EIO, f"cannot be written ({error})", str(part)) from error
    os.replace(part, folder / "state.pt")


def _resume(folder: Path, head: HeadModule, optimizer: torch.optim.Optimizer, made_of: dict[str, Any]) -> Progress:
    """Go on from the saved state, where there is one; later lines of the log are taken back."""
    path, log = folder / "state.pt", folder / "loss.jsonl"
    if not path.exists():
        log.unlink(missing_ok=True)
        return Progress(0, 0.0, 0)
    state = torch.load(path, map_location="cpu", weights_only=True)
    held = state.get("made_of", {})
    for name, value in made_of.items():
        if held.get(name) != value:
            raise ConfigError(
                f"{folder}: was begun with {name}={held.get(name)!r}, now it is {value!r}; "
                "delete the folder to begin anew"
            )
    head.load_state_dict(state["head"])
    optimizer.load_state_dict(state["optimizer"])
    progress = Progress(**state["progress"])
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    log.write_text("".join(lines[: progress.step]), encoding="utf-8")
    return progress
