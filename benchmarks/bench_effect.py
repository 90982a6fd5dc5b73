"""What is choosing worth? A mixed stream of real prompts over HTTP: plain decoding, every drafter alone, every policy,
the selector, and what could have been had.

    python benchmarks/bench_effect.py --prompts DATA/*/test.jsonl.gz --rows effect.jsonl
    python benchmarks/bench_effect.py --prompts DATA/*/test.jsonl.gz --rows speed.jsonl --aim speed

`--aim tokens` asks what choices are worth by themselves: every round drafts `--length` tokens and waits for them, and
policies seek tokens per round. `--aim speed` takes the configuration as it is, where a draft has to pay for its time.

Where a request names a policy, all drafters score it. Arm `selector` names none: it is the configuration's policy under
its evaluation budget (drafters without weight are scored one at a time), and the arm of that policy's name is the same
with full information.

Whoever learns across requests learns from its own: each arm's requests are a user's of their own, and the selector's
memory of earlier requests is by user. Arm `by-domain` is the configuration's policy, all drafters scoring, with a user
per domain, as where each application has its own. Bandits start every request from nothing, as published. The rounds
before a new sequence's first weights come go by the cluster's prior, for all arms alike. Neither prefixes nor the
suffix drafter's memory are kept between requests.

On the live cluster weights take 0.1 s to arrive. The table of the replay has all policies with news that travels at
once, over the answers of the configuration's policy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arm_figures import PER_ROUND, PER_SECOND, ArmFigures
from bench_serve import measured_document
from effect_plot import draw_effect
from effect_replay import replayed
from interleaved_arms import Arm, chosen_prompts, measure, measured
from kept_rows import KeptRows
from provenance import provenance
from rich.console import Console
from rich.table import Table

from paceline.cluster.policy_options import REQUEST_POLICIES
from paceline.cluster.served_process import ServedProcess
from paceline.cluster.training.prompt_file import Prompt, read_prompts

HERE = Path(__file__).resolve().parent
CONSOLE = Console(width=220)
PLAIN, SELECTOR, BY_DOMAIN = "plain", "selector", "by-domain"
ORACLE, FORESEEN = "oracle by request", "oracle by request, foreseen"
BANDITS = ("ucbspec", "ucbspec_tuned", "exp3spec", "metasd_ucb", "thompson", "epsilon_greedy")
UNLEARNED = ("composite", "uniform", "round_robin")
LONGEST_WAIT_MS = 10_000.0  # where speed does not count, no draft is given up because the machine is busy


def main() -> None:
    """Measure, print tables, draw a picture, end with one JSON line."""
    options = parsed()
    source = provenance()  # now: the tree may change while it runs
    document = settings_of(options)
    drafters = [drafter["name"] for drafter in document["drafters"]]
    arms = chosen_arms(drafters, document["selector"]["policy"], options.arms)
    found = [prompt for file in options.prompts for prompt in read_prompts(Path(file))]
    domains = options.domains.split(",") if options.domains else None
    prompts = chosen_prompts(found, domains, options.prompts_per_domain, options.prompt_characters, options.seed)
    temperatures = [float(each) for each in options.temperatures.split(",")]
    kept = KeptRows(
        options.rows,
        {"aim": options.aim, "tokens": options.tokens, "prompts": [p.text for p in prompts], "cluster": document},
    )
    with ServedProcess(document) as served:
        measure(
            served.url,
            prompts,
            arms,
            kept,
            temperatures=temperatures,
            repeats=options.repeats,
            tokens=options.tokens,
            minutes=options.minutes,
        )
    report(kept, prompts, drafters, [arm.name for arm in arms], temperatures, document, options, source)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "deploy" / "local.yaml")
    parser.add_argument("--prompts", nargs="+", default=[str(HERE / "prompts" / "first_ride.jsonl")])
    parser.add_argument("--domains", default=None, help="only these, by comma; their prompts take turns")
    parser.add_argument("--prompts-per-domain", type=int, default=3, help="drawn by --seed")
    parser.add_argument("--prompt-characters", type=int, default=1500, help="most of a prompt: long ones are prefill")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of prompts")
    parser.add_argument("--tokens", type=int, default=96, help="most tokens per answer")
    parser.add_argument("--temperatures", default="0,0.7", help="by comma")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--arms", default=None, help="only these, by comma; plain and selector are always there")
    parser.add_argument("--aim", choices=("tokens", "speed"), default="tokens", help="see above")
    parser.add_argument("--length", type=int, default=7, help="tokens of every draft, where the aim is tokens")
    parser.add_argument("--evaluation-share", type=float, default=None, help="default: 1, and the configuration's own")
    parser.add_argument("--rows", type=Path, default=None, help="keep every answer's figures here, and resume from it")
    parser.add_argument("--minutes", type=float, default=None, help="stop then, and report the prompts that are done")
    parser.add_argument("--picture", type=Path, default=Path("effect.png"))
    return parser.parse_args()


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """The cluster's settings for the aim."""
    document = measured_document(options.config)
    if options.aim == "tokens":
        every_draft_counts(document, options.length)
    if options.evaluation_share is not None:
        document["speculation"]["evaluation_share"] = options.evaluation_share
    names = [drafter["name"] for drafter in document["drafters"]]
    composite = document["selector"]["options"]["composite"]
    if not composite["priority"]:  # n-grams first, then a model: what shipping systems do
        composite["priority"] = [name for name in ("ngram", "generalist") if name in names]
    return document


def every_draft_counts(document: dict[str, Any], length: int) -> None:
    """Settings under which tokens per round depend on who drafts and on nothing else: every round drafts as many tokens
    and waits for them, all drafters score every answer, and the selector seeks accepted tokens."""
    speculation = {
        "draft_length": "longest",
        "max_draft": length,
        "deadline_ms": LONGEST_WAIT_MS,
        "evaluation_share": 1.0,
    }
    document["speculation"] |= speculation
    document["selector"]["loss"] = "eal"


def chosen_arms(drafters: Sequence[str], policy: str, wanted: str | None) -> list[Arm]:
    """All arms, or those that are wanted; `policy` is the configuration's.

    Raises:
        SystemExit: one is unknown.
    """
    learners = [name for name in REQUEST_POLICIES if name not in (*UNLEARNED, *BANDITS)]
    every = [
        Arm(PLAIN, {"enabled": False}),
        *(Arm(name, {"drafter": name}) for name in drafters),
        *(
            Arm(name, {"policy": name}, user=name, explained=name == policy)
            for name in (*UNLEARNED, *BANDITS, *learners)
        ),
        Arm(BY_DOMAIN, {"policy": policy}, user=BY_DOMAIN, user_by_domain=True),
        Arm(SELECTOR, user=SELECTOR),
    ]
    if wanted is None:
        return every
    names = {PLAIN, SELECTOR, *wanted.split(",")}
    if unknown := names - {arm.name for arm in every}:
        raise SystemExit(f"--arms: {', '.join(sorted(unknown))}: expected of {', '.join(arm.name for arm in every)}")
    return [arm for arm in every if arm.name in names]


def group_of(arm: str, drafters: Sequence[str]) -> str:
    """What kind of arm it is, as `effect_plot` colours them."""
    if arm in (PLAIN, *drafters):
        return "alone"
    if arm in (ORACLE, FORESEEN):
        return "oracle"
    if arm in (SELECTOR, BY_DOMAIN):
        return "selector"
    return "does not learn" if arm in UNLEARNED else "bandit" if arm in BANDITS else "learns from all"


def report(
    kept: KeptRows,
    prompts: Sequence[Prompt],
    drafters: Sequence[str],
    arms: Sequence[str],
    temperatures: Sequence[float],
    document: Mapping[str, Any],
    options: argparse.Namespace,
    source: Mapping[str, Any],
) -> None:
    """Tables by temperature, the picture, the JSON line."""
    by = PER_ROUND if options.aim == "tokens" else PER_SECOND
    policy = document["selector"]["policy"]
    alone = [name for name in arms if name in (PLAIN, *drafters)]
    results: dict[str, Any] = {}
    for temperature in temperatures:
        repeats, answered = measured(kept.rows, arms, len(prompts), options.repeats, temperature)
        if not answered:
            CONSOLE.print(f"T={temperature:g}: no prompt is done with all arms")
            continue
        figures = ArmFigures(kept.rows, arms, [prompt.domain for prompt in prompts[:answered]], repeats, temperature)
        figures.add_oracle(ORACLE, alone, by)
        if repeats > 1:
            figures.add_oracle(FORESEEN, alone, by, foreseen=True)
        title = f"{answered} prompts, {repeats} times, {options.tokens} tokens, T={temperature:g}, aim: {options.aim}"
        results[f"{temperature:g}"] = {
            "prompts": answered,
            "repeats": repeats,
            "arms": arm_table(figures, drafters, title),
            "shares": share_table(figures, drafters, policy, by),
        }
        if options.aim == "tokens":
            policies = [name for name in REQUEST_POLICIES if name in arms]
            rates = replayed(kept.rows, temperature, policies, document, options.length)
            replay_table(rates, results[f"{temperature:g}"]["arms"], temperature)
            results[f"{temperature:g}"]["replayed"] = {name: round(rate, 4) for name, rate in rates.items()}
    if not results:
        raise SystemExit("nothing to report yet; the same command with the same --rows goes on")
    shown = [*arms, ORACLE, *([FORESEEN] if options.repeats > 1 else [])]
    panels = [(PER_ROUND, "tokens per round, the bonus token included"), (PER_SECOND, "tokens per second over HTTP")]
    draw_effect(
        {temperature: result["arms"] for temperature, result in results.items()},
        {name: group_of(name, drafters) for name in shown},
        panels,
        options.picture,
    )
    CONSOLE.print(f"{options.picture}: the picture")
    setting = {"aim": options.aim, "tokens": options.tokens, "policy": policy}
    print(json.dumps({"benchmark": "effect", **setting, "temperatures": results, **source}))


def arm_table(figures: ArmFigures, drafters: Sequence[str], title: str) -> dict[str, Any]:
    """A line per arm; returns the same for JSON. Behind +-: the standard error over prompts."""
    domains = list(dict.fromkeys(figures.domains.tolist()))
    against = [name for name in (PLAIN, "generalist") if name in figures.arms]
    table = Table(title=title, caption="by domain: tokens per round")
    table.add_column("arm", no_wrap=True)
    for column in (
        "tok/round",
        *(f"vs {n}" for n in against[1:]),
        "tok/s",
        "least-most",
        *(f"vs {n}" for n in against),
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for domain in domains:
        table.add_column(domain[:8], justify="right", no_wrap=True)
    result: dict[str, Any] = {}
    for arm in figures.arms:
        per_round, per_s = figures.rate(arm, PER_ROUND), figures.rate(arm, PER_SECOND)
        entry: dict[str, Any] = {PER_ROUND: per_round.rounded(), PER_SECOND: per_s.rounded(), "domains": {}}
        cells = [f"{per_round.value:.2f} ±{per_round.error:.2f}"]
        for by, names in ((PER_ROUND, against[1:]), (PER_SECOND, against)):
            ratios = {name: figures.ratio(arm, name, by) for name in names}
            entry[f"{by}, vs"] = {name: ratio.rounded() for name, ratio in ratios.items()}
            if by == PER_SECOND:
                cells += [f"{per_s.value:.1f}", f"{per_s.low:.1f}-{per_s.high:.1f}"]
            cells += [f"{ratio.value:.3f} ±{ratio.error:.3f}" for ratio in ratios.values()]
        for domain in domains:
            rate = figures.rate(arm, PER_ROUND, domain).value
            entry["domains"][domain] = {
                PER_ROUND: round(rate, 4),
                **{
                    f"{by}, vs {name}": round(figures.ratio(arm, name, by, domain).value, 4)
                    for name in against
                    for by in (PER_ROUND, PER_SECOND)
                },
            }
            cells.append(f"{rate:.2f}")
        table.add_row(arm, *cells, style="bold" if group_of(arm, drafters) == "selector" else "")
        result[arm] = entry
    CONSOLE.print(table)
    return result


def share_table(figures: ArmFigures, drafters: Sequence[str], policy: str, by: str) -> dict[str, Any]:
    """The ratios that are asked for, with their errors; the last one bounds what any choice by request can gain."""
    alone = [name for name in figures.arms if name in (PLAIN, *drafters)]
    best_alone = figures.best(alone, by)
    others = [("best drafter alone", best_alone), (ORACLE, ORACLE)]
    others += [(name, name) for name in (FORESEEN, "generalist") if name in figures.arms]
    bandits = [name for name in figures.arms if name in BANDITS]
    if bandits:
        others.append(("best bandit", figures.best(bandits, by)))
    ours = [name for name in (policy, BY_DOMAIN, SELECTOR) if name in figures.arms]
    asked = [(what, arm, other) for arm in ours for what, other in others]
    if bandits:
        asked.append(("best bandit", ORACLE, figures.best(bandits, by)))
    result = {}
    CONSOLE.print(f"{by}:")
    for what, arm, other in asked:
        ratio = figures.ratio(arm, other, by)
        named = what if what == other else f"{what} ({other})"
        bound = ", the bound that the drafters' differences set" if (arm, what) == (ORACLE, "best bandit") else ""
        CONSOLE.print(f"  {arm} / {named}: {ratio.value:.3f} ±{ratio.error:.3f}{bound}", highlight=False)
        result[f"{arm} / {what}"] = {"other": other, **ratio.rounded()}
    return result


def replay_table(rates: Mapping[str, float], live: Mapping[str, Any], temperature: float) -> None:
    """Policies and drafters as replayed, beside what they did live."""
    if not rates:
        return
    table = Table(title=f"tokens per round, T={temperature:g}: replayed over the same answers, and live")
    for column in ("policy", "replayed", "live"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for name, rate in rates.items():
        seen = live.get(name)
        table.add_row(name, f"{rate:.2f}", f"{seen[PER_ROUND]['value']:.2f}" if seen else "")
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
