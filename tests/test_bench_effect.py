"""The figures of the benchmarks over HTTP: rates and oracles from rows, rows that are kept, prompts, the router."""

from __future__ import annotations

from pathlib import Path

import pytest
from arm_figures import PER_ROUND, PER_SECOND, ArmFigures
from interleaved_arms import chosen_prompts
from kept_rows import KeptRows, Row
from prompt_router import PromptRouter
from reworded_prompts import AS_ASKED, TWO_REQUESTS, rewordings

from paceline.cluster.training.prompt_file import Prompt

DOMAINS = ["a", "b"]


def row(arm: str, repeat: int, prompt: int, accepted: int, rounds: int, seconds: float) -> Row:
    """An answer; the first of its rounds ran the prompt."""
    whose = {"arm": arm, "repeat": repeat, "prompt": prompt, "temperature": 0.0, "domain": DOMAINS[prompt]}
    return {**whose, "accepted": accepted, "rounds": rounds, "tokens": accepted + rounds, "seconds": seconds}


def figures() -> ArmFigures:
    """Two arms, of which each is better on one prompt; in the second repetition x is lucky on the second prompt."""
    rows = [
        *(row("x", repeat, 0, 20, 11, 1.0) for repeat in (0, 1)),  # 3 tokens per round, 31 per second
        row("x", 0, 1, 0, 11, 2.0),
        row("x", 1, 1, 30, 11, 2.0),
        *(row("y", repeat, 0, 0, 11, 1.0) for repeat in (0, 1)),
        *(row("y", repeat, 1, 10, 11, 1.0) for repeat in (0, 1)),
        {**row("x", 0, 0, 99, 1, 1.0), "explanation": {}},  # what was kept beside an answer is none itself
        {**row("x", 0, 0, 99, 1, 1.0), "temperature": 0.7},
    ]
    return ArmFigures(rows, ["x", "y"], DOMAINS, 2, 0.0)


def test_rates_leave_the_prompts_round_out() -> None:
    seen = figures()
    assert seen.rate("x", PER_ROUND, "a").value == pytest.approx(3.0)
    assert seen.rate("y", PER_ROUND).value == pytest.approx(1.5)
    whole = seen.rate("x", PER_ROUND)
    assert (whole.value, whole.low, whole.high) == pytest.approx((1 + 70 / 40, 2.0, 3.5))
    assert seen.rate("x", PER_SECOND, "a").value == pytest.approx(31.0)
    ratio = seen.ratio("x", "y", PER_ROUND, "a")
    assert ratio.value == pytest.approx(3.0)
    assert seen.ratio("x", "x", PER_ROUND).error == pytest.approx(0.0), "on the same prompts an arm equals itself"
    assert ratio.rounded()["error"] is None, "over one prompt there is no error to be had, and JSON knows no NaN"


def test_oracles_take_the_best_of_each_prompt() -> None:
    seen = figures()
    seen.add_oracle("best", ["x", "y"], PER_ROUND)
    seen.add_oracle("foreseen", ["x", "y"], PER_ROUND, foreseen=True)
    seen.add_choice("chosen", ["y", "x"])
    assert seen.rate("best", PER_ROUND, "b").value == pytest.approx(1 + 40 / 20), "y, then lucky x"
    assert seen.rate("foreseen", PER_ROUND, "b").value == pytest.approx(1 + 10 / 20), "x by y's luck, then y: unlucky"
    assert seen.rate("chosen", PER_ROUND, "a").value == pytest.approx(1.0)
    assert seen.best(["x", "y"], PER_ROUND) == "x"
    assert seen.rate("best", PER_SECOND, "b").value == pytest.approx((21 + 20.5) / 2), "what it took comes along"


def test_a_missing_answer_is_told() -> None:
    with pytest.raises(SystemExit, match="not measured: y"):
        ArmFigures([row("x", 0, 0, 1, 2, 1.0), row("x", 0, 1, 1, 2, 1.0)], ["x", "y"], DOMAINS, 1, 0.0)


def test_rows_of_another_measurement_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    KeptRows(path, {"tokens": 8, "prompts": ("p",)}).add({"n": 1})
    again = KeptRows(path, {"tokens": 8, "prompts": ("p",)})
    again.add({"n": 2})
    assert KeptRows(path, {"tokens": 8, "prompts": ("p",)}).rows == [{"n": 1}, {"n": 2}]
    with pytest.raises(SystemExit, match=r"rows\.jsonl was measured with another tokens;"):
        KeptRows(path, {"tokens": 9, "prompts": ("p",)})


def test_domains_take_turns_and_long_prompts_stay_out() -> None:
    prompts = [Prompt(domain, f"{domain}{number}" + "x" * 9 * number) for domain in "ab" for number in range(4)]
    drawn = chosen_prompts(prompts, ["b", "a"], 2, 20)
    assert [prompt.domain for prompt in drawn] == ["b", "a", "b", "a"]
    assert len({prompt.text for prompt in drawn}) == 4
    assert max(len(prompt.text) for prompt in drawn) <= 20
    assert drawn == chosen_prompts(prompts, ["b", "a"], 2, 20)
    with pytest.raises(SystemExit, match="a: 2 prompts of at most 12 characters, expected 3"):
        chosen_prompts(prompts, ["a"], 3, 12)
    with pytest.raises(SystemExit, match="--domains: c"):
        chosen_prompts(prompts, ["c"], 1, 12)


def test_the_router_learns_words_and_a_rewording_keeps_what_is_asked() -> None:
    router = PromptRouter(["rivers", "sums"])
    texts = ["Name a river.", "How long is this river?", "Add 3 and 4.", "Add 15 and 6, then 7."]
    router.fit(texts, ["rivers", "rivers", "sums", "sums"])
    assert router.routes(["Which river is long?", "Add 8 and 9.", ""])[:2] == ["rivers", "sums"]
    prompts = [Prompt("rivers", "Name a river."), Prompt("sums", "Add 3 and {4}.")]
    worded = rewordings(prompts)
    assert worded[AS_ASKED] == [("Name a river.", {"rivers"}), ("Add 3 and {4}.", {"sums"})]
    for name, texts_and_domains in worded.items():
        for prompt, (text, domains) in zip(prompts, texts_and_domains, strict=True):
            assert prompt.text in text
            assert prompt.domain in domains
            assert len(domains) == (2 if name == TWO_REQUESTS else 1)
