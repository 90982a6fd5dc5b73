"""One answer of a served cluster under one arm, and what it took: what benchmarks over HTTP count."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        id: The reply's, by which it can be explained.
        tokens: Those of the reply's `usage`.
        seconds: From the request to the whole reply.
        rounds: Of the target, the one that runs the prompt included.
        accepted: Drafted tokens that were kept.
        rounds_by_drafter: How many rounds each drafter's tokens were verified in; `plain` is none's.
    """

    id: str
    tokens: int
    seconds: float
    rounds: int
    accepted: int
    rounds_by_drafter: dict[str, float]


def ask(
    client: httpx.Client,
    model: str,
    prompt: str,
    arm: Mapping[str, Any],
    *,
    tokens: int,
    temperature: float,
    user: str = "",
) -> Answer:
    """Ask for one answer.

    Args:
        client: Of the cluster's address.
        model: Its model's name.
        prompt: The user's words.
        arm: The request's `paceline` field.
        tokens: Most tokens of the answer.
        temperature: Of its sampling.
        user: Whose request it is; empty is nobody's.

    Raises:
        httpx.HTTPError: it was refused, or failed.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "temperature": temperature,
        "paceline": dict(arm),
        **({"user": user} if user else {}),
    }
    began = time.perf_counter()
    reply = client.post("/v1/chat/completions", json=body)
    seconds = time.perf_counter() - began
    reply.raise_for_status()
    answer = reply.json()
    speculation = answer["metrics"]["speculative_decoding"]
    return Answer(
        answer["id"],
        answer["usage"]["completion_tokens"],
        seconds,
        speculation["rounds"],
        speculation["accepted_tokens"],
        {name: share * speculation["rounds"] for name, share in speculation["rounds_by_drafter"].items()},
    )
