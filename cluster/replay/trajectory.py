"""A recorded sequence as a policy meets it offline: what every drafter would have got right at each position.

All drafters are known at all positions that they scored, whoever played: full information is what makes a replay of
another policy possible at all. A position that a drafter did not score says nothing of it, and it cannot be played
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.cluster.replay.recording import RecordedSequence

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Trajectory:
    """One sequence. Positions count from its first generated token.

    Attributes:
        request: The reply's id.
        route: Whose statistics it shares.
        allowed: The only drafters it might use; empty means all.
        prompt_tokens: Positions before the first one here.
        gammas: [positions, drafters], NaN where not scored.
        lengths: The recorded round's draft length at each position, [positions].
        chance: [positions] in [0, 1), one draw for all drafters and policies, so that all have the same luck.
    """

    request: str
    route: str
    allowed: tuple[str, ...]
    prompt_tokens: int
    gammas: Floats
    lengths: Ints
    chance: Floats

    def __len__(self) -> int:
        return len(self.gammas)

    def accepted(self, position: int, drafter: int, length: int) -> tuple[int, int]:
        """How many tokens of a draft would have been accepted, of how many that can be judged.

        A token is accepted where its draw is below gamma: exact where gammas are 0 or 1 (greedy), and as likely as
        recorded elsewhere. A draft is judged up to the first position that the drafter did not score.
        """
        window = slice(position, position + length)
        gammas = self.gammas[window, drafter]
        unknown = np.flatnonzero(np.isnan(gammas))
        drafted = int(unknown[0]) if len(unknown) else len(gammas)
        misses = np.flatnonzero(~(self.chance[window][:drafted] < gammas[:drafted]))
        return (int(misses[0]) if len(misses) else drafted), drafted


@dataclass(frozen=True, slots=True)
class PlayedRound:
    """One round played offline; positions as in `Trajectory`. `drafter` None is plain decoding."""

    start: int
    tokens: int
    drafter: int | None
    length: int
    drafted: int
    accepted: int
    ms: float


def drafters_of(sequences: Sequence[RecordedSequence]) -> tuple[str, ...]:
    """Every drafter that scored or played, in alphabetical order."""
    names: set[str] = set()
    for sequence in sequences:
        for entry in sequence.rounds:
            names.update(entry.gammas)
            names.update([entry.drafter] if entry.drafter else [])
    return tuple(sorted(names))


def trajectories(sequences: Sequence[RecordedSequence], drafters: Sequence[str], seed: int) -> list[Trajectory]:
    """Every sequence, in order; `drafters` are the columns."""
    generator = np.random.default_rng(seed)
    made = []
    for sequence in sequences:
        tokens = sum(entry.tokens for entry in sequence.rounds)
        gammas = np.full((tokens, len(drafters)), np.nan)
        lengths = np.zeros(tokens, dtype=np.int64)
        for entry in sequence.rounds:
            at = slice(entry.start - sequence.prompt_tokens, entry.committed - sequence.prompt_tokens)
            lengths[at] = entry.length
            for drafter, row in entry.gammas.items():
                gammas[at, drafters.index(drafter)] = [np.nan if gamma is None else gamma for gamma in row]
        chance = generator.random(tokens)
        made.append(
            Trajectory(
                sequence.request, sequence.route, sequence.allowed, sequence.prompt_tokens, gammas, lengths, chance
            )
        )
    return made
