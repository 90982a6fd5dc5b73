"""Which token each character of a streamed text came from: for clients that colour tokens.

Text comes out of two filters that hold back (unfinished characters, what may begin a stop string), so what a round
releases may belong to tokens of earlier ones. A character belongs to the token that completed it. `completion` feeds
it; the pieces of a round, joined, are the round's text.
"""

from __future__ import annotations

from collections import deque

Piece = tuple[int, str]  # token, counted from the answer's first, and its characters


class TokenPieces:
    """The characters of one choice that were decoded and not yet released, by token."""

    def __init__(self) -> None:
        self._held: deque[tuple[int, int]] = deque()  # token, characters
        self._pieces: list[Piece] = []

    def add(self, token: int, decoded: int, released: str) -> None:
        """Note what one step did: `token` completed so many characters, and `released` is what came out of all that
        was held, in order."""
        if decoded:
            self._held.append((token, decoded))
        at = 0
        while at < len(released):
            owner, length = self._held.popleft()
            taken = min(length, len(released) - at)
            if taken < length:
                self._held.appendleft((owner, length - taken))
            self._pieces.append((owner, released[at : at + taken]))
            at += taken

    def take(self) -> list[Piece]:
        """The pieces since the last call, in the text's order; a token may have several."""
        pieces, self._pieces = self._pieces, []
        return pieces
