"""Recorded sequences that a test invents: drafters of known acceptance, played at known times."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from paceline.cluster.explanation import ExplainedRound, ExplainedSequence, Explanation
from paceline.cluster.replay.recording import RecordedRound, RecordedSequence, RecordingWriter

PROMPT = 10
Gammas = npt.NDArray[np.float64]


def greedy(generator: np.random.Generator, rate: float, tokens: int) -> Gammas:
    """Gammas of 0 and 1, as greedy text has them."""
    return (generator.random(tokens) < rate).astype(np.float64)


def played(
    gammas: Mapping[str, Gammas],
    drafter: str,
    length: int = 4,
    *,
    request: str = "r",
    draft_ms: float = 2.0,
    route: str = "",
) -> RecordedSequence:
    """One drafter drafts `length` tokens a round; gammas of 1 are accepted. Rounds take 10 ms + 0.5 ms a position."""
    tokens = len(next(iter(gammas.values())))
    rounds: list[RecordedRound] = []
    position = 0
    while position < tokens:
        drafted = min(length, tokens - position - 1) if position else 0
        window = gammas[drafter][position : position + drafted] if drafted else np.zeros(0)
        accepted = int(np.cumprod(window >= 1.0).sum())
        end = position + accepted + 1
        scored = {
            name: [None if np.isnan(x) else float(x) for x in row[position:end].tolist()]
            for name, row in gammas.items()
        }
        verify_ms = 10.0 + 0.5 * (drafted + 1) if position else None
        wait_ms = draft_ms if drafted else 0.0
        rounds.append(
            RecordedRound(
                start=PROMPT + position,
                committed=PROMPT + end,
                drafter=drafter if drafted else "",
                length=drafted,
                drafted=drafted,
                accepted=accepted,
                carried=False,
                weights=None,
                gammas=scored,
                draft_ms=draft_ms if drafted else None,
                wait_ms=wait_ms,
                verify_ms=verify_ms,
                round_ms=wait_ms + (verify_ms or 30.0) + 0.25,
                verify_tokens=drafted + 1,
                sequences=1,
            )
        )
        position = end
    return RecordedSequence(request, 0, route, (), PROMPT, tuple(rounds), 0)


def write(path: Path, *sequences: RecordedSequence) -> None:
    """As `paceline record` would."""
    with RecordingWriter(path, {"model": "tiny", "policy": "uniform"}) as writer:
        for seq, sequence in enumerate(sequences, 1):
            rounds = [
                ExplainedRound(number, **{name: getattr(entry, name) for name in RecordedRound.__dataclass_fields__})
                for number, entry in enumerate(sequence.rounds)
            ]
            choice = ExplainedSequence(0, seq, "t", sequence.route, [], PROMPT, True, 1.0, rounds, 0, 0)
            writer.write(Explanation(f"{sequence.request}-{seq}", seq, True, [choice]))
