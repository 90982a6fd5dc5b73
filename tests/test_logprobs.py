"""Log-probabilities: the target's own law, whoever drafted; and the two endpoints' words for them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from engine_rig import GuessHost, crowd, rig
from fake_backend import EOS, MODEL, FakeBackend, make_api, make_tokenizer, rounds, served
from table_model import TableModel
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from paceline.actors.generation import TokenLogprobs
from paceline.actors.sampling import LogitsProcessing, Sampling
from paceline.cluster.openai_logprobs import LogprobsWriter
from paceline.cluster.token_bytes import TokenBytes
from paceline.cluster.tokenizer import ChatTokenizer

TEXT = "the 自行车 🚴 stops here; the end"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, top_k=3, seed=5), Sampling(1.2)], ids=repr)
def test_they_are_the_targets_own_law_before_anything_is_done_to_it(sampling: Sampling) -> None:
    """Whatever the temperature, top-k and penalties, and whether a token was drafted, a bonus or plain."""
    model = TableModel(vocab_size=12)
    processing = LogitsProcessing(frequency_penalty=0.7, logit_bias=((3, 2.0),), min_tokens=5)
    fields: dict[str, Any] = {"sampling": sampling, "processing": processing, "stop_ids": frozenset({4})}
    with rig(model, crowd(model) | {"exact": GuessHost(model, 0.0)}) as made:
        outcomes = [made.submit([i, 2], 40, logprobs=i % 4, **fields) for i in range(12)]
        without = made.submit([1, 2], 40, **fields)
        for index, outcome in enumerate(outcomes):
            text = outcome.wait()
            items = [item for chunk in outcome.chunks for item in chunk.logprobs]
            assert [len(chunk.logprobs) for chunk in outcome.chunks] == [len(c.token_ids) for c in outcome.chunks]
            for place, (token, item) in enumerate(zip(text, items, strict=True)):
                law = model.row([index, 2, *text[:place]]).log_softmax(dim=-1)
                assert item.logprob == pytest.approx(float(law[token]), abs=1e-5)
                values, ids = law.sort(descending=True)
                assert item.top_ids == tuple(ids[: index % 4].tolist())
                assert item.top_logprobs == pytest.approx(values[: index % 4].tolist(), abs=1e-5)
        without.wait()
        assert not any(chunk.logprobs for chunk in without.chunks)
        assert sum(chunk.accepted for outcome in outcomes for chunk in outcome.chunks) > 0


def test_of_equally_likely_tokens_the_lowest_ids_come_first_and_nothing_is_infinite() -> None:
    from paceline.actors.logprobs import read_logprobs

    item = read_logprobs(torch.tensor([[0.0, 1.0, 1.0, -math.inf]]), [3], 4)[0]
    assert item.top_ids == (1, 2, 0, 3)
    assert item.logprob == item.top_logprobs[3] == -9999.0


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def url(tokenizer: ChatTokenizer) -> Iterator[str]:
    backend = FakeBackend(lambda _: rounds(tokenizer.encode(TEXT + EOS), [3, 1, 2]))
    with served(make_api(backend, tokenizer)) as url:
        yield url


def streamed(url: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The first choice's `logprobs` of each event."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        create: Any = client.chat.completions.create if "chat" in path else client.completions.create
        return [event.choices[0].logprobs.model_dump() for event in create(**body, stream=True)]


def test_chat_names_every_token_with_its_bytes(url: str, tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.encode(TEXT + EOS)
    body = CHAT | {"logprobs": True, "top_logprobs": 2}
    whole = httpx.post(f"{url}/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]
    assert whole.keys() == {"content", "refusal"}
    content = whole["content"]
    assert b"".join(bytes(item["bytes"]) for item in content).decode() == TEXT + EOS
    assert [item["logprob"] for item in content] == [-token / 1000 for token in ids]
    split = [item for item in content if item["token"] == "\ufffd"]
    assert split, "a character of several tokens"
    assert all(len(item["bytes"]) >= 1 for item in split)
    for token, item in zip(ids, content, strict=True):
        assert item.keys() == {"token", "logprob", "bytes", "top_logprobs"}
        assert [bytes(best["bytes"]) for best in item["top_logprobs"]] == [
            tokenizer.bytes_of(token),
            tokenizer.bytes_of(token + 1),
        ]
    events = streamed(url, "/v1/chat/completions", body)
    assert [item for event in events for item in event["content"]] == content
    none = httpx.post(f"{url}/v1/chat/completions", json=CHAT | {"logprobs": True}).json()["choices"][0]["logprobs"]
    assert [item["top_logprobs"] for item in none["content"]] == [[]] * len(ids)
    assert httpx.post(f"{url}/v1/chat/completions", json=CHAT).json()["choices"][0]["logprobs"] is None


def test_completions_have_four_lists_whose_offsets_point_into_the_text(url: str, tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.encode(TEXT + EOS)
    body = {"model": MODEL, "prompt": "hello", "logprobs": 2}
    choice = httpx.post(f"{url}/v1/completions", json=body).json()["choices"][0]
    lists = choice["logprobs"]
    assert lists.keys() == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert {len(values) for values in lists.values()} == {len(ids)}
    assert choice["text"] == TEXT
    for name, at, best in zip(lists["tokens"], lists["text_offset"], lists["top_logprobs"], strict=True):
        if not name.startswith("bytes:") and name != EOS:
            assert TEXT[at:].startswith(name)
        assert name in best
    assert lists["text_offset"][-1] == len(TEXT)
    assert any(name.startswith("bytes:\\x") for name in lists["tokens"])
    parts = streamed(url, "/v1/completions", body)
    for name, values in lists.items():
        assert [value for part in parts for value in part[name]] == values
    zero = httpx.post(f"{url}/v1/completions", json=body | {"logprobs": 0}).json()["choices"][0]["logprobs"]
    assert [list(best) for best in zero["top_logprobs"]] == [[name] for name in zero["tokens"]]


def test_a_stop_string_cuts_the_logprobs_where_it_cuts_the_ids(url: str) -> None:
    body = CHAT | {"logprobs": True, "stop": "stops", "return_token_ids": True}
    choice = httpx.post(f"{url}/v1/chat/completions", json=body).json()["choices"][0]
    assert choice["message"]["content"] == TEXT[: TEXT.index("stops")]
    assert len(choice["logprobs"]["content"]) == len(choice["token_ids"])
    spelt = b"".join(bytes(item["bytes"]) for item in choice["logprobs"]["content"]).decode()
    assert TEXT.startswith(spelt)


def test_two_tokens_that_are_no_text_keep_their_own_names() -> None:
    table = {0: b"\xe4", 1: b"\xb8", 2: b"\xad"}
    writer = LogprobsWriter(lambda token: table[token], lambda token: True, chat=False)
    lists = writer.write(0, [0, 1, 2], [TokenLogprobs(-1.0, (0, 1, 2), (-1.0, -2.0, -3.0))] * 3)
    assert lists["top_logprobs"][0] == {"bytes:\\xe4": -1.0, "bytes:\\xb8": -2.0, "bytes:\\xad": -3.0}
    assert lists["text_offset"] == [0, 0, 0]
    assert writer.write(0, [0], [TokenLogprobs(-1.0)])["text_offset"] == [1], "one character by now"


def test_bytes_of_a_tokenizer_with_byte_fallback() -> None:
    vocabulary = {"<unk>": 0, "<0xE4>": 1, "\u2581the": 2, "<s>": 3, "e": 4}
    tokenizer = Tokenizer(BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")
    table = TokenBytes(fast)
    assert [table.of(token) for token in (1, 2, 3, 4, 99)] == [b"\xe4", b" the", b"<s>", b"e", b""]
