"""What every drafter kind implements: four calls on batches of sequences.

A kind is one file and one line in `drafter_registry`. It holds no sockets and no threads: `DrafterHost` calls it from
one thread at a time, and has already refused gaps, repeats, unknown sessions and everything over the limits.

Scoring is catching up: to draft, a kind must run committed tokens anyway, and the same pass gives its law at every
committed position. `commit` therefore returns gamma, the probability that the kind's proposal there would be accepted:

    greedy          1 where its best guess is the committed token, else 0
    point mass d    p(d): the target's probability of its guess (0 where it has none)
    sampled         sum over x of min(p(x), q(x)), q after the same temperature, top-k and top-p as p

(HedgeSpec, arXiv 2510.20064; see docs/structure.md for where the number goes.)

A kind may ask for hidden states of the target ("features", see `FeatureRequest`). They come with the tokens they go
with, in `Open` and `Commit`, and `DrafterHost` has checked that they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from paceline.actors.errors import ConfigError
from paceline.actors.messages import Commit, Draft, Open, Probs, Propose


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """The features of the target that a kind reads.

    Every `Open` and `Commit` then carries a row [len(layers) * width] for each of its last `window` tokens, or for all
    of them where it has fewer; only the first token of a text has none. The row that goes with the token at position j
    is the target's hidden states, layer after layer, of when it ran the token at j - 1.

    Raises:
        ConfigError: a field is out of range.
    """

    layers: tuple[int, ...]  # ascending, from 1 to the target's number of layers; see `causal_model`
    window: int  # most rows of one message: as much context as the kind keeps
    width: int  # of the target's hidden states

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 1:
            raise ConfigError(f"layers: {list(self.layers)}; expected one or more ascending numbers from 1 on")
        for field, value in (("window", self.window), ("width", self.width)):
            if value < 1:
                raise ConfigError(f"{field}: {value}; expected at least 1")

    @property
    def row_width(self) -> int:
        """Values of one row."""
        return len(self.layers) * self.width


class Drafter(Protocol):
    """A drafter kind. Sequence ids are keys; the drafter owns the caches behind them."""

    vocab_size: int

    @property
    def features(self) -> FeatureRequest | None:
        """The target's features that it reads; None where it reads none."""
        ...

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
