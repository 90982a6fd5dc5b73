"""A drafter that lies or fails costs its drafts and nothing else: each fault is found, counted and punished."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fake_drafter import SAMPLED, VOCAB_SIZE, FakeSequence, Road, draft_of, grow, make_laws

from paceline.actors import quarantine
from paceline.actors.draft_check import check_draft
from paceline.actors.errors import DraftError, ProtocolError
from paceline.actors.local_link import LocalLink
from paceline.actors.messages import Draft, DrafterBatch, Failure, Laws, Propose
from paceline.actors.sampling import Sampling
from paceline.actors.session_pool import SessionPool


def laws_with(change: Callable[[Laws], object]) -> Callable[[Draft], Draft]:
    def spoil(draft: Draft) -> Draft:
        laws = make_laws(draft.tokens)
        change(laws)
        return replace(draft, q=laws)

    return spoil


def set_prob(value: float) -> Callable[[Laws], object]:
    return lambda laws: laws.probs.__setitem__((1, 0), value)


def set_id(slot: int, value: int) -> Callable[[Laws], object]:
    return lambda laws: laws.ids.__setitem__((0, slot), value)


def flat(laws: Laws) -> None:
    laws.ids[0] = [50, 51, 52]


LIES: list[tuple[str, Callable[[Draft], Draft]]] = [
    ("start", lambda d: replace(d, start=d.start + 1)),
    ("length", lambda d: replace(d, tokens=[*d.tokens, 1], q=None)),
    ("ids", lambda d: replace(d, tokens=[1, VOCAB_SIZE, 2])),
    ("ids", lambda d: replace(d, tokens=[-1, 1, 2])),
    ("shape", lambda d: replace(d, q=make_laws(d.tokens[:2]))),
    ("shape", lambda d: replace(d, q=Laws(make_laws(d.tokens).ids, make_laws(d.tokens, 4).probs))),
    ("q_ids", laws_with(set_id(1, VOCAB_SIZE))),
    ("q_ids", laws_with(set_id(1, -2))),
    ("duplicate", laws_with(lambda laws: laws.ids.__setitem__((0, 1), laws.ids[0, 2]))),
    ("nan", laws_with(set_prob(math.nan))),
    ("nan", laws_with(set_prob(math.inf))),
    ("negative", laws_with(lambda laws: laws.probs.__setitem__(1, [1.2, -0.1, -0.1]))),
    ("unnormalised", laws_with(set_prob(0.51))),
    ("unnormalised", laws_with(lambda laws: laws.probs.fill(0))),
    ("padding", laws_with(set_id(2, -1))),
    ("unsupported", laws_with(flat)),
    ("unsupported", laws_with(lambda laws: laws.probs.__setitem__(0, [0, 0.5, 0.5]))),
    ("unasked", lambda d: replace(d, seq=77)),
]


@pytest.mark.parametrize(("reason", "lie"), LIES, ids=[f"{i}-{reason}" for i, (reason, _) in enumerate(LIES)])
def test_a_lie_is_found_counted_and_punished(reason: str, lie: Callable[[Draft], Draft]) -> None:
    road = Road("liar", "honest")
    road.hosts["liar"].spoil = lie
    sequence, other = FakeSequence(1, [10], SAMPLED), FakeSequence(2, [20], SAMPLED)
    drafts = road.pool.propose({"liar": [(sequence, 3)], "honest": [(other, 3)]})
    assert set(drafts.by_seq) == {2}
    assert road.counted("liar", f"invalid_{reason}") == 1
    assert road.pool.usable() == ["honest"]
    road.clock.now_s += quarantine.FIRST_S
    assert road.pool.usable() == ["liar", "honest"]
    road.hosts["liar"].spoil = lambda draft: draft
    assert draft_of(road.pool, "liar", grow(sequence, 11)) == [12, 13, 14]


def test_an_answer_for_one_sequence_twice_is_a_lie() -> None:
    road = Road("a")
    host = road.hosts["a"]
    handle = host.handle

    def twice(batch: DrafterBatch) -> object:
        reply, scores = handle(batch)
        return replace(reply, drafts=reply.drafts * 2), scores

    host.handle = twice  # type: ignore[method-assign,assignment]
    assert draft_of(road.pool, "a", FakeSequence(1, [10])) == [11, 12, 13]
    assert road.counted("a", "invalid_unasked") == 1


def test_a_good_q_passes_and_sums_to_one_in_float32() -> None:
    rounded = Laws(np.array([[3, 4, -1]], np.int32), np.array([[0.6002, 0.4001, 0.0]], np.float32))
    checked = check_draft(Draft(1, 5, [4], rounded), Propose(1, 5, 2), VOCAB_SIZE).q
    assert checked is not None
    assert checked.probs.dtype == np.float32
    assert abs(float(checked.probs.sum(dtype=np.float64)) - 1.0) < 1e-7
    assert checked.probs[0, 0] / checked.probs[0, 1] == pytest.approx(0.6002 / 0.4001, rel=1e-6)
    with pytest.raises(DraftError, match="draft of sequence 1: start: expected 5, got 6"):
        check_draft(Draft(1, 6, [4], rounded), Propose(1, 5, 2), VOCAB_SIZE)


def test_a_law_where_a_point_mass_was_asked_for_is_taken_off() -> None:
    road = Road("a")
    road.hosts["a"].spoil = lambda draft: replace(draft, q=make_laws(draft.tokens))
    seeded = FakeSequence(1, [10], Sampling(temperature=1.0, seed=4))
    draft = road.pool.propose({"a": [(seeded, 3)]}).by_seq[1]
    assert (draft.tokens, draft.q) == ([11, 12, 13], None)
    assert road.counted("a", "needless_q") == 1


def test_an_empty_draft_proposes_nothing_and_is_no_fault() -> None:
    road = Road("a")
    road.hosts["a"].spoil = lambda draft: replace(draft, tokens=[], q=None)
    drafts = road.pool.propose({"a": [(FakeSequence(1, [10]), 3)]})
    assert drafts.by_seq == {}
    assert [(t.drafter, t.sequences, t.length) for t in drafts.timings] == [("a", 1, 3)]
    assert road.pool.usable() == ["a"]


def test_one_failure_is_forgiven_and_three_in_a_row_are_not() -> None:
    road = Road("a")
    sequence = FakeSequence(1, [10])
    road.hosts["a"].fail = RuntimeError("no")
    for _ in range(quarantine.STRIKES - 1):
        assert draft_of(road.pool, "a", sequence) is None
        assert road.pool.usable() == ["a"]
    assert draft_of(road.pool, "a", sequence) is None
    assert road.pool.usable() == []
    assert road.counted("a", "failure_internal") == quarantine.STRIKES
    road.hosts["a"].fail = None
    road.clock.now_s += quarantine.FIRST_S
    assert draft_of(road.pool, "a", sequence) == [11, 12, 13]
    assert road.hosts["a"].batches[-1].opens  # its session was given up


def test_another_version_is_left_alone_for_long() -> None:
    road = Road("a")
    host = road.hosts["a"]
    host.spoil = lambda draft: draft
    plain = host.handle

    def outdated(batch: DrafterBatch) -> object:
        reply, scores = plain(replace(batch, proposes=[]))
        return replace(reply, failures=[Failure("VERSION", "expected 2")]), scores

    host.handle = outdated  # type: ignore[method-assign,assignment]
    assert draft_of(road.pool, "a", FakeSequence(1, [10])) is None
    road.clock.now_s += quarantine.LONGEST_S - 0.1
    assert road.pool.usable() == []
    road.clock.now_s += 0.2
    assert road.pool.usable() == ["a"]


def test_a_message_over_the_limit_goes_in_parts() -> None:
    road = Road("a")

    class Narrow(LocalLink):
        def send(self, batch: DrafterBatch) -> None:
            if len(batch.opens) + len(batch.commits) + len(batch.proposes) > 1:
                raise ProtocolError("too large")
            super().send(batch)

    road.connect = lambda member: Narrow(road.hosts["a"], lambda scores: None, road.clock)  # type: ignore[method-assign]
    pool = SessionPool(
        lambda: road.members, road.connect, vocab_size=VOCAB_SIZE, catch_up_tokens=4, deadline_s=1, clock=road.clock
    )
    one, two = FakeSequence(1, [10]), FakeSequence(2, [20])
    assert pool.propose({"a": [(one, 2), (two, 2)]}).by_seq == {}  # this round goes without
    assert set(road.hosts["a"].sessions) == {1, 2}
    assert draft_of(pool, "a", one) == [11, 12, 13]
