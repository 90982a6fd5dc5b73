"""The speculative round: the file to read first.

One call moves every running sequence on by at least one token, and by one more for each drafted token that the target
agrees with. What it touches is plain: a model, a pool of drafters, a board of weights. How proposals travel, who learns
from the scores, and who asked for the text are other files' business (docs/structure.md lists them).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace

from paceline.actors.arm_choice import Arm, ask_length, carried_tokens, choose_arms
from paceline.actors.carried_draft import carry, first_tokens
from paceline.actors.causal_model import Step
from paceline.actors.generation import Chunk
from paceline.actors.messages import Draft, RoundContext, SequenceRound
from paceline.actors.prefill import share_prefill
from paceline.actors.round_setup import Setup
from paceline.actors.sequence import Sequence
from paceline.actors.tracer import span
from paceline.actors.verdict import Verdict, judge


def speculative_round(batch: list[Sequence], setup: Setup) -> list[Chunk | None]:
    """Choose, draft, verify, commit; returns what each sequence of the batch gained, None where its prompt goes on.

    The choice is fixed before any of the target's randomness for this round is drawn. A draft that is late, broken or
    empty leaves its sequence with a plain step, which is the same forward with one position.
    """
    began = time.perf_counter()
    model, pool, board = setup.model, setup.pool, setup.board

    # prefill: a long prompt is run in parts, so that the others' tokens keep coming
    ready, parts = share_prefill(batch, setup.max_prefill)
    if not ready:
        with span("verify", sequences=0):
            model.forward(parts)
        return [None] * len(batch)

    # choose: an arm per sequence, from the newest weights this target holds
    with span("choose"):
        told = board.weights_number
        weights = {s.seq: dict(board.weights(s.seq)) for s in ready if s.generation.show_weights}
        usable = pool.usable()
        arms = choose_arms(ready, setup, usable)

    # draft: all chosen drafters at once, each with its own deadline
    asking = time.perf_counter()
    asks = defaultdict(list)
    whole: dict[int, Draft] = {}
    for sequence in ready:
        if (arm := arms.get(sequence.seq)) is not None:
            if arm.length <= carried_tokens(sequence, arm.drafter) and sequence.carried is not None:
                whole[sequence.seq] = sequence.carried.draft
            else:
                asks[arm.drafter].append((sequence, ask_length(sequence, arm, pool)))
    with span("draft", drafters=len(asks)):
        answer = pool.propose(asks)
    # What an arm costs is learnt under its own length, not under what else was asked for.
    timings = [replace(t, length=max(arms[s.seq].length for s, _ in asks[t.drafter])) for t in answer.timings]
    asked_seqs = {s.seq for those in asks.values() for s, _ in those}
    whole |= answer.by_seq
    drafts = {seq: first_tokens(draft, arms[seq].length) for seq, draft in whole.items()}

    # verify: one forward over every sequence's last token and its draft
    verifying = time.perf_counter()
    prefill = bool(parts) or any(s.prefilling for s in ready)
    lengths = [len(drafts[s.seq].tokens) if s.seq in drafts else 0 for s in ready]
    positions = sum(lengths) + len(ready)
    with span("verify", sequences=len(ready), positions=positions):
        logits = model.forward([_step(s, drafts.get(s.seq)) for s in ready] + parts)  # [positions, vocab]
    with span("judge"):
        verdicts = judge(ready, drafts, logits, lengths)
    ended = time.perf_counter()
    verify_ms = 0.0 if prefill else (ended - verifying) * 1e3

    # commit: tokens to the sequence, the cache back to the accepted prefix
    chunks = {}
    rounds = []
    for sequence, verdict, length in zip(ready, verdicts, lengths, strict=True):
        drafter = arms[sequence.seq].drafter if length else ""
        chunk = chunks[sequence.seq] = _commit(sequence, verdict, drafter, length, weights.get(sequence.seq))
        sequence.carried = carry(drafter, whole[sequence.seq], chunk.token_ids) if length else None
        if sequence.generation.speculate:
            rounds.append(_round(sequence, chunk, arms.get(sequence.seq), asked_seqs, setup.report_tokens))
        if setup.lengths is not None and (arm := arms.get(sequence.seq)) is not None:
            asked = sequence.seq in asked_seqs
            setup.lengths.drafted(sequence.seq, arm.drafter, length, verdict.accepted, asked)

    # score and learn, off the critical path: drafters catch up on their own devices, the selector hears from them
    with span("tell"):
        pool.commit([s for s in ready if s.generation.speculate])
        wait_ms, round_ms = (verifying - asking) * 1e3, (ended - began) * 1e3
        board.played(rounds, timings, verify_ms, positions, RoundContext(wait_ms, round_ms, told))
    tokens = sum(len(verdict.tokens) for verdict in verdicts)
    if setup.lengths is not None and not prefill:
        setup.lengths.timed(timings, verify_ms, positions, tokens, (ended - began) * 1e3)
    if not prefill:
        setup.pace.ran(len(ready), tokens, (time.perf_counter() - began) * 1e3, plain=not arms)
    return [chunks.get(s.seq) for s in batch]


def _step(sequence: Sequence, draft: Draft | None) -> Step:
    """The forward of one sequence: what its cache lacks, then the draft; logits from the last committed token on."""
    pending = sequence.pending
    return Step(sequence.cache, pending + draft.tokens if draft else pending, logits_from=len(pending) - 1)


def _round(sequence: Sequence, chunk: Chunk, arm: Arm | None, asked: Collection[int], tokens: bool) -> SequenceRound:
    """What the selector is told of a sequence's round."""
    return SequenceRound(
        sequence.seq,
        len(sequence.tokens),
        arm.drafter if arm else "",
        chunk.drafted,
        chunk.accepted,
        length=arm.length if arm else 0,
        carried=bool(chunk.drafted) and sequence.seq not in asked,
        tokens=tuple(chunk.token_ids) if tokens else (),
    )


def _commit(sequence: Sequence, verdict: Verdict, drafter: str, length: int, weights: dict[str, float] | None) -> Chunk:
    """Append the verdict's tokens and roll the target's cache back to all of them but the last."""
    kept = sequence.append(verdict.tokens, verdict.laws)
    sequence.cache.truncate(len(sequence.tokens) - 1)
    accepted = min(verdict.accepted, len(kept))
    logprobs = verdict.logprobs[: len(kept)]
    return Chunk(kept, sequence.finished, drafter, length, accepted, sequence.cached_tokens, weights, logprobs)
