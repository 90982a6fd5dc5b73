"""Every arm on every prompt of one running cluster, interleaved, one request at a time: the loop of `bench_effect` and
`bench_router`.

For each prompt the arms follow one another in an order drawn anew, so that the machine's drift, and what one request
leaves to the next, fall on all alike. Between two requests there is a pause, in which drafters and selector finish
with the last one.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

import httpx
from kept_rows import KeptRows, Row
from served_answer import ask
from tqdm import tqdm

from paceline.cluster.client import Client
from paceline.cluster.training.prompt_file import Prompt

PAUSE_S = 0.15  # longer than targets and selector gather their news
SETTLE_S = 2.0  # until the last scores of an answer have come, and it can be explained


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to decode.

    Attributes:
        name: In tables.
        request: The request's `paceline` field.
        user: Whose requests these are: the selector's memory of earlier requests is by user.
        user_by_domain: Each domain's requests are of a user of their own.
        explained: Whether what the selector saw of its answers is kept.
    """

    name: str
    request: Mapping[str, Any] = field(default_factory=dict)
    user: str = ""
    user_by_domain: bool = False
    explained: bool = False


def measure(
    url: str,
    prompts: Sequence[Prompt],
    arms: Sequence[Arm],
    kept: KeptRows,
    *,
    temperatures: Sequence[float],
    repeats: int,
    tokens: int,
    minutes: float | None = None,
) -> None:
    """Ask what is not in `kept` yet, for so many minutes at most.

    A row is an answer: repeat, temperature, prompt, domain, arm, and its figures. Rows with `explanation` are what was
    kept of an answer of an `explained` arm.
    """
    done = {_key(row) for row in kept.rows if "explanation" not in row}
    waiting: deque[tuple[float, Row, str]] = deque()  # when to look, whose, the reply's id
    asked = [
        (repeat, temperature, index, arm)
        for repeat in range(repeats)
        for temperature in temperatures
        for index in range(len(prompts))
        for arm in _shuffled(arms, f"{repeat} {temperature} {index}")
    ]
    missing = [each for each in asked if (each[0], each[1], each[2], each[3].name) not in done]
    with httpx.Client(base_url=url, timeout=300) as client, Client(url) as explaining:
        model = client.get("/v1/models").json()["data"][0]["id"]
        for domain, arm in _warm_up(arms, prompts) if missing else ():
            _ask(client, model, Prompt(domain, "How does a kettle work?"), arm, 0.0, min(tokens, 32))
        until_s = math.inf if minutes is None else time.monotonic() + 60.0 * minutes
        for repeat, temperature, index, arm in tqdm(missing, initial=len(asked) - len(missing), total=len(asked)):
            if time.monotonic() > until_s:
                break
            time.sleep(PAUSE_S)
            prompt = prompts[index]
            answer = _ask(client, model, prompt, arm, temperature, tokens)
            row = {"repeat": repeat, "temperature": temperature, "prompt": index, "arm": arm.name}
            figures = asdict(answer)
            name = figures.pop("id")
            kept.add({**row, "domain": prompt.domain, **figures})
            if arm.explained:
                waiting.append((time.monotonic() + SETTLE_S, row, name))
            while waiting and waiting[0][0] <= time.monotonic():
                _explain(explaining, waiting.popleft(), kept)
        for item in waiting:
            time.sleep(max(item[0] - time.monotonic(), 0.0))
            _explain(explaining, item, kept)


def measured(
    rows: Sequence[Row], arms: Sequence[str], prompts: int, repeats: int, temperature: float
) -> tuple[int, int]:
    """How far an interrupted run came: repetitions and prompts that every arm has answered.

    In the first repetition prompts may be missing at the end; of later ones only whole ones count.
    """
    done = {_key(row) for row in rows if "explanation" not in row}
    answered = [
        [all((repeat, temperature, index, arm) in done for arm in arms) for index in range(prompts)]
        for repeat in range(repeats)
    ]
    first = answered[0].index(False) if False in answered[0] else prompts
    return max([repeat + 1 for repeat in range(repeats) if all(map(all, answered[: repeat + 1]))], default=1), first


def chosen_prompts(
    prompts: Sequence[Prompt], domains: Sequence[str] | None, each: int, characters: int, seed: int = 0
) -> list[Prompt]:
    """Of each domain so many prompts of bounded length, drawn by seed; domains take turns, as in a mixed stream.

    Raises:
        SystemExit: a domain is unknown, or has too few such prompts.
    """
    found = sorted({prompt.domain for prompt in prompts})
    if unknown := set(domains or ()) - set(found):
        raise SystemExit(f"--domains: {', '.join(sorted(unknown))}: the prompts are of {', '.join(found)}")
    drawn = []
    for domain in domains or found:
        own = [prompt for prompt in prompts if prompt.domain == domain and len(prompt.text) <= characters]
        if len(own) < each:
            raise SystemExit(f"{domain}: {len(own)} prompts of at most {characters} characters, expected {each}")
        drawn.append(Random(f"{seed} {domain}").sample(own, each))
    return [prompt for turn in zip(*drawn, strict=True) for prompt in turn]


def _key(row: Row) -> tuple[int, float, int, str]:
    return row["repeat"], row["temperature"], row["prompt"], row["arm"]


def _warm_up(arms: Sequence[Arm], prompts: Sequence[Prompt]) -> list[tuple[str, Arm]]:
    """Requests that are not counted. Every user comes once: whoever is new starts from what all others taught."""
    domains = sorted({prompt.domain for prompt in prompts})
    return [(domain, arm) for arm in arms for domain in (domains if arm.user_by_domain else domains[:1])]


def _shuffled(arms: Sequence[Arm], seed: str) -> list[Arm]:
    return Random(seed).sample(list(arms), len(arms))


def _ask(client: httpx.Client, model: str, prompt: Prompt, arm: Arm, temperature: float, tokens: int) -> Any:
    user = f"{arm.user}-{prompt.domain}" if arm.user_by_domain else arm.user
    return ask(client, model, prompt.text, arm.request, tokens=tokens, temperature=temperature, user=user)


def _explain(client: Client, item: tuple[float, Row, str], kept: KeptRows) -> None:
    _, row, name = item
    kept.add({**row, "explanation": asdict(client.explain(name))})
