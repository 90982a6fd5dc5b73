"""A router as people build them before they choose online: a classifier of prompts, trained on prompts by domain.

Hashed words and pairs of neighbouring words, softmax regression: nearly always right on prompts that are worded like
those that it was trained on. `bench_router` sees what rewording does to it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import torch

BUCKETS = 1 << 14
_WORD = re.compile(r"\w+|[^\w\s]")


class PromptRouter:
    """Prompts to domains.

    Args:
        domains: What it can say.
    """

    def __init__(self, domains: Sequence[str]) -> None:
        self.domains = list(domains)
        self._weights = torch.zeros(BUCKETS, len(self.domains))

    def fit(self, texts: Sequence[str], domains: Sequence[str], steps: int = 100) -> None:
        """Learn from prompts and whose they are; all of them in every step."""
        features = _features(texts)
        labels = torch.tensor([self.domains.index(domain) for domain in domains])
        weights = self._weights.requires_grad_()
        optimiser = torch.optim.Adam([weights], lr=0.1)
        for _ in range(steps):
            loss = torch.nn.functional.cross_entropy(features @ weights, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        self._weights = weights.detach()

    def routes(self, texts: Sequence[str]) -> list[str]:
        """The likeliest domain of each prompt."""
        best = (_features(texts) @ self._weights).argmax(dim=1)
        return [self.domains[index] for index in best.tolist()]


def _features(texts: Sequence[str]) -> torch.Tensor:
    """[prompts, buckets], sparse; each prompt's row has length 1."""
    bags = [_buckets(text) for text in texts]
    rows = [row for row, bag in enumerate(bags) for _ in bag]
    places = torch.tensor([rows, [bucket for bag in bags for bucket in bag]])
    values = torch.tensor([len(bags[row]) ** -0.5 for row in rows])
    return torch.sparse_coo_tensor(places, values, (len(bags), BUCKETS), check_invariants=False).coalesce()


def _buckets(text: str) -> list[int]:
    """The set of a prompt's words and pairs, hashed; the same on every machine."""
    words = ["", *_WORD.findall(text.lower())]  # never empty
    pairs = [f"{first} {second}" for first, second in pairwise(words)]
    return sorted({zlib.crc32(item.encode()) % BUCKETS for item in [*words, *pairs]})
