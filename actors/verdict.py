"""Verification of a batch of drafts: from the target's logits to what is accepted, sequence by sequence.

Greedy and seeded sequences are verified by exact match: the target's own choice at every position is settled by the
logits (and, seeded, by noise that is a function of seed and position), and drafts are kept while they agree with it.
Other sampled sequences use rejection sampling, which accepts more often and gives exactly the target's law.

All work on the logits' device is enqueued before any of it is read, and read by one copy: the host waits once a round.
Penalties, biases and log-probabilities, where a request asks for them, cost further waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

import torch

from paceline.actors.generation import TokenLogprobs
from paceline.actors.logits_processing import process_logits
from paceline.actors.logprobs import read_logprobs
from paceline.actors.messages import Draft, Laws
from paceline.actors.sequence import Sequence
from paceline.kernels.law import likeliest, position_noise, race, sampling_law, top_width
from paceline.kernels.read_back import read_back
from paceline.kernels.verification import verify_chains

LAW_WIDTH = 64  # ids of the target's law that drafters score against; what is cut off can only lower a score


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one sequence gains: the accepted part of its draft, one token more, and the target's laws behind them."""

    accepted: int
    tokens: list[int]  # accepted + 1
    laws: Laws | None
    logprobs: tuple[TokenLogprobs, ...] = ()  # of each token, where the request asks for them


# What was enqueued for some sequences: the tensors to be read back, and what makes verdicts of them on the host.
_Enqueued = tuple[list[torch.Tensor], Callable[[list[torch.Tensor]], list[Verdict]]]


def judge(
    batch: list[Sequence], drafts: Mapping[int, Draft], logits: torch.Tensor, lengths: list[int]
) -> list[Verdict]:
    """Verify every sequence's draft.

    Args:
        batch: Sequences, in the order of the logits.
        drafts: Draft by sequence id; absent means none.
        logits: [rows, vocab], lengths[i] + 1 consecutive rows for batch[i].
        lengths: Drafted tokens per sequence.

    Returns:
        One verdict per sequence.
    """
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length + 1)
    own, logits = logits, process_logits(batch, drafts, logits, lengths)
    groups: tuple[list[int], list[int]] = ([], [])
    for index, sequence in enumerate(batch):
        groups[sequence.sampling.point_mass].append(index)
    enqueued: list[tuple[list[int], _Enqueued]] = []
    for members, verify in zip(groups, (_by_rejection, _by_match), strict=True):
        if members:
            whole = len(members) == len(batch)
            rows = logits if whole else torch.cat([logits[starts[i] : starts[i] + lengths[i] + 1] for i in members])
            chosen = [batch[i] for i in members]
            proposals = [drafts.get(sequence.seq) for sequence in chosen]
            enqueued.append((members, verify(chosen, proposals, rows, [lengths[i] for i in members])))
    read = iter(read_back([tensor for _, (tensors, _) in enqueued for tensor in tensors]))
    verdicts: dict[int, Verdict] = {}
    for members, (tensors, conclude) in enqueued:
        verdicts.update(zip(members, conclude([next(read) for _ in tensors]), strict=True))
    for index, sequence in enumerate(batch):
        if (top := sequence.generation.logprobs) is not None:
            rows, verdict = own[starts[index] : starts[index + 1]], verdicts[index]
            verdicts[index] = replace(verdict, logprobs=read_logprobs(rows, verdict.tokens, top))
    return [verdicts[index] for index in range(len(batch))]


def _by_match(batch: list[Sequence], drafts: list[Draft | None], logits: torch.Tensor, lengths: list[int]) -> _Enqueued:
    choice = likeliest(logits)  # [rows]
    sparse: list[torch.Tensor] = []
    row = 0
    for sequence, length in zip(batch, lengths, strict=True):
        rows = slice(row, row + length + 1)
        row += length + 1
        seed = sequence.sampling.seed
        if sequence.sampling.greedy or seed is None:
            continue
        p = _law([sequence], logits[rows], [length])
        first = len(sequence.tokens)
        places = range(first, first + length + 1)
        noise = torch.stack([position_noise(seed, place, p.shape[1], p.device) for place in places])
        choice[rows] = race(p, noise)
        sparse += _sparse(p)

    def conclude(read: list[torch.Tensor]) -> list[Verdict]:
        own, laws = read[0].tolist(), iter(read[1:])  # what follows is a few comparisons
        verdicts, row = [], 0
        for sequence, draft, length in zip(batch, drafts, lengths, strict=True):
            accepted = leading_matches(draft.tokens if draft else (), own[row : row + length + 1])
            law = None if sequence.sampling.greedy else Laws(next(laws).numpy(), next(laws).numpy())
            verdicts.append(Verdict(accepted, own[row : row + accepted + 1], law))
            row += length + 1
        return verdicts

    return [choice, *sparse], conclude


def leading_matches(draft: Items[int], own: Items[int]) -> int:
    """How many drafted tokens agree with the target's own choices, before the first that does not."""
    return next((place for place, token in enumerate(draft) if token != own[place]), len(draft))


def _by_rejection(
    batch: list[Sequence], drafts: list[Draft | None], logits: torch.Tensor, lengths: list[int]
) -> _Enqueued:
    p = _law(batch, logits, lengths)
    vocab = p.shape[1]
    ids = torch.tensor([t for draft in drafts if draft for t in draft.tokens], dtype=torch.int64)
    accept = [torch.rand(length, generator=s.noise) for s, length in zip(batch, lengths, strict=True)]
    # A key from the sequence's own generator, expanded: five times faster than drawing the noise, and finer near 0.
    keys = [int(torch.randint(1 << 62, (1,), generator=s.noise)) for s in batch]
    sample = [position_noise(key, len(s.tokens), vocab, p.device) for key, s in zip(keys, batch, strict=True)]
    # The drafts' operands stay on the CPU, where they can be checked without waiting.
    proposed = (ids, *_proposal_laws(drafts, ids), torch.tensor(lengths), torch.cat(accept))
    accepted, nexts = verify_chains(p, *proposed, torch.stack(sample))

    def conclude(read: list[torch.Tensor]) -> list[Verdict]:
        law_ids, law_probs = read[2].numpy(), read[3].numpy()
        verdicts, row = [], 0
        for draft, count, token, length in zip(drafts, read[0].tolist(), read[1].tolist(), lengths, strict=True):
            law = Laws(law_ids[row : row + length + 1], law_probs[row : row + length + 1])
            verdicts.append(Verdict(count, [*(draft.tokens[:count] if draft else []), token], law))
            row += length + 1
        return verdicts

    return [accepted, nexts, *_sparse(p)], conclude


def _law(batch: list[Sequence], logits: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    repeats = torch.tensor([length + 1 for length in lengths])
    temperature = torch.tensor([s.sampling.temperature for s in batch]).repeat_interleave(repeats)
    top_k = torch.tensor([s.sampling.top_k for s in batch]).repeat_interleave(repeats)
    top_p = torch.tensor([s.sampling.top_p for s in batch]).repeat_interleave(repeats)
    return sampling_law(logits, temperature, top_k, top_p)  # looked at on the CPU, where nobody waits


def _proposal_laws(drafts: list[Draft | None], ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad every draft's law to one width; a draft without one is a point mass.

    Returns:
        ids [drafts, width] int64 (-1 unused) and probabilities [drafts, width] float32.
    """
    width = max((draft.q.ids.shape[1] for draft in drafts if draft and draft.q), default=1)
    q_ids = torch.full((len(ids), width), -1, dtype=torch.int64)
    q_probs = torch.zeros((len(ids), width))
    row = 0
    for draft in drafts:
        if not draft:
            continue
        rows = slice(row, row + len(draft.tokens))
        row += len(draft.tokens)
        if draft.q is None:
            q_ids[rows, 0] = torch.tensor(draft.tokens)
            q_probs[rows, 0] = 1.0
        else:
            own = draft.q.ids.shape[1]
            q_ids[rows, :own] = torch.from_numpy(draft.q.ids.astype("int64"))
            q_probs[rows, :own] = torch.from_numpy(draft.q.probs)
    return q_ids, q_probs


def _sparse(p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return top_width(p, min(LAW_WIDTH, p.shape[1]), renormalise=False)
