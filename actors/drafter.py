"""What every drafter kind implements: four calls on batches of sequences.

A kind is one file and one line in `drafter_registry`. It holds no sockets and no threads: `DrafterHost` calls it from
one thread at a time, and has already refused gaps, repeats, unknown sessions and everything over the limits.

Scoring is catching up: to draft, a kind must run committed tokens anyway, and the same pass gives its law at every
committed position. `commit` therefore returns gamma, the probability that the kind's proposal there would be accepted:

    greedy          1 where its best guess is the committed token, else 0
    point mass d    p(d): the target's probability of its guess (0 where it has none)
    sampled         sum over x of min(p(x), q(x)), q after the same temperature, top-k and top-p as p

(HedgeSpec, arXiv 2510.20064; see docs/structure.md for where the number goes.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from paceline.actors.messages import Commit, Draft, Open, Probs, Propose


class Drafter(Protocol):
    """A drafter kind. Sequence ids are keys; the drafter owns the caches behind them."""

    vocab_size: int

    def open(self, opens: Sequence[Open]) -> None:
        """Take sequences. A model kind may prefill lazily, on the first commit or propose."""
        ...

    def commit(self, commits: Sequence[Commit]) -> list[Probs]:
        """Append committed tokens and score them.

        Each commit starts exactly where the sequence ends now; tokens that were drafted beyond it are rolled back.

        Returns:
            One array of gammas per commit, shape [len(commit.tokens)], each in [0, 1].
        """
        ...

    def propose(self, proposes: Sequence[Propose]) -> list[Draft]:
        """Draft up to `length` tokens per sequence, in the order asked; an empty draft is no proposal."""
        ...

    def close(self, seqs: Sequence[int]) -> None:
        """Free the sequences' caches."""
        ...
