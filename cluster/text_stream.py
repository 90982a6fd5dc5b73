"""Token ids in, text out, as they come: what was given out is never taken back, and no character is split.

A decoded text that ends in U+FFFD may be the beginning of a multi-byte character whose other bytes are still to come,
so those last signs wait. Each choice of a request has one stream; `completion` feeds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
_MOST_HELD = 3  # a character has at most 4 bytes; some decoders show every byte of an unfinished one as a sign
_LONG_WINDOW = 64  # ids; only what is no text at all goes on for so long without a clean end
_TAIL = 8  # ids; more than one character has


class TextStream:
    """Incremental detokeniser.

    Decodes a short window instead of everything: from the last place but one where the text ended cleanly, so that
    decoders that treat the first token differently (a stripped space, say) see some context.

    Args:
        decode: The whole decode of a list of ids, without special tokens.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._clean = 0  # ids of the window before its newest clean end
        self._sent = 0  # characters of the window's text already given out

    def push(self, token_ids: Sequence[int]) -> str:
        """Add ids; returns the text that is now certain."""
        if not token_ids:
            return ""
        self._window += token_ids
        text = self._decode(self._window)
        kept = len(text)
        while kept > max(self._sent, len(text) - _MOST_HELD) and text[kept - 1] == _REPLACEMENT:
            kept -= 1
        piece = text[self._sent : kept]
        self._sent = max(self._sent, kept)
        if not text.endswith(_REPLACEMENT):
            self._shorten()
        elif len(self._window) > _LONG_WINDOW:
            self._cut(text)
        return piece

    def flush(self) -> str:
        """The end: what was held, as the whole decode shows it."""
        text = self._decode(self._window) if self._window else ""
        piece = text[self._sent :]
        self._window, self._clean, self._sent = [], 0, 0
        return piece

    def _cut(self, text: str) -> None:
        """Drop all but the tail of a window of bytes that make no text, where both parts decode as the whole does."""
        head, tail = self._decode(self._window[:-_TAIL]), self._decode(self._window[-_TAIL:])
        if tail and head + tail == text and len(head) <= self._sent:
            self._window = self._window[-_TAIL:]
            self._clean = 0
            self._sent -= len(head)

    def _shorten(self) -> None:
        """Let the window begin at the last clean end; the ids since then are the new context."""
        context = self._window[self._clean :]
        shown = self._decode(context)
        if shown:  # context of special tokens alone would be none
            self._window = context
            self._sent = len(shown)
        self._clean = len(self._window)
