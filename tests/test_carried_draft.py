"""Drafts that outlast their round: what is kept of them, and that the engine plays it without asking again."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from engine_rig import LIMITS, GuessHost, rig
from table_model import TableModel

from paceline.actors.arm_choice import draw_drafter
from paceline.actors.carried_draft import CarriedDraft, carry, first_tokens
from paceline.actors.messages import Draft, Laws


def drawn(tokens: list[int]) -> Draft:
    rows = np.arange(len(tokens), dtype=np.int32)[:, None]
    return Draft(7, 100, tokens, Laws(rows, np.ones_like(rows, dtype=np.float32)))


@pytest.mark.parametrize(
    ("committed", "left"),
    [
        ([1, 2, 3], [4, 5]),  # two accepted, and the bonus is what was drafted
        ([1], [2, 3, 4, 5]),
        ([1, 2, 9], None),  # the bonus is another
        ([9], None),
        ([1, 2, 3, 4, 5], None),  # nothing is left
        ([1, 2, 3, 4, 5, 6], None),
    ],
)
def test_a_draft_is_carried_while_the_text_goes_as_it_says(committed: list[int], left: list[int] | None) -> None:
    carried = carry("a", Draft(7, 100, [1, 2, 3, 4, 5]), committed)
    if left is None:
        assert carried is None
        return
    assert isinstance(carried, CarriedDraft)
    assert (carried.drafter, carried.draft.start, carried.draft.tokens) == ("a", 100 + len(committed), left)


def test_drawn_tokens_are_not_carried() -> None:
    """How many are left may depend on what they are; see the module."""
    assert carry("a", drawn([1, 2, 3]), [1]) is None


def test_the_first_tokens_keep_their_laws() -> None:
    first = first_tokens(drawn([1, 2, 3]), 2)
    assert (first.start, first.tokens) == (100, [1, 2])
    assert first.q is not None
    assert first.q.ids.shape == first.q.probs.shape == (2, 1)
    assert first_tokens(Draft(7, 100, [1, 2]), 5).tokens == [1, 2]


class EagerHost(GuessHost):
    """The target's own table: every draft is right, and as long as was asked."""

    asked: list[int]

    def draft(self, seq: int, start: int, length: int) -> Draft:
        self.asked.append(length)
        tokens = list(self.tokens[seq])
        for _ in range(length):
            tokens.append(int(self.model.row(tokens).argmax()))
        return Draft(seq, start, tokens[start:])


def test_a_fast_drafter_is_asked_every_other_round_and_the_text_is_the_same() -> None:
    model = TableModel(vocab_size=12)
    host = EagerHost(model)
    host.asked = []
    with rig(model, {"fast": host}) as made:
        plain = made.submit([1, 2], 120, speculate=False).wait()
        assert made.submit([1, 2], 120).wait() == plain
    most = LIMITS["max_draft"]
    rounds = [each for each in made.board.rounds if each.drafter]
    assert all(each.accepted == each.drafted for each in rounds)
    assert sum(each.drafted == most for each in rounds) >= 120 // (most + 1) - 2, "what is carried is no shorter"
    assert host.asked.count(2 * most + 1) >= 5
    assert len(host.asked) <= 0.75 * len(rounds), "the first few, before its latency is known, and then every other"


class _Pool:
    def serves(self, drafter: str, seq: int) -> bool:
        return True


class _Board:
    def __init__(self, weights: dict[str, float]) -> None:
        self._weights = weights

    def weights(self, seq: int) -> dict[str, float]:
        return self._weights


@pytest.mark.parametrize(("weight", "stays"), [(0.5, True), (0.3, True), (0.05, False), (0.0, False)])
def test_a_drafter_whose_draft_is_at_hand_goes_on_unless_another_is_much_better(weight: float, stays: bool) -> None:
    """Of 200 draws; one that is not kept is drawn by its weight, 5% at most, so not 40 times in under 1 of 10^9."""
    sequence = SimpleNamespace(seq=7, drafters=(), generation=SimpleNamespace(drafters=()))
    sequence.carried = CarriedDraft("a", Draft(7, 100, [1, 2]))
    board, chance = _Board({"a": weight, "b": 1.0 - weight}), Random(1)
    drawn = [draw_drafter(sequence, board, _Pool(), ["a", "b"], chance) for _ in range(200)]  # type: ignore[arg-type]
    assert (drawn.count("a") == 200) == stays
    assert stays or drawn.count("a") < 40
