"""What a request changes of the target's logits before a token is taken: penalties, biases, a least length.

The law at a position depends on the tokens before it, drafted ones included: row i of a verification is processed as
plain decoding would after the draft's first i tokens. Drafts are therefore judged against the very law that plain
decoding follows, and the text is the same. `verdict` calls it once a round, where any sequence asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from collections.abc import Sequence as Items

import numpy as np
import torch

from paceline.actors.messages import Draft
from paceline.actors.sampling import LogitsProcessing
from paceline.actors.sequence import Sequence


def process_logits(
    batch: Items[Sequence], drafts: Mapping[int, Draft], logits: torch.Tensor, lengths: Items[int]
) -> torch.Tensor:
    """The logits as each sequence's request changes them.

    Args:
        batch: Sequences, in the order of the logits.
        drafts: Draft by sequence id; absent means none.
        logits: [rows, vocab], lengths[i] + 1 consecutive rows for batch[i]; they stay as they are.
        lengths: Drafted tokens per sequence.

    Returns:
        [rows, vocab]; `logits` themselves where nobody asks for a change, else a copy in float32.
    """
    if all(sequence.generation.processing is None for sequence in batch):
        return logits
    processed = logits.to(torch.float32, copy=True)
    row = 0
    for sequence, length in zip(batch, lengths, strict=True):
        if (rules := sequence.generation.processing) is not None:
            draft = drafts[sequence.seq].tokens if length else []
            _process(processed[row : row + length + 1], rules, sequence, draft)
        row += length + 1
    return processed


def _process(rows: torch.Tensor, rules: LogitsProcessing, sequence: Sequence, draft: list[int]) -> None:
    """Change the rows [len(draft) + 1, vocab] of one sequence, in place."""
    if rules.logit_bias:
        ids, biases = zip(*rules.logit_bias, strict=True)
        rows[:, torch.tensor(ids, device=rows.device)] += torch.tensor(biases, device=rows.device)
    answer = sequence.answer
    if (lacking := rules.min_tokens - len(answer)) > 0:
        stops = [token for token in sequence.generation.stop_ids if token < rows.shape[1]]
        rows[:lacking, torch.tensor(stops, dtype=torch.int64, device=rows.device)] = -math.inf
    if rules.counts:
        prompt = sequence.tokens[: len(sequence.tokens) - len(answer)] if rules.repetition_penalty != 1.0 else []
        _penalise(rows, rules, prompt, answer, draft)


def _penalise(
    rows: torch.Tensor, rules: LogitsProcessing, prompt: list[int], answer: list[int], draft: list[int]
) -> None:
    """Take the penalties off, only from the tokens that occur: a few columns of the vocabulary."""
    columns = np.unique(np.array([*prompt, *answer, *draft], dtype=np.int64))
    counted = _counts(columns, answer, draft)  # [rows, columns]
    here = torch.from_numpy(columns).to(rows.device)
    values = rows[:, here]
    if rules.repetition_penalty != 1.0:
        seen = torch.from_numpy((counted > 0) | np.isin(columns, prompt)).to(rows.device)
        repeated = torch.where(values > 0, values / rules.repetition_penalty, values * rules.repetition_penalty)
        values = torch.where(seen, repeated, values)
    counts = torch.from_numpy(counted).to(rows.device)
    rows[:, here] = values - rules.frequency_penalty * counts - rules.presence_penalty * (counts > 0)


def _counts(columns: np.ndarray, answer: Collection[int], draft: Collection[int]) -> np.ndarray:
    """How often each column's token stands before each row: in the answer, and in the draft before the row."""
    counts = np.zeros((len(draft) + 1, len(columns)), dtype=np.float32)
    counts[0] = np.bincount(np.searchsorted(columns, np.array([*answer], dtype=np.int64)), minlength=len(columns))
    counts[np.arange(1, len(draft) + 1), np.searchsorted(columns, np.array([*draft], dtype=np.int64))] = 1
    return counts.cumsum(axis=0)
