"""What a stream with `paceline.detail` says of each token is exactly the text that every client gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_backend import EOS, MODEL, FakeBackend, make_api, make_tokenizer, rounds, served
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paceline.actors.generation import Chunk, Generation
from paceline.cluster.activity import Activity
from paceline.cluster.completion import Completion
from paceline.cluster.openai_replies import ReplyWriter
from paceline.cluster.request_plan import Plan
from paceline.cluster.token_pieces import TokenPieces
from paceline.cluster.tokenizer import ChatTokenizer

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


async def stream(
    tokenizer: ChatTokenizer, chunks: list[Chunk], stops: tuple[str, ...], *, detail: bool
) -> list[dict[str, Any]]:
    """The events of a stream that is said in these chunks."""
    ends = frozenset(tokenizer.encode(EOS))
    generation = Generation("r-0", (1,), 1000, ends, streamed=True)
    plan = Plan([generation], stops, min_tokens=0, prompt_tokens=1, include_usage=False, detail=detail)
    writer = ReplyWriter(chat=True, model=MODEL, include_usage=False, include_ids=True)
    completion = Completion(FakeBackend(lambda _: chunks), tokenizer.decode, plan, writer, Activity())
    return [event async for event in completion.events()]


def test_a_character_belongs_to_the_token_that_completes_it() -> None:
    pieces = TokenPieces()
    pieces.add(0, 3, "abc")
    pieces.add(1, 0, "")
    pieces.add(2, 1, "d")
    assert pieces.take() == [(0, "abc"), (2, "d")]
    assert pieces.take() == []


def test_what_was_held_back_goes_to_its_own_token() -> None:
    pieces = TokenPieces()
    pieces.add(0, 4, "ab")  # "cd" might begin a stop
    pieces.add(1, 2, "")
    assert pieces.take() == [(0, "ab")]
    pieces.add(2, 1, "cdefg")
    assert pieces.take() == [(0, "cd"), (1, "ef"), (2, "g")]


@given(
    text=st.text(max_size=40),
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    stops=st.lists(st.text(min_size=1, max_size=4), max_size=3),
    ends=st.booleans(),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_pieces_are_the_text(
    tokenizer: ChatTokenizer, text: str, cuts: list[int], stops: list[str], ends: bool
) -> None:
    """In any text, cut anywhere, with any stops: the pieces of each event are its text; those of all tokens before one,
    joined, decode as those tokens do; and a stream without the option is the same but for them."""
    ids = tokenizer.encode(text + EOS) if ends else tokenizer.encode(text) or [5]
    chunks = rounds(ids, cuts, "stop" if ends else "length")
    told = await stream(tokenizer, chunks, tuple(stops), detail=True)
    quiet = await stream(tokenizer, chunks, tuple(stops), detail=False)
    content = [event["choices"][0]["delta"]["content"] for event in told]
    assert "".join(content) == "".join(event["choices"][0]["delta"]["content"] for event in quiet)
    assert not any({"pieces", "start", "weights"} & event["paceline"].keys() for event in quiet)
    by_token: dict[int, str] = {}
    seen = 0
    for event, shown in zip(told, content, strict=True):
        round_ = event["paceline"]
        assert round_["start"] == seen
        assert round_["token_ids"] == event["choices"][0]["token_ids"]
        seen += len(round_["token_ids"])
        assert "".join(piece for _, piece in round_["pieces"]) == shown
        for token, piece in round_["pieces"]:
            assert piece
            assert token < seen
            by_token[token] = by_token.get(token, "") + piece
    assert list(by_token) == sorted(by_token), "a text only grows at its end"
    whole = "".join(by_token[token] for token in sorted(by_token))
    assert whole == "".join(content)
    for token in by_token:  # what the tokens up to here say is what they decode to, but for unfinished characters
        so_far = "".join(by_token[before] for before in by_token if before <= token)
        decoded = tokenizer.decode(ids[: token + 1])
        assert decoded.rstrip("\ufffd").startswith(so_far.rstrip("\ufffd"))


def test_weights_and_detail_over_http(tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.encode("自行车 goes" + EOS)
    backend = FakeBackend(
        lambda generation: [
            Chunk(ids[:4], None, "ngram", 5, 3, 0, {"ngram": 0.75} if generation.show_weights else None),
            Chunk(ids[4:], "stop", "suffix", 7, len(ids) - 5, 0, {"suffix": 1.0} if generation.show_weights else None),
        ]
    )
    with served(make_api(backend, tokenizer)) as url, httpx.Client(base_url=url) as client:
        reply = client.post("/v1/chat/completions", json={**CHAT, "stream": True, "paceline": {"detail": True}})
        events = [json.loads(line[6:]) for line in reply.text.split("\n\n") if line.startswith("data: {")]
        assert [event["paceline"]["weights"] for event in events] == [{"ngram": 0.75}, {"suffix": 1.0}]
        assert [event["paceline"]["start"] for event in events] == [0, 4]
        first = events[0]["paceline"]
        assert (first["drafter"], first["drafted"], first["accepted"]) == ("ngram", 5, 3)
        refused = client.post("/v1/chat/completions", json={**CHAT, "paceline": {"detail": True}})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "paceline.detail"
        client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert [generation.show_weights for generation in backend.asked] == [True, False]
