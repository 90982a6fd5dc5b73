"""A suffix automaton that grows token by token and counts: the smallest machine that knows every substring of a text.

States are classes of substrings that end at the same places. The number of such places is the state's count, so the
counts of a state's successors say how often each token followed, which is all that a drafter needs (Blumer et al. 1985
for the automaton; counting by suffix links is folklore).

Measured on CPython 3.11 over 32,768 tokens: 320 (a loop), 460 (text-like) to 610 (two random symbols) bytes per token,
and 2 to 5 microseconds to append one.
"""

from __future__ import annotations

ROOT = 0
# A new token adds one to every suffix of the text that ends in it. In a loop there are as many distinct ones as tokens,
# so the walk is cut: the shortest contexts of a long loop are then counted a little low.
LONGEST_WALK = 32


class SuffixAutomaton:
    """Grows by `append`; states are ints, `ROOT` is the empty string."""

    def __init__(self) -> None:
        self.next: list[dict[int, int]] = [{}]
        self.link: list[int] = [-1]
        self.length: list[int] = [0]
        self.count: list[int] = [0]
        self._last = ROOT

    def __len__(self) -> int:
        """Tokens in the text."""
        return self.length[self._last]

    @property
    def repeated(self) -> int:
        """The state of the longest suffix of the text that also occurs earlier in it."""
        return max(self.link[self._last], ROOT)

    def append(self, token: int) -> None:
        """Add a token to the text; amortised constant time."""
        following, link, length = self.next, self.link, self.length
        state = self._last
        new = self._state(length[state] + 1, {}, 0)
        while state >= 0 and token not in following[state]:
            following[state][token] = new
            state = link[state]
        if state < 0:
            link[new] = ROOT
        else:
            target = following[state][token]
            link[new] = target if length[target] == length[state] + 1 else self._split(state, token, target)
        self._last = new
        for _ in range(LONGEST_WALK):
            if new <= ROOT:
                break
            self.count[new] += 1
            new = link[new]

    def advance(self, state: int, matched: int, token: int) -> tuple[int, int]:
        """Follow a token from the longest match of some text in this one.

        Args:
            state: State of the match.
            matched: Its length.
            token: What comes next in the other text.

        Returns:
            State and length of the longest match that ends with the token.
        """
        state = self.settled(state, matched)
        while state != ROOT and token not in self.next[state]:
            state = self.link[state]
            matched = self.length[state]
        if token not in self.next[state]:
            return ROOT, 0
        return self.next[state][token], matched + 1

    def continuations(self, state: int) -> dict[int, int]:
        """How often each token followed the state's strings; negative tokens (separators) are left out."""
        counts = self.count
        return {token: max(counts[target], 1) for token, target in self.next[state].items() if token >= 0}

    def settled(self, state: int, matched: int) -> int:
        """Where a match belongs after splits: the state whose strings include one of that length."""
        while state != ROOT and matched <= self.length[self.link[state]]:
            state = self.link[state]
        return state

    def _split(self, state: int, token: int, target: int) -> int:
        """Give the strings of `target` that are no longer than the state's, plus the token, a state of their own."""
        clone = self._state(self.length[state] + 1, dict(self.next[target]), self.count[target])
        self.link[clone] = self.link[target]
        self.link[target] = clone
        while state >= 0 and self.next[state].get(token) == target:
            self.next[state][token] = clone
            state = self.link[state]
        return clone

    def _state(self, length: int, following: dict[int, int], count: int) -> int:
        self.next.append(following)
        self.link.append(ROOT)
        self.length.append(length)
        self.count.append(count)
        return len(self.length) - 1
