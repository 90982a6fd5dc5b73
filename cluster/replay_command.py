"""`paceline replay FILE`: policies over recorded traffic, offline, beside the oracles that only hindsight has."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from paceline.actors.errors import ConfigError
from paceline.cluster.config import ClusterConfig, SelectorConfig, load_config, parse_config
from paceline.cluster.replay.choosers import FixedChooser, SelectorChooser
from paceline.cluster.replay.fitted_times import FittedTimes
from paceline.cluster.replay.length_rules import AdaptedLength, FixedLength, LengthRule, RecordedLength
from paceline.cluster.replay.oracles import request_oracle, round_oracle
from paceline.cluster.replay.player import Outcome, Player
from paceline.cluster.replay.prediction import Prediction, predictions
from paceline.cluster.replay.recording import RecordedSequence, read_recording
from paceline.cluster.replay.trajectory import Trajectory, drafters_of, trajectories
from paceline.cluster.speculation_report import PLAIN

PIPED_WIDTH = 160  # where there is no terminal whose width would count
ADAPT, RECORDED, LEARNED = "adapt", "recorded", "learned"


@dataclass(frozen=True)
class Replay:
    """What came of a replay."""

    policies: list[Outcome]
    fixed: list[Outcome]
    best_fixed: Outcome
    request_oracle: Outcome
    round_oracle: Outcome
    predictions: list[Prediction]
    unmeasured: tuple[str, ...]


def replay(
    file: Path,
    policies: Sequence[str],
    *,
    config: Path | None = None,
    length: str = ADAPT,
    seed: int = 0,
    plot: Path | None = None,
    as_json: bool = False,
    console: Console | None = None,
) -> int:
    """Replay policies and print how they did. Returns 0.

    Args:
        file: A recording.
        policies: Names as in `selector.policy`; `fixed:NAME` always plays one drafter.
        config: Settings whose `selector` section the policies take; None takes the defaults.
        length: `adapt` is the target's own rule, `recorded` the lengths of the recording, a number always that;
            `learned` lets the selector set them, where the policy learns of all drafters, and else the target's rule.
        seed: Of draws by weight, and of acceptances where they are not certain.
        plot: PNG of the regret to write.
        as_json: End with one JSON line.
        console: Where to print; default standard output.

    Raises:
        ConfigError: the recording, a policy, a length or the settings are wrong, or the plot cannot be written.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    sequences, about = read_recording(file)
    if not sequences:
        raise ConfigError(f"{file}: holds no round; nothing to replay")
    if seed < 0:
        raise ConfigError(f"--seed: {seed}; expected 0 or more")
    result = run_replay(sequences, policies, config=config, length=length, seed=seed, console=console)
    tokens, rounds = sum(result.round_oracle.tokens), sum(len(sequence.rounds) for sequence in sequences)
    console.print(
        f"{file}: {len(sequences)} sequences, {tokens} tokens in {rounds} rounds, model {about['model']}, recorded "
        f"under policy {about['policy']}; {tokens / rounds:.2f} tokens per round\n",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    console.print(outcome_table(result))
    console.print("\nthe same rounds, as recorded and as predicted from gammas and fitted times", highlight=False)
    console.print(prediction_table(result.predictions))
    for line in _remarks(sequences, result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if plot is not None:
        from paceline.cluster.replay.regret_plot import plot_regret

        title = f"{file.name}: {tokens} tokens"
        shown = [*result.policies, replace(result.best_fixed, name=f"best fixed: {result.best_fixed.name}")]
        plot_regret(shown, [result.request_oracle, result.round_oracle], plot, title)
        console.print(f"regret drawn in {plot}", highlight=False, soft_wrap=True)
    if as_json:
        console.print(json.dumps(_document(result)), markup=False, highlight=False, soft_wrap=True)
    return 0


def run_replay(
    sequences: Sequence[RecordedSequence],
    policies: Sequence[str],
    *,
    config: Path | None = None,
    length: str = ADAPT,
    seed: int = 0,
    console: Console | None = None,
) -> Replay:
    """As `replay`, without a file, words or pictures.

    Raises:
        ConfigError: a policy, a length or the settings are wrong, or the recording holds too little.
    """
    drafters = drafters_of(sequences)
    played: list[Trajectory] = trajectories(sequences, drafters, seed)
    times = FittedTimes(sequences, drafters)
    base = ClusterConfig() if config is None else load_config(config)
    selectors = {name: _selector(base, name, drafters) for name in policies if not name.startswith("fixed:")}
    max_draft = max([entry.length for sequence in sequences for entry in sequence.rounds] + [1])
    make_rule = _length_rule(length, max_draft)
    player = Player(played, drafters, times, max_draft, seed)
    fixed = [
        player.play(name, FixedChooser(column, len(drafters)), make_rule())
        for column, name in [*enumerate(drafters), (None, PLAIN)]
    ]
    by_name = {outcome.name: outcome for outcome in fixed}
    outcomes = []
    for name in track(policies, "replaying", console=console or Console(quiet=True), transient=True):
        if name.startswith("fixed:"):
            drafter = name.removeprefix("fixed:")
            if drafter not in by_name:
                raise ConfigError(f"--policy: {name!r}: the recording's drafters are {', '.join(by_name)}")
            outcomes.append(by_name[drafter])
        else:
            chooser = SelectorChooser(selectors[name], max_draft, drafters, times, length == LEARNED)
            outcomes.append(player.play(name, chooser, make_rule()))
    best = min(fixed, key=lambda outcome: sum(outcome.ms))
    return Replay(
        outcomes,
        fixed,
        best,
        request_oracle(fixed),
        round_oracle(played, drafters, times, max_draft),
        predictions(sequences, played, drafters, times),
        times.unmeasured,
    )


def outcome_table(result: Replay) -> Table:
    """A line per policy, then what is fixed or known only in hindsight. Shares are of tokens per second."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("policy", no_wrap=True)
    for column in ("tokens/round", "tokens/s", "of best fixed", "of request oracle", "of round oracle"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("rounds")
    oracles = [result.request_oracle, result.round_oracle]
    fixed = sorted(result.fixed, key=lambda outcome: sum(outcome.ms))
    for section, outcomes in (("", result.policies), ("fixed: ", fixed), ("", oracles)):
        for outcome in outcomes:
            marks = [_of(outcome, other) for other in (result.best_fixed, result.request_oracle, result.round_oracle)]
            figures = [f"{outcome.tokens_per_round:.2f}", f"{outcome.tokens_per_s:.1f}", *(f"{x:.3f}" for x in marks)]
            table.add_row(section + outcome.name, *figures, _shares(outcome))
        table.add_section()
    return table


def prediction_table(rows: Sequence[Prediction]) -> Table:
    """A line per drafter that drafted in the recording."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("drafter", no_wrap=True)
    for column in ("rounds", "tokens/round recorded", "predicted", "ms/round recorded", "predicted", "unscored"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        figures = [f"{row.tokens:.3f}", f"{row.predicted_tokens:.3f}", f"{row.ms:.1f}", f"{row.predicted_ms:.1f}"]
        table.add_row(row.drafter, str(row.rounds), *figures, str(row.unscored))
    return table


def _shares(outcome: Outcome) -> str:
    total = max(outcome.by_drafter.total(), 1)
    return ", ".join(f"{name} {count / total:.0%}" for name, count in outcome.by_drafter.most_common(4))


def _of(outcome: Outcome, other: Outcome) -> float:
    return sum(other.ms) / sum(outcome.ms)


def _selector(base: ClusterConfig, policy: str, drafters: Sequence[str]) -> SelectorConfig:
    """The base with another policy, and nothing kept to be explained.

    Raises:
        ConfigError: there is no such policy.
    """
    if policy == "fixed":
        raise ConfigError(f"--policy: 'fixed' needs a drafter: fixed:NAME, NAME one of {', '.join(drafters)}, {PLAIN}")
    document = base.model_dump()
    document["selector"] |= {"policy": policy, "drafter": None, "explain_requests": 0}
    return parse_config(document, f"--policy {policy}").selector


def _length_rule(length: str, max_draft: int) -> Callable[[], LengthRule]:
    if length in {ADAPT, LEARNED}:
        return AdaptedLength
    if length == RECORDED:
        return RecordedLength
    if not (length.isascii() and length.isdecimal() and 0 < int(length) <= max_draft):
        raise ConfigError(
            f"--length: {length!r}: expected {ADAPT!r}, {LEARNED!r}, {RECORDED!r}, or 1 to {max_draft}, the longest "
            "recorded"
        )
    return lambda: FixedLength(int(length))


def _remarks(sequences: Sequence[RecordedSequence], result: Replay) -> list[str]:
    remarks = []
    if result.unmeasured:
        remarks.append(f"never timed, and taken to be as fast as the fastest: {', '.join(result.unmeasured)}")
    left_out = sum(sequence.left_out for sequence in sequences)
    if left_out:
        remarks.append(f"{left_out} recorded rounds are left out: they come after rounds that nobody heard of")
    for outcome in result.policies:
        share = outcome.unscored / max(sum(outcome.rounds), 1)
        if share >= 0.01:
            remarks.append(f"{outcome.name}: {share:.0%} of its weight lay on drafters that did not score the position")
    return remarks


def _document(result: Replay) -> dict[str, Any]:
    def written(outcome: Outcome) -> dict[str, Any]:
        return {
            "name": outcome.name,
            "tokens_per_round": outcome.tokens_per_round,
            "tokens_per_s": outcome.tokens_per_s,
            "of_best_fixed": _of(outcome, result.best_fixed),
            "of_request_oracle": _of(outcome, result.request_oracle),
            "of_round_oracle": _of(outcome, result.round_oracle),
        }

    return {
        "policies": [written(outcome) for outcome in result.policies],
        "fixed": [written(outcome) for outcome in result.fixed],
        "oracles": [written(result.request_oracle), written(result.round_oracle)],
        "predictions": [asdict(row) for row in result.predictions],
    }
