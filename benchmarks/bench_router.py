"""Who breaks when prompts are reworded: a router that was trained on prompts, or a selector that learns as it goes?

    python benchmarks/bench_router.py --train DATA/*/train.jsonl.gz --prompts DATA/*/test.jsonl.gz --rows router.jsonl
    python benchmarks/bench_router.py --train .. --prompts .. --offline       # only how often the router is right

The router learns from prompts which domain they are of, and sends each to that domain's expert for its whole answer.
Then the same requests come in other words. Offline: how often it is still right. Over HTTP, with the configuration's
draft heads alone: tokens per round of the expert that it chose, of the generalist, of each prompt's own domain's
expert, of the configuration's policy with all heads scoring, and of the best head by request. Rounds draft `--length`
tokens, as in `bench_effect --aim tokens`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from arm_figures import PER_ROUND, ArmFigures
from bench_effect import every_draft_counts
from bench_serve import measured_document
from interleaved_arms import Arm, chosen_prompts, measure
from kept_rows import KeptRows
from prompt_router import PromptRouter
from provenance import provenance
from reworded_prompts import AS_ASKED, rewordings
from rich.console import Console
from rich.table import Table

from paceline.cluster.served_process import ServedProcess
from paceline.cluster.training.prompt_file import Prompt, read_prompts

HERE = Path(__file__).resolve().parent
CONSOLE = Console(width=160)
GENERALIST, ROUTER, SELECTOR, OWN, ORACLE = "generalist", "router", "selector", "own domain's expert", "best by request"


def main() -> None:
    """Train, attack, measure, print tables, end with one JSON line."""
    options = parsed()
    source = provenance()
    document = heads_only(options.config)
    experts = [drafter["name"] for drafter in document["drafters"] if drafter["name"] != GENERALIST]
    every_draft_counts(document, options.length)
    train, test = (
        [prompt for file in files for prompt in read_prompts(Path(file)) if prompt.domain in experts]
        for files in (options.train, options.prompts)
    )
    domains = sorted({prompt.domain for prompt in train})
    router = trained(train, domains, options.train_per_domain)
    result: dict[str, Any] = {"accuracy": accuracy_table(router, test, options.test_per_domain)}
    if not options.offline:
        asked = options.domains.split(",") if options.domains else domains
        prompts = chosen_prompts(test, asked, options.prompts_per_domain, options.prompt_characters)
        result |= attacked(document, experts, router, prompts, options)
    print(json.dumps({"benchmark": "router", "domains": domains, **result, **source}))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "deploy" / "local.yaml")
    parser.add_argument("--train", nargs="+", required=True, help="prompt files, a domain's folder each")
    parser.add_argument("--prompts", nargs="+", required=True, help="the same, held out")
    parser.add_argument("--train-per-domain", type=int, default=2000)
    parser.add_argument("--test-per-domain", type=int, default=300, help="for how often the router is right")
    parser.add_argument("--offline", action="store_true", help="nothing more than that")
    parser.add_argument("--domains", default=None, help="only prompts of these over HTTP, by comma")
    parser.add_argument("--prompts-per-domain", type=int, default=2, help="over HTTP, in every wording")
    parser.add_argument("--prompt-characters", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=96, help="most tokens per answer")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--length", type=int, default=7, help="tokens of every draft")
    parser.add_argument("--rows", type=Path, default=None, help="keep every answer's figures here, and resume from it")
    return parser.parse_args()


def heads_only(config: Path) -> dict[str, Any]:
    """The configuration with its draft heads alone, which is what a router chooses among.

    Raises:
        SystemExit: there is no generalist, or no expert.
    """
    document = measured_document(config)
    document["drafters"] = [drafter for drafter in document["drafters"] if drafter["kind"] == "head"]
    names = [drafter["name"] for drafter in document["drafters"]]
    if GENERALIST not in names or len(names) < 2:
        raise SystemExit(f"--config: {config} has the heads {', '.join(names)}; expected `generalist` and an expert")
    return document


def trained(prompts: Sequence[Prompt], domains: Sequence[str], each: int) -> PromptRouter:
    """A router that learned from so many prompts of each domain."""
    by_domain: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        by_domain[prompt.domain].append(prompt)
    taken = [p for domain in domains for p in Random(0).sample(by_domain[domain], min(each, len(by_domain[domain])))]
    router, began = PromptRouter(domains), time.perf_counter()
    router.fit([prompt.text for prompt in taken], [prompt.domain for prompt in taken])
    CONSOLE.print(f"router: {len(taken)} prompts of {len(domains)} domains, {time.perf_counter() - began:.1f} s")
    return router


def accuracy_table(router: PromptRouter, test: Sequence[Prompt], each: int) -> dict[str, dict[str, float]]:
    """Share of prompts that go to the right expert, by wording and domain."""
    taken: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in test:
        if prompt.domain in router.domains and len(taken[prompt.domain]) < each:
            taken[prompt.domain].append(prompt)
    prompts = [prompt for own in taken.values() for prompt in own]
    table = Table(title=f"prompts that the router sends to the right expert, of {len(prompts)}")
    for column in ("wording", *taken, "all"):
        table.add_column(column, justify="left" if column == "wording" else "right", no_wrap=True)
    result = {}
    for wording, texts in rewordings(prompts).items():
        routes = router.routes([text for text, _ in texts])
        right = [route in domains for route, (_, domains) in zip(routes, texts, strict=True)]
        shares = {
            domain: share([ok for ok, prompt in zip(right, prompts, strict=True) if prompt.domain == domain])
            for domain in taken
        }
        result[wording] = {**shares, "all": share(right)}
        table.add_row(wording, *(f"{value:.1%}" for value in result[wording].values()))
    CONSOLE.print(table)
    return result


def share(right: Sequence[bool]) -> float:
    """Of those that are true."""
    return sum(right) / max(len(right), 1)


def attacked(
    document: dict[str, Any],
    experts: Sequence[str],
    router: PromptRouter,
    prompts: Sequence[Prompt],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Every head and the selector on every wording; what the router chose is one of the heads."""
    worded = [
        (wording, prompt.domain, text)
        for wording, texts in rewordings(prompts).items()
        for prompt, (text, _) in zip(prompts, texts, strict=True)
    ]
    asked = [Prompt(domain, text) for _, domain, text in worded]
    heads = [GENERALIST, *experts]
    policy = {"policy": document["selector"]["policy"]}  # named, all heads score for it
    arms = [*(Arm(name, {"drafter": name}) for name in heads), Arm(SELECTOR, policy, user=SELECTOR)]
    kept = KeptRows(
        options.rows, {"tokens": options.tokens, "prompts": [prompt.text for prompt in asked], "cluster": document}
    )
    with ServedProcess(document) as served:
        measure(
            served.url,
            asked,
            arms,
            kept,
            temperatures=[options.temperature],
            repeats=options.repeats,
            tokens=options.tokens,
        )
    names, wordings = [arm.name for arm in arms], [wording for wording, _, _ in worded]
    figures = ArmFigures(kept.rows, names, wordings, options.repeats, options.temperature)
    figures.add_choice(ROUTER, router.routes([prompt.text for prompt in asked]))
    figures.add_choice(OWN, [prompt.domain for prompt in asked])
    figures.add_oracle(ORACLE, heads, PER_ROUND)
    return {
        "tokens": options.tokens,
        "temperature": options.temperature,
        "prompts": len(prompts),
        "tokens_per_round": rate_table(figures, list(dict.fromkeys(wordings)), options),
    }


def rate_table(figures: ArmFigures, wordings: Sequence[str], options: argparse.Namespace) -> Mapping[str, Any]:
    """Tokens per round by wording; shares are of the best head by request."""
    shown = (GENERALIST, ROUTER, SELECTOR, OWN, ORACLE)
    table = Table(title=f"tokens per round, draft heads alone, T={options.temperature:g}, chains of {options.length}")
    for column in ("wording", *shown, "router / best", "selector / best", "selector / router"):
        table.add_column(column, justify="left" if column == "wording" else "right", no_wrap=column == "wording")
    result = {}
    for wording in [*wordings, None]:
        rates = {name: figures.rate(name, PER_ROUND, wording) for name in shown}
        pairs = ((ROUTER, ORACLE), (SELECTOR, ORACLE), (SELECTOR, ROUTER))
        ratios = {f"{a} / {b}": figures.ratio(a, b, PER_ROUND, wording) for a, b in pairs}
        result[wording or "all"] = {name: value.rounded() for name, value in {**rates, **ratios}.items()}
        cells = [f"{rate.value:.2f} ±{rate.error:.2f}" for rate in rates.values()]
        cells += [f"{ratio.value:.3f} ±{ratio.error:.3f}" for ratio in ratios.values()]
        table.add_row(wording or "all", *cells, style="bold" if wording in (None, AS_ASKED) else "")
    CONSOLE.print(table)
    return result


if __name__ == "__main__":
    main()
