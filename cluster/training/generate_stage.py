"""The target answers the training prompts, many at once: what a drafter must learn is what this target says.

Half of the prompts are answered greedily, the others at the temperatures asked for, since a drafter meets both. A small
model's greedy answer often ends in a loop, which any n-gram drafter follows: it is cut there, and costs no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from paceline.actors.causal_model import Cache, CausalModel, Step
from paceline.cluster.training.answer_store import Answer

_LONGEST_PERIOD = 24  # tokens of a loop that is looked for
_TURNS = 3  # of it that make it one
_LOOK_EVERY = 8  # tokens


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt to be answered."""

    index: int
    domain: str
    prompt_ids: list[int]
    temperature: float


@dataclass(slots=True)
class _Running:
    question: Question
    cache: Cache
    pending: list[int]
    answer_ids: list[int] = field(default_factory=list)


def loop_start(tokens: Sequence[int]) -> int | None:
    """Where a text that ends in three turns of one loop began it, after the first turn; None where it does not loop."""
    for period in range(1, _LONGEST_PERIOD + 1):
        if len(tokens) < _TURNS * period or tokens[-period:] != tokens[-2 * period : -period]:
            continue
        start = len(tokens) - 2 * period
        while start > 0 and tokens[start - 1] == tokens[start - 1 + period]:
            start -= 1
        if len(tokens) - start >= _TURNS * period:
            return start + period
    return None


@torch.inference_mode()
def generate(
    model: CausalModel,
    questions: Sequence[Question],
    *,
    end_ids: frozenset[int],
    max_tokens: int,
    batch: int,
    seed: int,
    done: Callable[[list[Answer]], None],
    prefill_tokens: int = 512,
) -> None:
    """Answer all questions; sequences join as others end.

    Args:
        model: The target.
        questions: Whose prompts are within its context.
        end_ids: Tokens that end an answer; the one that did is part of it.
        max_tokens: Most tokens of an answer.
        batch: Sequences decoded at once. A forward's cost per token falls with their number.
        seed: Of the draws. The answers also depend on `batch`, which decides what shares a forward.
        done: Takes finished answers, several at a time.
        prefill_tokens: Prompt tokens that join a forward at most (or one prompt).
    """
    waiting = deque(questions)
    running: list[_Running] = []
    chance = torch.Generator(device=model.device).manual_seed(seed)
    while waiting or running:
        room = prefill_tokens
        while waiting and len(running) < batch and (room == prefill_tokens or len(waiting[0].prompt_ids) <= room):
            question = waiting.popleft()
            room -= len(question.prompt_ids)
            running.append(_Running(question, model.new_cache(), list(question.prompt_ids)))
        logits = model.forward([Step(item.cache, item.pending, -1) for item in running])
        tokens = _draw(logits, [item.question.temperature for item in running], chance)
        finished = []
        for item, token in zip(running, tokens, strict=True):
            item.answer_ids.append(token)
            item.pending = [token]
            cut = loop_start(item.answer_ids) if len(item.answer_ids) % _LOOK_EVERY == 0 else None
            if cut is not None or token in end_ids or len(item.answer_ids) >= max_tokens:
                finished.append((item, cut))
        if finished:
            ended = {id(item) for item, _ in finished}
            running = [item for item in running if id(item) not in ended]
            done([_answer(item, cut) for item, cut in finished])


def _answer(item: _Running, cut: int | None) -> Answer:
    question = item.question
    ids = item.answer_ids[:cut]
    return Answer(question.index, question.domain, question.temperature, question.prompt_ids, ids, cut is not None)


def _draw(logits: torch.Tensor, temperatures: list[float], chance: torch.Generator) -> list[int]:
    """A token per row: the likeliest at temperature 0."""
    tokens = logits.argmax(dim=-1)
    rows = [row for row, temperature in enumerate(temperatures) if temperature > 0]
    if rows:
        scale = torch.tensor([temperatures[row] for row in rows], device=logits.device)
        law = (logits[rows].float() / scale[:, None]).softmax(dim=-1)
        mass = law.cumsum(dim=-1)  # half the time of torch.multinomial, which draws noise for every id
        drawn = torch.rand(len(rows), 1, generator=chance, device=law.device) * mass[:, -1:]
        tokens[rows] = torch.searchsorted(mass, drawn, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    return [int(token) for token in tokens.tolist()]
