"""Incremental detokenising equals the whole decode, however ids are cut, and never splits a character."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_backend import EOS, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteFallback, Fuse, Replace, Strip
from tokenizers.decoders import Sequence as DecoderSequence
from tokenizers.models import WordLevel

from paceline.cluster.text_stream import TextStream
from paceline.cluster.tokenizer import ChatTokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


def pieces(tokenizer: ChatTokenizer, ids: list[int], cuts: list[int]) -> list[str]:
    """The pieces of a stream fed parts of these lengths, over and over; the last is the flush."""
    stream, given_out, at, turn = TextStream(tokenizer.decode), [], 0, 0
    while at < len(ids):
        size = cuts[turn % len(cuts)]
        given_out.append(stream.push(ids[at : at + size]))
        at, turn = at + size, turn + 1
    return [*given_out, stream.flush()]


@given(text=st.text(max_size=60), cuts=st.lists(st.integers(1, 5), min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_any_text_in_any_cuts(tokenizer: ChatTokenizer, text: str, cuts: list[int]) -> None:
    ids = tokenizer.encode(text)
    assert "".join(pieces(tokenizer, ids, cuts)) == tokenizer.decode(ids)


@given(data=st.data(), cuts=st.lists(st.integers(1, 5), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_any_ids_in_any_cuts_even_where_they_are_no_text(
    tokenizer: ChatTokenizer, data: st.DataObject, cuts: list[int]
) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    assert "".join(pieces(tokenizer, ids, cuts)) == tokenizer.decode(ids)


def test_a_character_of_many_tokens_comes_whole(tokenizer: ChatTokenizer) -> None:
    text = "a🚴‍♀️b自行车é"
    ids = tokenizer.encode(text)
    assert len(ids) > 2 * len(text)
    given_out = pieces(tokenizer, ids, [1])
    assert "".join(given_out) == text
    assert not any("\ufffd" in piece for piece in given_out)
    assert [piece for piece in given_out if piece] == list(text)


def test_an_unfinished_character_is_shown_at_the_end_as_the_whole_decode_shows_it(tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.encode("ok 🚴")[:-1]
    given_out = pieces(tokenizer, ids, [1])
    assert "".join(given_out) == tokenizer.decode(ids) == "ok \ufffd"
    assert "\ufffd" not in "".join(given_out[:-1])


def test_text_is_not_held_longer_than_needed(tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.encode("the quick brown fox")
    stream = TextStream(tokenizer.decode)
    for end in range(1, len(ids) + 1):
        stream_text = stream.push(ids[end - 1 : end])
        assert stream_text == tokenizer.decode(ids[end - 1 : end])


def test_special_tokens_are_not_shown(tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.encode(f"one{EOS}two{EOS}{EOS}自")
    for cut in ([1], [2], [3], [50]):
        assert "".join(pieces(tokenizer, ids, cut)) == "onetwo自"


@pytest.mark.parametrize(
    ("text", "part", "most"),
    [
        ("自行车 the fox 🚴 " * 50, slice(None), 16),
        ("\ufffd" * 200, slice(None), 65),
        ("🚴" * 300, slice(1, None, 4), 65),
    ],
    ids=["text", "replacement signs", "bytes that are no text"],
)
def test_the_work_per_token_does_not_grow(tokenizer: ChatTokenizer, text: str, part: slice, most: int) -> None:
    ids = tokenizer.encode(text)[part]
    longest = 0

    def decode(ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return tokenizer.decode(ids)

    stream = TextStream(decode)
    assert "".join(stream.push([token]) for token in ids) + stream.flush() == tokenizer.decode(ids)
    assert longest <= most


@given(data=st.data(), size=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_long_runs_of_bytes_that_are_no_text(tokenizer: ChatTokenizer, data: st.DataObject, size: int) -> None:
    """Long enough for the window to be cut inside them, wherever characters begin and end."""
    parts = sorted({token for text in ("🚴", "自", "é", "\ufffd") for token in tokenizer.encode(text)})
    run = data.draw(st.lists(st.sampled_from(parts), min_size=1, max_size=7))
    ids = run * 30 + data.draw(st.lists(st.sampled_from(parts), max_size=8)) + tokenizer.encode("自 end")
    assert "".join(pieces(tokenizer, ids, [size])) == tokenizer.decode(ids)


def test_a_decoder_that_strips_the_first_space_and_knows_bytes_by_name() -> None:
    """As SentencePiece models decode: a word-begin sign, bytes as <0xNN>, one leading space stripped."""
    vocab = {name: i for i, name in enumerate(["▁one", "▁two", "three", "<0xE8>", "<0x87>", "<0xAA>", "▁"])}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="▁"))
    tokenizer.decoder = DecoderSequence([Replace("▁", " "), ByteFallback(), Fuse(), Strip(" ", 1, 0)])
    ids = [0, 1, 2, 3, 4, 5, 1, 0, 3, 4, 5, 2]
    for size in (1, 2, 3, 5, 12):
        stream = TextStream(tokenizer.decode)
        text = "".join(stream.push(ids[at : at + size]) for at in range(0, len(ids), size)) + stream.flush()
        assert text == tokenizer.decode(ids) == "one twothree自 two one自three"


def test_a_control_token_is_no_context_for_a_decoder_that_strips_the_first_space() -> None:
    tokenizer = Tokenizer(WordLevel({"▁one": 0, "▁two": 1, "</s>": 2}, unk_token="</s>"))
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.decoder = DecoderSequence([Replace("▁", " "), Fuse(), Strip(" ", 1, 0)])
    stream = TextStream(tokenizer.decode)
    ids = [0, 2, 2, 1, 2, 0]
    assert "".join([stream.push([token]) for token in ids]) + stream.flush() == tokenizer.decode(ids) == "one two one"
