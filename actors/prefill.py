"""Chunked prefill: which prompts a round runs and how much of them, so that a long one does not stall the others."""

from __future__ import annotations

from paceline.actors.causal_model import Step
from paceline.actors.sequence import Sequence


def share_prefill(batch: list[Sequence], most: int) -> tuple[list[Sequence], list[Step]]:
    """Share a round's prompt tokens out, the oldest sequence first.

    Returns:
        The sequences whose next token this round can give, and for another one the part of its prompt that there is
        room for.
    """
    ready: list[Sequence] = []
    parts: list[Step] = []
    for sequence in batch:
        if not sequence.prefilling:
            ready.append(sequence)
            continue
        pending = sequence.pending
        if len(pending) <= most:
            ready.append(sequence)
        elif most > 0:
            parts.append(Step(sequence.cache, pending[:most], logits_from=most))
        most = max(0, most - len(pending))
    return ready, parts
