"""Features all the way: what an engine's drafters were sent is what a fresh forward of transformers computes.

Real (tiny, random) models, and in-process drafters that remember every row they were sent, and whose drafts are
accepted in part. Checked over prompts run in parts, sequences side by side, acceptance and rejection, shared
beginnings, lost sessions, and drafters that lag.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from engine_rig import LIMITS, Outcome, Rig, running
from tiny_models import make_tiny_gpt2, make_tiny_llama
from transformers import AutoModelForCausalLM

from paceline.actors.bfloat16 import from_bits
from paceline.actors.causal_model import CausalModel, Step
from paceline.actors.drafter import FeatureRequest
from paceline.actors.drafter_host import DrafterHost
from paceline.actors.engine import EngineLimits
from paceline.actors.messages import Commit, Draft, DrafterBatch, DrafterReply, Features, Open, Probs, Propose, Score
from paceline.actors.model_loader import load_model
from paceline.actors.sampling import Sampling
from paceline.kernels.decoder_ops import BLOCK

WIDTH = 48
VOCAB = 97
LONG = [(i * i + 3) % VOCAB for i in range(45)]
SAMPLINGS = {
    "greedy": Sampling(),
    "seeded": Sampling(temperature=0.5, seed=5),
    "sampled": Sampling(temperature=0.5),
}


class Heard:
    """One session: its tokens, and the row that came with each position."""

    def __init__(self, tokens: list[int], features: Features | None) -> None:
        self.tokens: list[int] = []
        self.rows: dict[int, torch.Tensor] = {}
        self.take(tokens, features)

    def take(self, tokens: list[int], features: Features | None) -> None:
        """Rows are aligned to the end of the tokens."""
        self.tokens += tokens
        rows = [] if features is None else list(from_bits(features))
        end = len(self.tokens)
        self.rows.update(zip(range(end - len(rows), end), rows, strict=True))


class Reader:
    """A drafter kind that remembers what it is sent, and drafts the target's likeliest tokens, some of them wrong."""

    vocab_size = VOCAB

    def __init__(self, model: CausalModel, layers: tuple[int, ...], window: int, seed: int) -> None:
        self.features: FeatureRequest | None = FeatureRequest(layers, window, WIDTH)
        self.model = model
        self.chance = Random(seed)
        self.live: dict[int, Heard] = {}
        self.ended: list[Heard] = []

    def open(self, opens: Sequence[Open]) -> None:
        for item in opens:
            self.live[item.seq] = Heard(list(item.tokens), item.features)

    def commit(self, commits: Sequence[Commit]) -> list[Probs]:
        for item in commits:
            assert item.start == len(self.live[item.seq].tokens)
            self.live[item.seq].take(list(item.tokens), item.features)
        return [np.zeros(len(item.tokens), np.float32) for item in commits]

    def propose(self, proposes: Sequence[Propose]) -> list[Draft]:
        return [Draft(item.seq, item.start, self.draft(self.live[item.seq].tokens, item.length)) for item in proposes]

    def close(self, seqs: Sequence[int]) -> None:
        self.ended += [self.live.pop(seq) for seq in seqs]

    def draft(self, text: list[int], length: int) -> list[int]:
        cache, drafted = self.model.new_cache(), list(text)
        for _ in range(length):
            best = int(self.model.forward([Step(cache, drafted[cache.length :], -1)])[0].argmax())
            drafted.append(best if self.chance.random() < 0.8 else self.chance.randrange(VOCAB))
        return drafted[len(text) :]


class Forgetful(DrafterHost):
    """Loses all sessions before every tenth message."""

    def __init__(self, drafter: Reader) -> None:
        super().__init__(drafter, max_sessions=8)
        self.drafter = drafter
        self.messages = 0

    def handle(self, batch: DrafterBatch) -> tuple[DrafterReply, list[Score]]:
        self.messages += 1
        if self.messages % 10 == 0:
            super().handle(DrafterBatch(closes=list(self.drafter.live)))
        return super().handle(batch)


class Case:
    """A target that keeps layers 1, 2 and 4 (or both of two), and drafters that read some of them."""

    def __init__(self, folder: Path, layers: tuple[int, ...], catch_up_tokens: int, **bounds: int) -> None:
        target = load_model(folder, dtype="float32", kv_tokens=64 * BLOCK, feature_layers=layers)
        guide = load_model(folder, dtype="float32")
        self.reference: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.readers = {
            "all": Reader(guide, layers, 512, 1),
            "some": Reader(guide, layers[1:], 512, 2),
            "narrow": Reader(guide, layers[:1], 3, 3),
            "forgetful": Reader(guide, layers, 512, 4),
        }
        hosts = {
            name: Forgetful(reader) if name == "forgetful" else DrafterHost(reader, max_sessions=8)
            for name, reader in self.readers.items()
        }
        limits = EngineLimits(**LIMITS | {"max_prefill": 16, "max_tokens_in_flight": 512} | bounds)
        self.rig = Rig(target, hosts, limits, catch_up_tokens)
        self.rig.board.list = tuple(
            replace(member, feature_layers=request.layers, feature_window=request.window)
            for member in self.rig.board.list
            if (request := self.readers[member.drafter].features) is not None
        )

    def check(self, texts: Sequence[list[int]], behind: int) -> None:
        """All that was heard, of the texts that came out; a drafter may not have heard their last `behind` tokens."""
        for name, reader in self.readers.items():
            assert not reader.live
            for heard in reader.ended:
                assert any(text[: len(heard.tokens)] == heard.tokens for text in texts)
                self.check_rows(name, heard)
            for text in texts if name != "forgetful" else []:
                most = max(len(heard.tokens) for heard in reader.ended if text[: len(heard.tokens)] == heard.tokens)
                assert most >= len(text) - behind, name

    def check_rows(self, name: str, heard: Heard) -> None:
        request = self.readers[name].features
        assert request is not None
        with torch.inference_mode():
            states = self.reference(torch.tensor([heard.tokens]), use_cache=False, output_hidden_states=True)
        truth = torch.cat([states.hidden_states[layer][0] for layer in request.layers], dim=-1)
        if len(truth) > 1:
            assert (truth[1:] - truth[:-1]).abs().mean() > 0.1  # else a row's neighbour would pass for it
        for position, row in heard.rows.items():
            torch.testing.assert_close(row.float(), truth[position - 1], atol=1e-3, rtol=2**-8)
        if request.window > len(heard.tokens):
            assert set(heard.rows) == set(range(1, len(heard.tokens)))
        else:
            assert len(heard.tokens) - 1 in heard.rows


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small cost a hundred times as much where two threads that others keep busy share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("llama"), layers=4)


def finish(outcome: Outcome, prompt: list[int]) -> list[int]:
    return prompt + outcome.wait()


@pytest.mark.parametrize("catch_up_tokens", [1, 6])
@pytest.mark.parametrize("kind", SAMPLINGS)
def test_features_that_arrive_are_those_of_a_fresh_forward(llama: Path, kind: str, catch_up_tokens: int) -> None:
    case = Case(llama, (1, 2, 4), catch_up_tokens)
    with running(case.rig) as rig:
        prompts = [LONG, LONG[20:23], [9]]
        outcomes = [rig.submit(prompt, 30, sampling=SAMPLINGS[kind]) for prompt in prompts]
        texts = [finish(outcome, prompt) for outcome, prompt in zip(outcomes, prompts, strict=True)]
        again = texts[0][:60]
        outcomes.append(rig.submit(again, 12, sampling=SAMPLINGS[kind]))
        texts.append(finish(outcomes[-1], again))
        assert outcomes[-1].chunks[0].cached >= 48  # the beginning was shared
    chunks = [chunk for outcome in outcomes for chunk in outcome.chunks]
    assert sum(chunk.accepted for chunk in chunks) > 10
    assert sum(chunk.drafted - chunk.accepted for chunk in chunks) > 10
    assert len(case.readers["forgetful"].ended) > len(texts)  # sessions were lost and made again
    case.check(texts, catch_up_tokens - 1)
    counters = rig.pool.counters()
    assert all(counters[name]["feature_bytes"] > 0 for name in case.readers)
    assert not any(count for name in case.readers for what, count in counters[name].items() if "fail" in what)


def test_features_of_preempted_sequences_arrive(llama: Path) -> None:
    case = Case(llama, (1, 2, 4), 6, max_sequences=3, max_tokens_in_flight=165)
    with running(case.rig) as rig:
        prompts = [LONG, LONG[20:23], [9]]
        outcomes = [rig.submit(prompt, 120) for prompt in prompts]
        texts = [finish(outcome, prompt) for outcome, prompt in zip(outcomes, prompts, strict=True)]
        assert rig.engine.counts.preemptions > 0
    case.check(texts, 5)


def test_features_arrive_from_a_model_that_transformers_runs(tmp_path: Path) -> None:
    case = Case(make_tiny_gpt2(tmp_path), (1, 2), 1)
    with running(case.rig) as rig:
        outcomes = [rig.submit(prompt, 20) for prompt in (LONG, LONG[:7])]
        texts = [finish(outcomes[0], LONG), finish(outcomes[1], LONG[:7])]
    case.check(texts, 0)


def test_a_target_that_keeps_no_features_serves_on_without_their_readers(llama: Path) -> None:
    case = Case(llama, (1, 2, 4), 1)
    bare = load_model(llama, dtype="float32")
    hosts = {name: DrafterHost(reader, max_sessions=8) for name, reader in case.readers.items()}
    rig = Rig(bare, hosts, EngineLimits(**LIMITS))
    rig.board.list = case.rig.board.list
    with running(rig):
        outcome = rig.submit(LONG, 8)
        assert len(outcome.wait()) == 8
    assert not any(chunk.drafted for chunk in outcome.chunks)
    assert all(rig.pool.counters()[name]["unmet_features"] == 1 for name in case.readers)
