"""The same policies on the same answers offline, with news that travels at once, and the oracle that changes drafters
at every round.

Live, a policy's weights reach the target some rounds later, as they do in serving. A replay of what the selector saw
of one arm's answers tells what that costs each policy, and what the best drafter of every single round would have
brought, which cannot be played. All from gammas (`paceline replay` says how), so that it is a prediction.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from kept_rows import Row
from pydantic import TypeAdapter

from paceline.cluster.explanation import Explanation
from paceline.cluster.replay.oracles import round_oracle
from paceline.cluster.replay.player import Outcome
from paceline.cluster.replay.recording import RecordedSequence, RecordingWriter, read_recording
from paceline.cluster.replay.trajectory import drafters_of, trajectories
from paceline.cluster.replay_command import run_replay

_EXPLANATION: TypeAdapter[Explanation] = TypeAdapter(Explanation)
REQUEST_ORACLE, ROUND_ORACLE = "oracle by request", "oracle by round"


class _EqualRounds:
    """Every round takes as long as every other, so that the fastest way is the one of fewest rounds."""

    def round_ms(self, drafter: int | None, length: int) -> float:
        """One unit."""
        return 1.0


def replayed(
    rows: Sequence[Row], temperature: float, policies: Sequence[str], document: Mapping[str, Any], length: int
) -> dict[str, float]:
    """Tokens per round of each policy, each drafter alone and the oracles; nothing where no answer was explained.

    Args:
        rows: Those with `explanation` are used.
        temperature: Whose.
        policies: By name.
        document: The cluster's settings.
        length: Tokens of every draft.
    """
    explained = [
        _EXPLANATION.validate_python(row["explanation"])
        for row in rows
        if "explanation" in row and row["temperature"] == temperature
    ]
    if not explained:
        return {}
    with tempfile.TemporaryDirectory(prefix="paceline-effect-") as folder:
        sequences = _recorded(explained, Path(folder) / "recording.parquet")
        config = Path(folder) / "cluster.yaml"
        config.write_text(yaml.safe_dump(dict(document)), encoding="utf-8")
        result = run_replay(sequences, policies, config=config, length=str(length))
    rates = {outcome.name: _rate(outcome) for outcome in [*result.policies, *result.fixed]}
    fewest = Outcome(REQUEST_ORACLE)
    for index, tokens in enumerate(result.fixed[0].tokens):
        fewest.rounds.append(min(outcome.rounds[index] for outcome in result.fixed))
        fewest.tokens.append(tokens)
    drafters = drafters_of(sequences)
    by_round = round_oracle(trajectories(sequences, drafters, 0), drafters, _EqualRounds(), length)
    return {**rates, REQUEST_ORACLE: _rate(fewest), ROUND_ORACLE: _rate(by_round)}


def _recorded(explained: Sequence[Explanation], path: Path) -> list[RecordedSequence]:
    with RecordingWriter(path, {"model": "", "policy": "", "requests_lost": 0}) as writer:
        for explanation in explained:
            writer.write(explanation)
    return read_recording(path)[0]


def _rate(outcome: Outcome) -> float:
    """Without the first round of each answer, in which nobody can draft."""
    rounds = sum(outcome.rounds) - len(outcome.rounds)
    return (sum(outcome.tokens) - len(outcome.tokens)) / max(rounds, 1)
