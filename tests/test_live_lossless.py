"""The running cluster against the target's own plain decoding, token for token, in float32."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from live_cluster import ask, prompts, stream, text_of

from paceline.actors.causal_model import Step
from paceline.actors.model_facts import eos_ids
from paceline.actors.model_loader import load_model
from paceline.actors.model_source import resolve
from paceline.cluster.served_process import ServedProcess
from paceline.cluster.tokenizer import ChatTokenizer

pytestmark = [pytest.mark.cluster, pytest.mark.model]

TOKENS = 32


@pytest.fixture(scope="module")
def plain() -> dict[str, tuple[list[int], str]]:
    """Greedy answers from the model alone: one token at a time, no engine, no cluster."""
    folder = resolve("embedded").path
    model = load_model(folder, dtype="float32")
    tokenizer = ChatTokenizer(folder)
    stop = eos_ids(folder)
    answers = {}
    for prompt in prompts():
        pending = tokenizer.apply_chat([{"role": "user", "content": prompt}])
        cache = model.new_cache()
        tokens: list[int] = []
        while len(tokens) < TOKENS and not (tokens and tokens[-1] in stop):
            logits = model.forward([Step(cache, pending, -1)])
            pending = [int(torch.argmax(logits[0]))]
            tokens += pending
        answers[prompt] = tokens, tokenizer.decode(tokens)
    return answers


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_each_prompt_alone(live: ServedProcess, plain: dict[str, tuple[list[int], str]], streamed: bool) -> None:
    drafted = 0
    for prompt, (tokens, text) in plain.items():
        if streamed:
            got, events = stream(live, prompt, max_tokens=TOKENS, stream_options={"include_usage": True})
            usage = events[-1]["usage"]
            drafted += events[-1]["metrics"]["speculative_decoding"]["accepted_tokens"]
        else:
            reply = ask(live, prompt, max_tokens=TOKENS)
            got, usage = text_of(reply), reply["usage"]
            drafted += reply["metrics"]["speculative_decoding"]["accepted_tokens"]
        assert got == text, prompt
        assert usage["completion_tokens"] == len(tokens)
    assert drafted > 50, "speculation must have been at work"


def test_eight_requests_at_once(live: ServedProcess, plain: dict[str, tuple[list[int], str]]) -> None:
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda prompt: ask(live, prompt, max_tokens=TOKENS), plain))
    for reply, (prompt, (tokens, text)) in zip(replies, plain.items(), strict=True):
        assert text_of(reply) == text, prompt
        assert reply["usage"]["completion_tokens"] == len(tokens)


def test_a_seed_gives_the_same_text_with_and_without_drafters(live: ServedProcess) -> None:
    prompt = prompts()[16]
    first = ask(live, prompt, temperature=0.8, seed=11)
    plainly = ask(live, prompt, temperature=0.8, seed=11, paceline={"enabled": False})
    other = ask(live, prompt, temperature=0.8, seed=12)
    assert text_of(first) == text_of(plainly) != text_of(other)
