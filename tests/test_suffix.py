"""The suffix automaton against brute force, and what the suffix drafter makes of its counts and its memory."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from paceline.actors.drafter_options import SuffixOptions
from paceline.actors.messages import Commit, Open, Propose
from paceline.actors.sampling import Sampling
from paceline.actors.suffix import Suffix
from paceline.actors.suffix_automaton import LONGEST_WALK, ROOT, SuffixAutomaton


def occurrences(text: list[int], part: list[int]) -> int:
    return sum(text[i : i + len(part)] == part for i in range(len(text) - len(part) + 1))


@pytest.mark.parametrize("seed", range(20))
def test_matches_and_counts_equal_brute_force(seed: int) -> None:
    chance = np.random.default_rng(seed)
    text = chance.integers(0, 3, size=LONGEST_WALK - 2).tolist()  # short enough that no count is cut
    automaton = SuffixAutomaton()
    for end, token in enumerate(text, 1):
        automaton.append(token)
        held = text[:end]
        length = automaton.length[automaton.repeated]
        assert length == max(n for n in range(end) if n == 0 or occurrences(held, held[end - n :]) > 1)
        if length:
            suffix = held[end - length :]
            expected = Counter({t: occurrences(held, [*suffix, t]) for t in range(3)})
            assert automaton.continuations(automaton.repeated) == {t: n for t, n in expected.items() if n}


@pytest.mark.parametrize("seed", range(10))
def test_another_text_is_followed_to_its_longest_match(seed: int) -> None:
    chance = np.random.default_rng(seed)
    text, other = chance.integers(0, 4, size=60).tolist(), chance.integers(0, 4, size=60).tolist()
    automaton = SuffixAutomaton()
    state, matched = ROOT, 0
    for end, (token, theirs) in enumerate(zip(text, other, strict=True), 1):
        automaton.append(token)  # it grows, and splits states, under the match
        state, matched = automaton.advance(state, matched, theirs)
        best = max(n for n in range(end + 1) if n == 0 or occurrences(text[:end], other[end - n : end]))
        assert matched <= best
        assert occurrences(text[:end], other[end - matched : end]) or matched == 0
    fresh_state, fresh = ROOT, 0
    for theirs in other:
        fresh_state, fresh = automaton.advance(fresh_state, fresh, theirs)
    assert fresh == max(n for n in range(60) if n == 0 or occurrences(text, other[60 - n :]))


def test_a_loop_stays_cheap() -> None:
    automaton = SuffixAutomaton()
    for _ in range(20_000):
        automaton.append(5)
    assert automaton.length[automaton.repeated] == 19_999
    assert automaton.continuations(automaton.repeated) == {5: 1}


def suffix(**options: float) -> Suffix:
    return Suffix(SuffixOptions(**options), 100, seed=0)  # type: ignore[arg-type]


def draft(drafter: Suffix, tokens: list[int], length: int = 4, sampling: Sampling = Sampling()) -> list[int]:
    drafter.open([Open(99, tokens, sampling)])
    made = drafter.propose([Propose(99, len(tokens), length)])[0].tokens
    drafter.close([99])
    return made


def test_greedy_drafts_follow_the_most_frequent_sequel() -> None:
    assert draft(suffix(memory_tokens=0), [7, 1, 2, 3, 8, 1, 2, 4, 9, 1, 2, 3, 5, 1, 2], 1) == [3]
    assert draft(suffix(memory_tokens=0), [1, 2, 3, 1, 2, 4, 1, 2, 3, 1, 2], 1) == [4]  # a longer match comes first
    assert draft(suffix(memory_tokens=0), [1, 2, 3, 1, 2, 4, 1, 2], 1) == [4]  # of equals the latest


def test_min_match_asks_for_more_context() -> None:
    assert draft(suffix(memory_tokens=0, min_match=1), [1, 5, 2, 1], 1) == [5]
    assert draft(suffix(memory_tokens=0, min_match=2), [1, 5, 2, 1], 1) == []


def test_min_probability_ends_a_draft_that_grows_unlikely() -> None:
    text = [1, 2, 3, 1, 2, 4, 1, 2, 5, 1, 2]  # after (1, 2): three sequels, a third each
    assert len(draft(suffix(memory_tokens=0, min_probability=0.0), text, 4)) == 4
    assert draft(suffix(memory_tokens=0, min_probability=0.5), text, 4) == []
    assert len(draft(suffix(memory_tokens=0, min_probability=0.3), text, 4)) == 3  # 5, 1, 2 and then a third of a third


def test_a_sampled_law_is_the_counts() -> None:
    drafter = suffix(memory_tokens=0)
    tokens = [7, 1, 2, 3, 8, 1, 2, 4, 9, 1, 2, 3, 5, 1, 2]
    drafter.open([Open(1, tokens, Sampling(temperature=1.0))])
    q = drafter.propose([Propose(1, len(tokens), 1)])[0].q
    assert q is not None
    assert dict(zip(q.ids[0].tolist(), q.probs[0].tolist(), strict=True)) == pytest.approx({3: 2 / 3, 4: 1 / 3})


def generate(drafter: Suffix, prompt: list[int], answer: list[int]) -> None:
    drafter.open([Open(5, prompt, Sampling())])
    drafter.commit([Commit(5, len(prompt), answer)])
    drafter.close([5])


def test_an_earlier_output_is_remembered() -> None:
    drafter = suffix()
    generate(drafter, [50, 51], [60, 61, 62, 63, 64])
    assert draft(drafter, [9, 60, 61], 3) == [62, 63, 64]
    assert draft(drafter, [9, 63, 64], 3) == [], "nothing follows an output's end, least of all the separator"
    assert draft(suffix(memory_tokens=0), [9, 60, 61], 3) == []


def test_prompts_are_not_remembered_but_for_the_context_of_the_answer() -> None:
    drafter = suffix()
    generate(drafter, list(range(10, 30)), [60, 61])
    assert draft(drafter, [9, 10, 11], 3) == []
    assert draft(drafter, [9, 28, 29], 2) == [60, 61]


def test_the_longest_match_wins_and_on_a_tie_the_own_text() -> None:
    drafter = suffix()
    generate(drafter, [50], [1, 2, 3, 70])
    assert draft(drafter, [1, 2, 3, 71, 9, 1, 2, 3], 1) == [71]
    assert draft(drafter, [2, 3, 71, 9, 1, 2, 3], 1) == [70]


def test_a_running_sequence_hears_of_outputs_that_end_meanwhile() -> None:
    drafter = suffix()
    drafter.open([Open(1, [8, 60], Sampling())])
    generate(drafter, [50], [60, 61, 62])
    drafter.commit([Commit(1, 2, [60, 61])])
    assert drafter.propose([Propose(1, 4, 1)])[0].tokens == [62]


def test_the_memory_is_bounded_and_forgets_the_oldest() -> None:
    drafter = suffix(memory_tokens=200)
    for round_number in range(50):
        base = 2 * round_number
        generate(drafter, [99], [base, base + 1] * 5)
        assert sum(len(memory) for memory in drafter._memories) <= 200
    assert draft(drafter, [97, 98, 99], 1) == [98]
    assert draft(drafter, [97, 0, 1], 1) == []


def test_an_output_longer_than_the_memory_is_kept_by_its_end() -> None:
    drafter = suffix(memory_tokens=40)
    generate(drafter, [99], list(range(90)))
    assert sum(len(memory) for memory in drafter._memories) <= 40
    assert draft(drafter, [97, 88], 1) == []
    assert draft(drafter, [97, 87, 88], 1) == [89]
    assert draft(drafter, [97, 10, 11], 1) == []


def test_a_running_sequence_counts_what_later_outputs_add_to_its_match() -> None:
    """The second output splits the state that the sequence's match was found in."""
    drafter = suffix()
    generate(drafter, [50], [1, 2, 3, 4])
    drafter.open([Open(1, [8, 2, 3], Sampling(temperature=1.0))])
    generate(drafter, [51], [7, 2, 3, 5])
    q = drafter.propose([Propose(1, 3, 1)])[0].q
    assert q is not None
    assert dict(zip(q.ids[0].tolist(), q.probs[0].tolist(), strict=True)) == pytest.approx({4: 0.5, 5: 0.5})
