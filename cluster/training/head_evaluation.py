"""Tokens per round of a head on passages it has not seen, from its own chains: no target is run.

The chain that the head would draft is made from every slot at once, and a walk along the answer takes, at each
round's start, as many drafted tokens as agree with it, and one more: exactly what greedy decoding of this answer would
have done.
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
    starts: int = 0  # chains looked at for `calibration`
    chained: int = 0  # tokens that they got right
    runs: list[int] = field(default_factory=list)  # by number of first levels right in a row: starts

    @property
    def tokens_per_round(self) -> float:
        """The bonus token included."""
        return self.tokens / max(1, self.rounds)


def calibration(results: Iterable[DomainResult]) -> float:
    """The factor that makes the first level's acceptance tell a chain's length.

    A commit measures the first level only, at every position. With c times those gammas the product form gives as many
    tokens from a position as chains drafted there really got, on average; 1 where they are no shorter, and never less
    than 0.01: a head must be given a chance to show that it has become better.
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
    return max(0.01, round(high, 4))


@torch.inference_mode()
def evaluate_head(head: HeadModule, passages: Sequence[Passage], levels: int) -> dict[str, DomainResult]:
    """Measure a head on passages, by domain.

    Args:
        head: To be measured.
        passages: Of answers that it was not trained on; those not answered greedily are passed over.
        levels: Draft length.
    """
    results: dict[str, DomainResult] = defaultdict(DomainResult)
    device = head.norm.device
    for some in _batched(passages):
        slots = max(len(passage.tokens) for passage in some) - 1
        tokens = torch.zeros(len(some), slots, dtype=torch.int64)
        width = some[0].features.shape[1]
        features = torch.zeros(len(some), slots, width, dtype=torch.bfloat16)
        for row, passage in enumerate(some):
            tokens[row, : len(passage.tokens) - 1] = passage.tokens[1:]
            features[row, : len(passage.tokens) - 1] = passage.features[:-1]
        tokens, features = tokens.to(device), features.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            chains = head.chain(tokens, features, levels).cpu()
        for row, passage in enumerate(some):
            _count(results[passage.domain], passage, chains[row], levels)
    return dict(results)


def _count(result: DomainResult, passage: Passage, chains: torch.Tensor, levels: int) -> None:
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


def _batched(passages: Sequence[Passage]) -> Iterator[list[Passage]]:
    some: list[Passage] = []
    walked = (p for p in passages if p.temperature == 0 and len(p.tokens) > p.prompt_tokens + 1)
    for passage in sorted(walked, key=lambda p: len(p.tokens)):
        if some and (len(some) + 1) * len(passage.tokens) > _BATCH_TOKENS:
            yield some
            some = []
        some.append(passage)
    if some:
        yield some
