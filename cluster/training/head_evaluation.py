"""Tokens per round of a head on passages it has not seen, from its own chains: no target is run.

Greedy: the chain that the head would draft is made from every slot at once, and a walk along the answer takes, at each
round's start, as many drafted tokens as agree with it, and one more: exactly what greedy decoding of this answer would
have done. Sampled: the expected accepted length of the product form (docs/decisions.md) with chained gammas along the
answer's own tokens, averaged over its positions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from paceline.cluster.training.feature_store import Passage
from paceline.cluster.training.head_module import HeadModule

_BATCH_TOKENS = 4096


@dataclass(slots=True)
class DomainResult:
    """What a head does in one domain."""

    rounds: int = 0
    tokens: int = 0  # that those rounds gave
    eal: float = 0.0  # summed over positions
    positions: int = 0
    starts: int = 0  # chains looked at for `calibration`
    chained: int = 0  # tokens that they got right
    runs: list[int] = field(default_factory=list)  # by number of first levels right in a row: starts

    @property
    def tokens_per_round(self) -> float:
        """Greedy, the bonus token included."""
        return self.tokens / max(1, self.rounds)

    @property
    def sampled_tokens_per_round(self) -> float:
        """At the temperature that was asked for."""
        return self.eal / max(1, self.positions)


def calibration(results: Iterable[DomainResult]) -> float:
    """The factor that makes the first level's acceptance tell a chain's length.

    A commit measures the first level only, at every position. With c times those gammas the product form gives as many
    tokens from a position as chains drafted there really got, on average; 1 where they are no shorter.
    """
    results = list(results)
    starts = sum(result.starts for result in results)
    chained = sum(result.chained for result in results)
    runs = [sum(counts) for counts in zip(*(result.runs for result in results if result.runs), strict=True)]
    if not starts or not sum(runs):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        told = sum(count * sum(middle**level for level in range(1, run + 1)) for run, count in enumerate(runs))
        low, high = (middle, high) if told < chained else (low, middle)
    return round(high, 4)


@torch.inference_mode()
def evaluate_head(
    head: HeadModule, passages: Sequence[Passage], levels: int, temperature: float
) -> dict[str, DomainResult]:
    """Measure a head on passages, by domain.

    Args:
        head: To be measured.
        passages: Of answers that it was not trained on; the greedy figures look at those answered greedily.
        levels: Draft length.
        temperature: Of the sampled figures, above 0.
    """
    results: dict[str, DomainResult] = defaultdict(DomainResult)
    device = head.norm.device
    for some in _batched(passages):
        slots = max(len(passage.tokens) for passage in some) - 1
        tokens = torch.zeros(len(some), slots + levels, dtype=torch.int64)
        width = some[0].features.shape[1]
        features = torch.zeros(len(some), slots, width, dtype=torch.bfloat16)
        for row, passage in enumerate(some):
            tokens[row, : len(passage.tokens) - 1] = passage.tokens[1:]
            features[row, : len(passage.tokens) - 1] = passage.features[:-1]
        tokens, features = tokens.to(device), features.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            chains = head.chain(tokens[:, :slots], features, levels).cpu()
            states = head(tokens[:, : slots + levels - 1], features, levels)
            for row, passage in enumerate(some):
                result = results[passage.domain]
                _count_greedy(result, passage, chains[row], levels)
                _count_sampled(result, head, passage, [state[row] for state in states], temperature)
    return dict(results)


def _count_greedy(result: DomainResult, passage: Passage, chains: torch.Tensor, levels: int) -> None:
    """`chains` [slots, levels]: slot i continues token i + 1, so its first drafted token stands for token i + 2."""
    tokens = passage.tokens.tolist()
    drafted = chains.tolist()
    end = len(tokens)
    at = passage.prompt_tokens  # the answer's first token comes of the prompt's forward
    if not result.runs:
        result.runs = [0] * (levels + 1)
    for start in range(max(1, at), end - levels - 1):
        result.starts += 1
        result.chained += _leading(drafted[start - 1], tokens[start + 1 :], levels)
        firsts = [drafted[slot][0] for slot in range(start - 1, start - 1 + levels)]
        result.runs[_leading(firsts, tokens[start + 1 :], levels)] += 1
    while at < end - 1:
        accepted = _leading(drafted[at - 1], tokens[at + 1 : end - 1], levels)
        result.rounds += 1
        result.tokens += accepted + 1
        at += accepted + 1


def _leading(guesses: Sequence[int], tokens: Sequence[int], most: int) -> int:
    """How many of the first `most` guesses in a row are the tokens."""
    count = 0
    while count < min(most, len(tokens)) and guesses[count] == tokens[count]:
        count += 1
    return count


def _count_sampled(
    result: DomainResult, head: HeadModule, passage: Passage, states: list[torch.Tensor], temperature: float
) -> None:
    count = len(passage.tokens) - 1
    levels = len(states)
    first, last = max(0, passage.prompt_tokens - 1), count - levels
    if last <= first:
        return
    rows = head.head_rows
    final = passage.features[1:, -head.config.width :].to(rows)  # [count, width] of tokens 1 ..
    normaliser = (final @ head.output_rows.T).float().div_(temperature).logsumexp(dim=-1)
    p = ((final @ rows.T).float() / temperature - normaliser[:, None]).exp()  # [count, draft_vocab]
    product = torch.ones(last - first, device=rows.device)
    for level, state in enumerate(states):
        q = ((state[first:last].to(rows.dtype) @ rows.T).float() / temperature).softmax(dim=-1)
        product = product * torch.minimum(p[first + level : last + level], q).sum(dim=-1)
        result.eal += float(product.sum())
    result.eal += last - first
    result.positions += last - first


def _batched(passages: Sequence[Passage]) -> Iterator[list[Passage]]:
    some: list[Passage] = []
    for passage in sorted((p for p in passages if len(p.tokens) > p.prompt_tokens + 1), key=lambda p: len(p.tokens)):
        if some and (len(some) + 1) * len(passage.tokens) > _BATCH_TOKENS:
            yield some
            some = []
        some.append(passage)
    if some:
        yield some
