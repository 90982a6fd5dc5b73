"""Which features the pool sends to whom, and what a target that lacks them makes of a drafter.

A fake cache's features tell position and layer: 10 * position + layer, two values of each layer.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_drafter import FakeCache, FakeSequence, Road, draft_of, grow

from paceline.actors.bfloat16 import from_bits, to_bits
from paceline.actors.messages import Commit, Features, Open

LAYERS = (1, 3, 4)


def test_bits_are_those_of_bfloat16() -> None:
    values = torch.tensor([[1.0, -2.5, 0.0], [float("inf"), 1e-3, 3.14159]])
    bits = to_bits(values.T)
    assert (bits.dtype, bits.shape) == (np.dtype(np.uint16), (3, 2))
    assert bits[:, 0].tolist() == [0x3F80, 0xC020, 0x0000]
    assert torch.equal(from_bits(bits), values.T.bfloat16())
    assert torch.equal(from_bits(bits[::2, ::-1]), values.T.bfloat16()[::2].flip(1))


def road(**reads: tuple[tuple[int, ...], int]) -> Road:
    """A pool whose target keeps LAYERS; a drafter reads (layers, window)."""
    made = Road(*reads, feature_layers=LAYERS)
    made.members = [
        replace(member, feature_layers=reads[member.drafter][0], feature_window=reads[member.drafter][1])
        for member in made.members
    ]
    return made


def sequence(seq: int, prompt: list[int], run: int) -> FakeSequence:
    """One of whose prompt the target has run so many tokens."""
    return FakeSequence(seq, prompt, cache=FakeCache(run, LAYERS))


def play(sequence: FakeSequence, *tokens: int) -> FakeSequence:
    """What a round does: tokens are committed, and the cache holds all but the last."""
    grow(sequence, *tokens)
    sequence.cache.length = len(sequence.tokens) - 1
    return sequence


def values(features: Features | None) -> list[list[float]]:
    assert features is not None
    return from_bits(features).tolist()


def last(road: Road, name: str) -> Open | Commit:
    batch = road.hosts[name].batches[-1]
    (news,) = batch.opens + batch.commits
    return news


def test_a_drafter_that_reads_features_hears_of_a_sequence_once_its_prompt_was_run() -> None:
    rig = road(reads=((1,), 100), plain=((), 0))
    text = sequence(1, [10, 11, 12], run=0)
    rig.pool.open(text)
    assert not rig.hosts["reads"].batches
    assert last(rig, "plain").features is None
    text.cache.length = 1
    rig.pool.commit([text])
    assert draft_of(rig.pool, "reads", text) is None
    assert not rig.hosts["reads"].batches
    rig.pool.commit([play(text, 13)])
    opened = last(rig, "reads")
    assert isinstance(opened, Open)
    assert opened.tokens == [10, 11, 12, 13]
    assert values(opened.features) == [[1, 1], [11, 11], [21, 21]]
    assert draft_of(rig.pool, "reads", text) == [14, 15, 16]


def test_a_prompt_that_was_known_is_told_at_once() -> None:
    rig = road(reads=((1,), 100))
    rig.pool.open(sequence(1, [10, 11, 12], run=2))
    assert values(last(rig, "reads").features) == [[1, 1], [11, 11]]


def test_a_prompt_of_one_token_has_no_features_yet() -> None:
    rig = road(reads=((1, 4), 100))
    rig.pool.open(text := sequence(1, [10], run=0))
    features = last(rig, "reads").features
    assert features is not None
    assert features.shape == (0, 4)
    assert draft_of(rig.pool, "reads", play(text, 20)) == [21, 22, 23]
    assert values(last(rig, "reads").features) == [[1, 1, 4, 4]]


def test_commits_carry_the_features_one_position_before_their_tokens() -> None:
    rig = road(reads=((3,), 100))
    rig.pool.open(text := sequence(1, [10, 11], run=1))
    draft_of(rig.pool, "reads", play(text, 12))
    assert values(last(rig, "reads").features) == [[13, 13]]
    draft_of(rig.pool, "reads", play(text, 13, 14, 15))
    commit = last(rig, "reads")
    assert isinstance(commit, Commit)
    assert (commit.start, commit.tokens) == (3, [13, 14, 15])
    assert values(commit.features) == [[23, 23], [33, 33], [43, 43]]


def test_a_window_keeps_the_last_rows() -> None:
    rig = road(reads=((3, 4), 2))
    rig.pool.open(text := sequence(1, [10, 11, 12, 13], run=3))
    assert values(last(rig, "reads").features) == [[13, 13, 14, 14], [23, 23, 24, 24]]
    draft_of(rig.pool, "reads", play(text, 14))
    assert values(last(rig, "reads").features) == [[33, 33, 34, 34]]
    draft_of(rig.pool, "reads", play(text, 15, 16, 17))
    assert values(last(rig, "reads").features) == [[53, 53, 54, 54], [63, 63, 64, 64]]


def test_a_session_that_was_lost_is_opened_with_features_of_all() -> None:
    rig = road(reads=((1,), 100))
    rig.pool.open(text := sequence(1, [10, 11], run=1))
    rig.hosts["reads"].sessions.clear()
    assert draft_of(rig.pool, "reads", play(text, 12)) is None
    assert draft_of(rig.pool, "reads", play(text, 13)) == [14, 15, 16]
    opened = last(rig, "reads")
    assert isinstance(opened, Open)
    assert values(opened.features) == [[1, 1], [11, 11], [21, 21]]


def test_what_several_drafters_ask_for_is_read_once() -> None:
    rig = road(a=((1, 3), 100), b=((1, 3), 100), c=((4,), 100), d=(LAYERS, 100), plain=((), 0))
    text = sequence(1, [10, 11], run=0)
    rig.pool.open(text)
    rig.pool.commit([play(text, 12)])
    assert text.cache.reads == [(0, 2)]
    assert [values(last(rig, name).features)[1] for name in "abcd"] == [
        [11, 11, 13, 13],
        [11, 11, 13, 13],
        [14, 14],
        [11, 11, 13, 13, 14, 14],
    ]
    rig.pool.commit([play(text, 13, 14, 15, 16)])
    assert text.cache.reads == [(0, 2), (2, 6)]
    rig.pool.propose({name: [(text, 3)] for name in "abcd"})
    assert text.cache.reads == [(0, 2), (2, 6)]  # nothing is news


def test_bytes_of_features_are_counted() -> None:
    rig = road(reads=((1, 3), 100), plain=((), 0))
    text = sequence(1, [10, 11], run=1)
    rig.pool.open(text)
    draft_of(rig.pool, "reads", play(text, 12, 13))
    assert rig.counted("reads", "feature_bytes") == (1 + 2) * 2 * 2 * 2  # rows, layers, width, bytes
    assert rig.counted("plain", "feature_bytes") == 0


def test_a_drafter_that_reads_what_the_target_does_not_keep_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    rig = road(reads=((1, 2, 9), 100), good=((1,), 100))
    text = sequence(1, [10, 11], run=1)
    with caplog.at_level(logging.ERROR):
        rig.pool.open(text)
        assert rig.pool.usable() == ["good"]
        assert draft_of(rig.pool, "reads", play(text, 12)) is None
    assert "drafter reads is not used" in caplog.text
    assert "keeps none of [2, 9]" in caplog.text
    assert len(caplog.records) == 1
    assert rig.counted("reads", "unmet_features") == 1
    assert rig.pool.connected() == ["good"]
    assert not rig.hosts["reads"].batches


def test_a_drafter_that_comes_back_with_other_layers_is_a_new_one() -> None:
    rig = road(reads=((9,), 100))
    assert rig.pool.usable() == []
    rig.members = [replace(rig.members[0], feature_layers=(4,))]
    assert rig.pool.usable() == ["reads"]
    rig.pool.open(sequence(1, [10, 11], run=1))
    assert values(last(rig, "reads").features) == [[4, 4]]
