"""Verification of a batch of drafts: from the target's logits to what is accepted, sequence by sequence.

Greedy and seeded sequences are verified by exact match: the target's own choice at every position is settled by the
logits (and, seeded, by noise that is a function of seed and position), and drafts are kept while they agree with it.
Other sampled sequences use rejection sampling, which accepts more often and gives exactly the target's law.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

import torch

from paceline.actors.generation import TokenLogprobs
from paceline.actors.logits_processing import process_logits
from paceline.actors.logprobs import read_logprobs
from paceline.actors.messages import Draft, Laws
from paceline.actors.sequence import Sequence
from paceline.kernels.law import likeliest, position_noise, race, sampling_law, top_width
from paceline.kernels.verification import verify_chains

LAW_WIDTH = 64  # ids of the target's law that drafters score against; what is cut off can only lower a score


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one sequence gains: the accepted part of its draft, one token more, and the target's laws behind them."""

    accepted: int
    tokens: list[int]  # accepted + 1
    laws: Laws | None
    logprobs: tuple[TokenLogprobs, ...] = ()  # of each token, where the request asks for them


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
    verdicts: dict[int, Verdict] = {}
    groups: tuple[list[int], list[int]] = ([], [])
    for index, sequence in enumerate(batch):
        groups[sequence.sampling.point_mass].append(index)
    for members, verify in zip(groups, (_by_rejection, _by_match), strict=True):
        if members:
            whole = len(members) == len(batch)
            rows = logits if whole else torch.cat([logits[starts[i] : starts[i] + lengths[i] + 1] for i in members])
            chosen = [batch[i] for i in members]
            proposals = [drafts.get(sequence.seq) for sequence in chosen]
            results = verify(chosen, proposals, rows, [lengths[i] for i in members])
            verdicts.update(zip(members, results, strict=True))
    for index, sequence in enumerate(batch):
        if (top := sequence.generation.logprobs) is not None:
            rows, verdict = own[starts[index] : starts[index + 1]], verdicts[index]
            verdicts[index] = replace(verdict, logprobs=read_logprobs(rows, verdict.tokens, top))
    return [verdicts[index] for index in range(len(batch))]


def _by_match(
    batch: list[Sequence], drafts: list[Draft | None], logits: torch.Tensor, lengths: list[int]
) -> list[Verdict]:
    choice = likeliest(logits)  # [rows]
    laws: list[Laws | None] = []
    row = 0
    for sequence, length in zip(batch, lengths, strict=True):
        rows = slice(row, row + length + 1)
        row += length + 1
        seed = sequence.sampling.seed
        if sequence.sampling.greedy or seed is None:
            laws.append(None)
            continue
        p = _law([sequence], logits[rows], [length])
        first = len(sequence.tokens)
        noise = torch.stack([position_noise(seed, first + i, p.shape[1]) for i in range(length + 1)]).to(p.device)
        choice[rows] = race(p, noise)
        laws.append(_sparse(p))
    own = choice.tolist()  # the one read-back: what follows is a few comparisons
    verdicts, row = [], 0
    for draft, length, law in zip(drafts, lengths, laws, strict=True):
        accepted = leading_matches(draft.tokens if draft else (), own[row : row + length + 1])
        verdicts.append(Verdict(accepted, own[row : row + accepted + 1], law))
        row += length + 1
    return verdicts


def leading_matches(draft: Items[int], own: Items[int]) -> int:
    """How many drafted tokens agree with the target's own choices, before the first that does not."""
    return next((place for place, token in enumerate(draft) if token != own[place]), len(draft))


def _by_rejection(
    batch: list[Sequence], drafts: list[Draft | None], logits: torch.Tensor, lengths: list[int]
) -> list[Verdict]:
    p = _law(batch, logits, lengths)
    device, vocab = p.device, p.shape[1]
    ids = torch.tensor([t for draft in drafts if draft for t in draft.tokens], dtype=torch.int64, device=device)
    q_ids, q_probs = _proposal_laws(drafts, ids)
    accept = [torch.rand(length, generator=s.noise) for s, length in zip(batch, lengths, strict=True)]
    # A key from the sequence's own generator, expanded: five times faster than drawing the noise, and finer near 0.
    keys = [int(torch.randint(1 << 62, (1,), generator=s.noise)) for s in batch]
    sample = [position_noise(key, len(s.tokens), vocab) for key, s in zip(keys, batch, strict=True)]
    accepted, nexts = verify_chains(
        p,
        ids,
        q_ids.to(device),
        q_probs.to(device),
        torch.tensor(lengths, device=device),
        torch.cat(accept).to(device),
        torch.stack(sample).to(device),
    )
    sparse = _sparse(p)
    laws: list[Laws | None] = []
    row = 0
    for length in lengths:
        laws.append(Laws(sparse.ids[row : row + length + 1], sparse.probs[row : row + length + 1]))
        row += length + 1
    return _verdicts(drafts, accepted, nexts, laws)


def _law(batch: list[Sequence], logits: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    repeats = torch.tensor([length + 1 for length in lengths])
    temperature = torch.tensor([s.sampling.temperature for s in batch]).repeat_interleave(repeats)
    top_k = torch.tensor([s.sampling.top_k for s in batch]).repeat_interleave(repeats)
    top_p = torch.tensor([s.sampling.top_p for s in batch]).repeat_interleave(repeats)
    device = logits.device
    return sampling_law(logits, temperature.to(device), top_k.to(device), top_p.to(device))


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


def _sparse(p: torch.Tensor) -> Laws:
    ids, probs = top_width(p, min(LAW_WIDTH, p.shape[1]), renormalise=False)
    return Laws(ids.cpu().numpy(), probs.cpu().numpy())


def _verdicts(
    drafts: list[Draft | None], accepted: torch.Tensor, nexts: torch.Tensor, laws: list[Laws | None]
) -> list[Verdict]:
    counts, last = accepted.tolist(), nexts.tolist()
    return [
        Verdict(count, [*(draft.tokens[:count] if draft else []), token], law)
        for draft, count, token, law in zip(drafts, counts, last, laws, strict=True)
    ]
