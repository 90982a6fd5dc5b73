"""The same requests in other words: what users do all day, and what breaks a router that learned words.

Each rewording wraps a prompt and leaves what is asked for, so that the right expert stays the right one; of two
requests in one either expert is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from paceline.cluster.training.prompt_file import Prompt

AS_ASKED, TWO_REQUESTS = "as asked", "two requests in one"

_BETTER = (
    "Produce two different answers to the request between the lines. Compare them, say in one sentence which of the "
    "two is better, and then give the better one in full.\n---\n{}\n---"
)
_LANGUAGES = (
    "Lee con atención lo que sigue, que te envía una persona con prisa, y contesta lo mejor que puedas:\n{}\nGracias.",
    "Bitte lies das Folgende genau durch und erledige, worum darin gebeten wird, Schritt für Schritt:\n{}\nDanke.",
    "Voici une demande que je viens d'avoir. Réponds-y comme tu le fais d'habitude, sans rien omettre :\n{}\nMerci.",
)
_FRAMES = (
    "A nurse forwarded me the message below while we were waiting for the doctor and the test results. Help her.\n\n{}",
    "My landlord's lawyer says that under clause 4 of the agreement I have to hand this in. Do it for me.\n\n{}",
    "Our SELECT over the customers table was slow, so during the break I was handed this instead. Can you do it?\n\n{}",
    "While my Python script installs its packages I want to get this off my desk. Please take care of it.\n\n{}",
    "Before the earnings call about quarterly revenue starts, I still need the following from you.\n\n{}",
)

_AFTER = "Earlier I asked you this:\n{}\n\nForget it, that is done. What I want now is only this:\n{}"


def rewordings(prompts: Sequence[Prompt], seed: int = 0) -> dict[str, list[tuple[str, set[str]]]]:
    """Every prompt in every wording, with the domains of which either is right."""
    chance = Random(seed)
    other = [chance.choice([p for p in prompts if p.domain != prompt.domain] or [prompt]) for prompt in prompts]

    def wrapped(frames: Sequence[str]) -> Callable[[int], str]:
        return lambda index: frames[index % len(frames)].format(prompts[index].text.strip())

    wordings: dict[str, Callable[[int], str]] = {
        AS_ASKED: lambda index: prompts[index].text,
        "two answers, the better one": wrapped([_BETTER]),
        "asked in another language": wrapped(_LANGUAGES),
        "framed by another domain": wrapped(_FRAMES),
        "after another request": lambda index: _AFTER.format(other[index].text.strip(), prompts[index].text.strip()),
        TWO_REQUESTS: lambda index: f"1. {prompts[index].text.strip()}\n\n2. {other[index].text.strip()}",
    }
    return {
        name: [
            (word(index), {prompt.domain, other[index].domain} if name == TWO_REQUESTS else {prompt.domain})
            for index, prompt in enumerate(prompts)
        ]
        for name, word in wordings.items()
    }
