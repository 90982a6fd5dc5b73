"""The speculative round: the file to read first.

One call moves every running sequence on by at least one token, and by one more for each drafted token that the target
agrees with. What it touches is plain: a model, a pool of drafters, a board of weights. How proposals travel, who learns
from the scores, and who asked for the text are other files' business (docs/structure.md lists them).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from random import Random

from paceline.actors.causal_model import CausalModel, Step
from paceline.actors.generation import Chunk
from paceline.actors.messages import Draft, SequenceRound
from paceline.actors.ports import DrafterPool, WeightsBoard
from paceline.actors.sequence import Sequence
from paceline.actors.verdict import Verdict, judge


@dataclass(frozen=True, slots=True)
class Arm:
    """What a sequence plays in a round: a drafter and how many tokens it may draft."""

    drafter: str
    length: int


def speculative_round(
    batch: list[Sequence],
    model: CausalModel,
    pool: DrafterPool,
    board: WeightsBoard,
    max_draft: int,
    chance: Random,
) -> list[Chunk]:
    """Choose, draft, verify, commit; returns what each sequence of the batch gained.

    The choice is fixed before any of the target's randomness for this round is drawn. A draft that is late, broken or
    empty leaves its sequence with a plain step, which is the same forward with one position.
    """
    # choose: an arm per sequence, from the newest weights this target holds
    usable = pool.usable()
    arms = {s.seq: arm for s in batch if (arm := _choose(s, board, pool, usable, max_draft, chance)) is not None}

    # draft: all chosen drafters at once, each with its own deadline
    asks = defaultdict(list)
    for sequence in batch:
        if (arm := arms.get(sequence.seq)) is not None:
            asks[arm.drafter].append((sequence, arm.length))
    answer = pool.propose(asks)
    drafts = answer.by_seq

    # verify: one forward over every sequence's last token and its draft
    began = time.perf_counter()
    lengths = [len(drafts[s.seq].tokens) if s.seq in drafts else 0 for s in batch]
    logits = model.forward([_step(s, drafts.get(s.seq)) for s in batch])  # [sum(lengths + 1), vocab]
    verdicts = judge(batch, drafts, logits, lengths)
    verify_ms = (time.perf_counter() - began) * 1e3

    # commit: tokens to the sequence, the cache back to the accepted prefix
    prefill = any(len(s.tokens) == s.prompt_tokens for s in batch)
    chunks = []
    rounds = []
    for sequence, verdict, length in zip(batch, verdicts, lengths, strict=True):
        drafter = arms[sequence.seq].drafter if length else ""
        chunk = _commit(sequence, verdict, drafter, length)
        chunks.append(chunk)
        if sequence.generation.speculate:
            rounds.append(SequenceRound(sequence.seq, len(sequence.tokens), drafter, chunk.drafted, chunk.accepted))

    # score and learn, off the critical path: drafters catch up on their own devices, the selector hears from them
    pool.commit([s for s in batch if s.generation.speculate])
    board.played(rounds, answer.timings, 0.0 if prefill else verify_ms, sum(lengths) + len(batch))
    return chunks


def _choose(
    sequence: Sequence,
    board: WeightsBoard,
    pool: DrafterPool,
    usable: Collection[str],
    max_draft: int,
    chance: Random,
) -> Arm | None:
    """Draw a drafter by weight among those that can be asked for this sequence; None decodes plainly."""
    length = sequence.draft_limit(max_draft)
    if not usable or length == 0:
        return None
    weights: Mapping[str, float] = board.weights(sequence.seq)
    names = [
        name
        for name in usable
        if (not sequence.drafters or name in sequence.drafters) and pool.serves(name, sequence.seq)
    ]
    shares = [weights.get(name, 0.0) for name in names]
    if not any(shares):
        if not names or not sequence.generation.drafters:
            return None
        shares = [1.0] * len(names)  # drafters that the request names are played, whatever is thought of them
    return Arm(chance.choices(names, shares)[0], length)


def _step(sequence: Sequence, draft: Draft | None) -> Step:
    """The forward of one sequence: what its cache lacks, then the draft; logits from the last committed token on."""
    pending = sequence.pending
    return Step(sequence.cache, pending + draft.tokens if draft else pending, logits_from=len(pending) - 1)


def _commit(sequence: Sequence, verdict: Verdict, drafter: str, length: int) -> Chunk:
    """Append the verdict's tokens and roll the target's cache back to all of them but the last."""
    kept = sequence.append(verdict.tokens, verdict.laws)
    sequence.cache.truncate(len(sequence.tokens) - 1)
    return Chunk(kept, sequence.finished, drafter, length, min(verdict.accepted, len(kept)))
