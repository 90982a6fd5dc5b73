"""Replays: exact where the answer is known, never better than the oracles, and honest about what was not scored."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from invented_traffic import PROMPT, Gammas, greedy, played, write

from paceline.actors.errors import ConfigError
from paceline.cluster.cli import main
from paceline.cluster.replay.fitted_times import FittedTimes, Line
from paceline.cluster.replay.oracles import round_oracle
from paceline.cluster.replay.recording import RecordedSequence
from paceline.cluster.replay.trajectory import drafters_of, trajectories
from paceline.cluster.replay_command import run_replay


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(5)


def streams(generator: np.random.Generator, count: int, tokens: int, **rates: float) -> list[RecordedSequence]:
    """Requests of one law, played by the drafters in turn."""
    names = itertools.cycle(rates)
    made = []
    for number in range(count):
        gammas = {name: greedy(generator, rate, tokens) for name, rate in rates.items()}
        made.append(played(gammas, next(names), request=f"r{number}"))
    return made


def test_the_drafter_that_played_is_predicted_to_the_token(generator: np.random.Generator) -> None:
    sequences = streams(generator, 4, 120, a=0.8)
    result = run_replay(sequences, ["fixed:a"], length="recorded")
    rounds = sum(len(sequence.rounds) for sequence in sequences)
    assert sum(result.policies[0].rounds) == rounds
    assert result.policies[0].tokens_per_round == pytest.approx(480 / rounds)
    (row,) = result.predictions
    assert row.tokens == pytest.approx(row.predicted_tokens)
    assert row.ms == pytest.approx(row.predicted_ms, rel=0.01)
    assert row.unscored == 0


def test_a_drafter_whose_scores_promise_more_than_it_keeps_is_shown(generator: np.random.Generator) -> None:
    """As draft heads do, whose deeper levels feed on their own states."""
    kept = greedy(generator, 0.6, 200)
    sequence = played({"head": kept}, "head")
    promised = np.where(kept == 1.0, 1.0, 0.5)
    inflated = played({"head": kept, "shown": promised}, "head")
    rounds = tuple(
        entry.__class__(
            **{name: getattr(entry, name) for name in entry.__dataclass_fields__ if name != "gammas"},
            gammas={"head": entry.gammas["shown"]},
        )
        for entry in inflated.rounds
    )
    optimist = RecordedSequence("r", 0, "", (), PROMPT, rounds, 0)
    (exact,), (hopeful,) = run_replay([sequence], []).predictions, run_replay([optimist], []).predictions
    assert exact.predicted_tokens == pytest.approx(exact.tokens)
    assert hopeful.tokens == pytest.approx(exact.tokens)
    assert hopeful.predicted_tokens > 1.1 * hopeful.tokens


def least_ms(gammas: dict[str, Gammas], times: FittedTimes, most: int) -> float:
    """The fastest way through one text, by trying all."""
    names, end = sorted(gammas), len(next(iter(gammas.values())))

    def least(position: int) -> float:
        if position == end:
            return 0.0
        best = times.round_ms(None, 0) + least(position + 1)
        for column, name in enumerate(names) if position else ():
            for length in range(1, min(most, end - position - 1) + 1):
                window = gammas[name][position : position + length]
                accepted = int(np.cumprod(window).sum())
                best = min(best, times.round_ms(column, length) + least(position + accepted + 1))
        return best

    return least(0)


def test_the_round_oracle_is_the_best_of_all_ways(generator: np.random.Generator) -> None:
    for _ in range(5):
        gammas = {"a": greedy(generator, 0.6, 9), "b": greedy(generator, 0.5, 9)}
        sequence = played(gammas, "a", length=3)
        times = FittedTimes([sequence], ("a", "b"))
        found = round_oracle(trajectories([sequence], ("a", "b"), 0), ("a", "b"), times, 3)
        assert found.ms[0] == pytest.approx(least_ms(gammas, times, 3))


def test_the_request_oracle_takes_each_request_s_own_best(generator: np.random.Generator) -> None:
    sequences = []
    for number in range(6):
        first, second = greedy(generator, 0.9, 100), greedy(generator, 0.2, 100)
        good, poor = ("a", "b") if number % 2 else ("b", "a")
        sequences.append(played({good: first, poor: second}, "a", request=f"r{number}"))
    result = run_replay(sequences, [], length="4")
    assert set(result.request_oracle.by_drafter) == {"a", "b"}
    assert sum(result.request_oracle.ms) < 0.9 * sum(result.best_fixed.ms)
    assert sum(result.round_oracle.ms) <= sum(result.request_oracle.ms)


def test_no_policy_beats_an_oracle_and_learning_beats_guessing(generator: np.random.Generator) -> None:
    sequences = streams(generator, 12, 200, a=0.9, b=0.5, c=0.4)
    result = run_replay(sequences, ["normalhedge", "uniform", "fixed:a"], length="4")
    learned, guessed, fixed = result.policies
    for outcome in (learned, guessed, fixed):
        assert sum(outcome.ms) >= sum(result.round_oracle.ms)
        assert outcome.tokens == [200] * 12
    assert result.best_fixed.name == "a"
    assert fixed.ms == result.best_fixed.ms
    assert sum(learned.ms) < 1.05 * sum(result.best_fixed.ms)
    assert sum(guessed.ms) > 1.2 * sum(learned.ms)
    assert learned.by_drafter["a"] > 0.9 * (learned.by_drafter.total() - 12)


def test_the_target_s_own_length_rule_gives_up_what_does_not_pay(generator: np.random.Generator) -> None:
    sequences = [played({"a": greedy(generator, 0.05, 400)}, "a", length=8, draft_ms=9.0)]
    always, adapted = (run_replay(sequences, ["fixed:a"], length=length).policies[0] for length in ("8", "adapt"))
    assert adapted.tokens_per_s > 1.3 * always.tokens_per_s


def test_what_a_drafter_did_not_score_it_cannot_play(generator: np.random.Generator) -> None:
    quiet = np.full(100, np.nan)
    sequences = [played({"a": greedy(generator, 0.8, 100), "b": quiet}, "a")]
    sequences[0].rounds[5].gammas["b"] = [1.0] * sequences[0].rounds[5].tokens
    result = run_replay(sequences, ["round_robin", "fixed:b"], length="4")
    turns, silent = result.policies
    assert silent.by_drafter["b"] <= 1
    assert turns.unscored > 10
    assert result.unmeasured == ("b",)
    assert turns.by_drafter["a"] > 0


def test_priors_go_from_request_to_request_of_a_route(generator: np.random.Generator) -> None:
    """Replayed through the selector itself: a request begins with what the route's others taught.

    Short ones, since within a request the first round's scores already tell.
    """
    rates = {"a": 0.2, "b": 0.95, "c": 0.2, "d": 0.2, "e": 0.2}
    gammas = [{name: greedy(generator, rate, 16) for name, rate in rates.items()} for _ in range(30)]
    sequences = [played(item, "a", request=f"r{number}", route="x") for number, item in enumerate(gammas)]
    together = run_replay(sequences, ["normalhedge"], length="4").policies[0]
    alone = [run_replay([sequence], ["normalhedge"], length="4").policies[0] for sequence in sequences]
    wrong = sum(together.by_drafter[name] for name in "acde")
    assert wrong < 0.5 * sum(outcome.by_drafter[name] for outcome in alone for name in "acde")


def test_lines_are_robust_and_never_fall() -> None:
    points = [(work, 5.0 + 0.5 * work) for work in (1, 4, 8) for _ in range(9)] + [(4, 500.0)]
    line = Line(points)
    assert line.at(8) == pytest.approx(9.0)
    assert line.at(16) == pytest.approx(13.0)
    assert Line([(1, 9.0), (8, 2.0)]).at(16) == Line([(1, 9.0), (8, 2.0)]).at(1)


def test_chances_are_drawn_alike_for_all_and_follow_gamma() -> None:
    sequence = played({"a": np.full(4000, 0.7), "b": np.full(4000, 0.7)}, "a")
    (made,) = trajectories([sequence], drafters_of([sequence]), seed=1)
    ones = [made.accepted(position, 0, 1)[0] for position in range(4000)]
    assert ones == [made.accepted(position, 1, 1)[0] for position in range(4000)]
    assert np.mean(ones) == pytest.approx(0.7, abs=0.03)


@pytest.fixture
def recording(generator: np.random.Generator, tmp_path: Path) -> Path:
    path = tmp_path / "f.parquet"
    write(path, *streams(generator, 4, 100, a=0.9, b=0.4))
    return path


def test_the_command_prints_draws_and_ends_with_json(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "regret.png"
    arguments = ["replay", str(recording), "--policy", "normalhedge", "--policy", "fixed:b", "--length", "4"]
    assert main([*arguments, "--plot", str(picture), "--json"]) == 0
    out = capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    document = json.loads(out.splitlines()[-1])
    assert [item["name"] for item in document["policies"]] == ["normalhedge", "b"]
    assert document["fixed"][0]["name"] == "a"
    assert 0 < document["policies"][0]["of_round_oracle"] <= 1
    for words in ("of request oracle", "fixed: plain", "as recorded and as predicted", "4 sequences, 400 tokens"):
        assert words in out
    main([*arguments, "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == document, "a seed fixes all"


def test_settings_come_from_a_file(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The composite plays the first in its order, which is `a`, the better one, unless the settings say otherwise."""
    settings = tmp_path / "cluster.yaml"
    settings.write_text(
        "drafters: [{name: a, kind: ngram}, {name: b, kind: ngram}]\n"
        "selector: {policy: composite, options: {composite: {priority: [b, a]}}}\n"
    )
    found: list[float] = []
    for more in ([], ["--config", str(settings)]):
        assert main(["replay", str(recording), "--policy", "composite", "--length", "4", "--json", *more]) == 0
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1])["policies"][0]["tokens_per_s"])
    assert found[1] < 0.95 * found[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--policy", "best"], "'best'"),
        (["--policy", "fixed"], "fixed:NAME"),
        (["--policy", "fixed:c"], "a, b, plain"),
        (["--length", "0"], "'0'"),
        (["--length", "5"], "1 to 4"),
        (["--length", "some"], "'some'"),
    ],
)
def test_what_cannot_be_replayed_is_named(
    recording: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["replay", str(recording), *options]) == 2
    assert said in capsys.readouterr().err


def test_an_empty_recording_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "f.parquet")
    assert main(["replay", str(tmp_path / "f.parquet")]) == 2
    plain = [played({"a": np.zeros(1)}, "a")]
    with pytest.raises(ConfigError, match="no round whose verification was timed"):
        run_replay(plain, ["uniform"])
