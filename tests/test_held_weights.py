"""What a target goes by: the newest weights it took, in order of preference, and members that outlast a restart."""

from __future__ import annotations

import numpy as np

from paceline.actors.held_weights import HeldWeights
from paceline.actors.messages import Member, WeightsUpdate

ONE = np.ones(1, dtype=np.float32)


def news(number: int, *names: str, members: bool = True, **sequences: list[float]) -> WeightsUpdate:
    share = np.full(len(names), 1.0 / max(len(names), 1), dtype=np.float32)
    rows = {int(seq[1:]): np.array(row, dtype=np.float32) for seq, row in sequences.items()}
    known = tuple(Member(name, "ngram", f"h:{number}") for name in names) or None
    return WeightsUpdate(number, names, share, rows, known if members else None)


def test_held_weights_fall_back_in_order() -> None:
    held = HeldWeights("a", 5.0, lambda: 0.0)
    assert held.weights(1) == {"a": 1.0}
    held.connected()
    held.apply(news(1), lambda _: True)  # a selector that knows nobody has nothing to say
    assert held.weights(1) == {"a": 1.0}
    held.apply(news(2, "a", "b", s1=[0.25, 0.75], s9=[1, 0]), lambda seq: seq != 9)
    assert held.weights(1) == {"a": 0.25, "b": 0.75}
    assert held.weights(2) == {"a": 0.5, "b": 0.5}
    assert held.weights(9) == held.weights(2)  # it has ended; its late weights are not kept
    held.apply(news(3, "a", "b", s1=[]), lambda _: True)
    assert held.weights(1) == held.weights(2)
    held.opened(3, ("b",))
    assert held.weights(3) == {"b": 1.0}
    held.opened(4, ("unheard",))
    assert held.weights(4) == {"unheard": 1.0}


def test_held_members_outlast_a_selectors_restart_until_grace_is_over() -> None:
    now_s = 0.0
    held = HeldWeights(None, 5.0, lambda: now_s)
    held.connected()
    held.apply(news(1, "a", "b", "c", s1=[0, 0, 1]), lambda _: True)
    held.connected()  # another selector, which knows nobody yet
    held.apply(news(1), lambda _: True)
    assert [m.drafter for m in held.members()] == ["a", "b", "c"]
    held.apply(news(2, "b", s1=[1]), lambda _: True)
    assert [(m.drafter, m.address) for m in held.members()] == [("a", "h:1"), ("b", "h:2"), ("c", "h:1")]
    assert held.weights(1) == {"a": 0.0, "b": 0.0, "c": 1.0}  # not from one that knows only b
    assert held.held_back == 2
    now_s = 6.0
    assert [m.drafter for m in held.members()] == ["b"]
    held.apply(news(3, "b", members=False, s1=[1]), lambda _: True)
    assert held.weights(1) == {"b": 1.0}


def test_the_number_is_that_of_the_update_whose_weights_were_taken() -> None:
    held = HeldWeights(None, 5.0, lambda: 0.0)
    assert held.number == 0
    held.connected()
    held.apply(WeightsUpdate(4, ("a",), ONE, members=(Member("a", "lm", "h:1"),)), lambda _: True)
    assert held.number == 4
    held.disconnected()
    assert held.number == 0, "another selector counts anew"
    assert held.weights(1) == {"a": 1.0}, "what it said is still held"
    held.connected()
    held.apply(WeightsUpdate(1, (), ONE[:0]), lambda _: True)  # one that knows no drafter yet
    assert (held.number, held.held_back) == (0, 1)
    held.apply(WeightsUpdate(2, ("a",), ONE), lambda _: True)
    assert held.number == 2


def test_replicas_of_a_drafter_that_a_new_selector_has_not_heard_yet_stay() -> None:
    held = HeldWeights(None, 5.0, lambda: 0.0)
    one, two, moved = (Member("a", "lm", f"h:{n}", replica=replica) for n, replica in ((1, 0), (2, 1), (3, 0)))
    held.apply(WeightsUpdate(4, ("a",), ONE, members=(one, two)), lambda _: True)
    held.connected()
    held.apply(WeightsUpdate(1, ("a",), ONE, members=(moved,)), lambda _: True)
    assert set(held.members()) == {moved, two}


def test_before_the_selector_speaks_weights_are_over_drafters_not_replicas() -> None:
    held = HeldWeights(None, 5.0, lambda: 0.0)
    members = (Member("a", "lm", "h:1"), Member("a", "lm", "h:2", replica=1), Member("b", "lm", "h:3"))
    held.apply(WeightsUpdate(1, (), ONE[:0], members=members), lambda _: True)
    assert held.weights(1) == {"a": 0.5, "b": 0.5}
