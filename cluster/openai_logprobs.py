"""Log-probabilities as the two endpoints word them: one item per generated id, the one that ends a text included.

Chat names each token with its bytes; completions has four lists side by side. In the latter, tokens that are no text by
themselves are written `bytes:\\xe4\\xb8`, as OpenAI does, so that two of them never share a key.
"""

from __future__ import annotations

import codecs
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from paceline.actors.generation import TokenLogprobs


class LogprobsWriter:
    """Writes one request's.

    Args:
        bytes_of: Bytes of a token id.
        is_shown: Whether an id is part of the text; special tokens are not.
        chat: Which endpoint's words to use.
    """

    def __init__(self, bytes_of: Callable[[int], bytes], is_shown: Callable[[int], bool], *, chat: bool) -> None:
        self._bytes_of = bytes_of
        self._is_shown = is_shown
        self._chat = chat
        self._texts: dict[int, _Offsets] = defaultdict(_Offsets)  # by choice

    def write(self, index: int, ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """What choice `index` gained; call it in order, since offsets go on."""
        if self._chat:
            content = [self._item(token, item) for token, item in zip(ids, logprobs, strict=True)]
            return {"content": content, "refusal": None}
        offsets = self._texts[index]
        return {
            "tokens": [self._name(token) for token in ids],
            "token_logprobs": [item.logprob for item in logprobs],
            "top_logprobs": [self._named(token, item) for token, item in zip(ids, logprobs, strict=True)],
            "text_offset": [offsets.add(self._bytes_of(token) if self._is_shown(token) else b"") for token in ids],
        }

    def _item(self, token: int, logprobs: TokenLogprobs) -> dict[str, Any]:
        best = zip(logprobs.top_ids, logprobs.top_logprobs, strict=True)
        return self._entry(token, logprobs.logprob) | {"top_logprobs": [self._entry(*pair) for pair in best]}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._bytes_of(token)
        return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}

    def _named(self, token: int, logprobs: TokenLogprobs) -> dict[str, float]:
        """The likeliest by name, and the token itself where it is not one of them."""
        named: dict[str, float] = {}
        for other, logprob in zip(logprobs.top_ids, logprobs.top_logprobs, strict=True):
            named.setdefault(self._name(other), logprob)
        named.setdefault(self._name(token), logprobs.logprob)
        return named

    def _name(self, token: int) -> str:
        raw = self._bytes_of(token)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class _Offsets:
    """Where in a text each token begins, in characters: an unfinished one begins with its first byte."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0

    def add(self, raw: bytes) -> int:
        """The offset of a token of these bytes."""
        begin = self._characters
        self._characters += len(self._decoder.decode(raw))
        return begin
