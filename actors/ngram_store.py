"""A bounded table of n-grams and how often each occurred: what the `retrieval` kind looks up, and how it is made.

An n-gram is one 64-bit number, the first token in its highest bits, so that all that begin alike lie together in the
sorted table: the same array answers for every context length. As many tokens go into a number as its vocabulary's bits
allow, 4 for 49,152 ids. Ten bytes an n-gram, on disk and in memory; no copy is made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from paceline.actors.errors import ModelSourceError

STORE_FILE = "ngrams.safetensors"
WIDTH = 32  # continuations of a law, the most frequent ones
_WORD = 64  # bits

Counted = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # tokens and counts, the most frequent last


@dataclass(frozen=True, slots=True)
class NgramStore:
    """Sorted n-grams with counts."""

    vocab_size: int
    grams: npt.NDArray[np.uint64]  # ascending
    counts: npt.NDArray[np.uint16]

    @property
    def order(self) -> int:
        """Tokens of an n-gram; a context has one less at most."""
        return _WORD // _bits(self.vocab_size)

    def continuations(self, context: Sequence[int]) -> Counted:
        """What followed these tokens, and how often; empty where they never occurred.

        Args:
            context: 1 to `order` - 1 tokens.
        """
        bits, order, known = _bits(self.vocab_size), self.order, len(context)
        low = 0
        for token in context:
            low = low << bits | token
        rest = (order - known) * bits
        first = np.searchsorted(self.grams, np.uint64(low << rest))
        last = np.searchsorted(self.grams, np.uint64(((low + 1) << rest) - 1), side="right")
        shifted = self.grams[first:last] >> np.uint64(rest - bits)
        nexts = (shifted & np.uint64((1 << bits) - 1)).astype(np.int64)
        # Those that begin alike and go on alike lie together, too.
        starts = np.flatnonzero(np.diff(nexts, prepend=-1))
        if not len(starts):
            return nexts, nexts
        totals = np.add.reduceat(self.counts[first:last].astype(np.int64), starts)
        ranked = np.argsort(totals, kind="stable")[-WIDTH:]
        return nexts[starts][ranked], totals[ranked]

    def write(self, folder: Path) -> None:
        """Write the folder's table."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, npt.NDArray[Any]] = {"grams": self.grams, "counts": self.counts}
        save_file(tensors, folder / STORE_FILE, {"vocab_size": str(self.vocab_size)})

    @classmethod
    def read(cls, folder: Path) -> NgramStore:
        """Read a folder's table.

        Raises:
            ModelSourceError: it is missing or damaged.
        """
        path = folder / STORE_FILE
        try:
            with safe_open(path, framework="np") as file:
                store = cls(int(file.metadata()["vocab_size"]), file.get_tensor("grams"), file.get_tensor("counts"))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ModelSourceError(f"{path}: not a table of n-grams ({error}); build it again") from error
        if store.grams.dtype != np.uint64 or store.counts.shape != store.grams.shape or store.grams.ndim != 1:
            raise ModelSourceError(f"{path}: not a table of n-grams (shapes); build it again")
        return store


def build_store(texts: Iterable[Sequence[int]], vocab_size: int, most: int) -> NgramStore:
    """Count the n-grams of texts; where there are more than `most`, the rarest go.

    Only whole n-grams count: of a text's last tokens, what follows a shorter context is not seen.

    Args:
        texts: Token ids.
        vocab_size: Of the target.
        most: N-grams kept.

    Raises:
        ValueError: a token is outside the vocabulary, or the vocabulary is too large for two tokens to a number.
    """
    bits = _bits(vocab_size)
    order = _WORD // bits
    parts = []
    for text in texts:
        ids = np.asarray(text, dtype=np.int64)
        if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
            raise ValueError(f"texts: ids must lie in 0..{vocab_size - 1}")
        if len(ids) >= order:
            rows = np.lib.stride_tricks.sliding_window_view(ids, order)
            places = np.uint64(bits) * np.arange(order - 1, -1, -1, dtype=np.uint64)
            parts.append(np.bitwise_or.reduce(rows.astype(np.uint64) << places, axis=1))
    grams = np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)
    unique, counts = np.unique(grams, return_counts=True)
    if len(unique) > most:
        kept = np.sort(np.argsort(counts, kind="stable")[-most:])
        unique, counts = unique[kept], counts[kept]
    return NgramStore(vocab_size, unique, np.minimum(counts, 65535).astype(np.uint16))


def _bits(vocab_size: int) -> int:
    bits = max(1, (vocab_size - 1).bit_length())
    if 2 * bits > _WORD:
        raise ValueError(f"vocab_size: {vocab_size} is too large for two tokens in {_WORD} bits")
    return bits
