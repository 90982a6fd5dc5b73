"""The bytes of single token ids: what each adds to a text, also where a character is spread over several tokens.

A tokenizer decodes ids to text, which shows an unfinished character as U+FFFD; log-probabilities name tokens one by one
and so need their bytes. Two ways of writing bytes as tokens are in use: byte-level (GPT-2: every byte is one of 256
printable characters) and byte fallback (Llama 2: U+2581 for a space, `<0xE4>` for a byte that no piece has).
"""

from __future__ import annotations

import json
import re
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"


class TokenBytes:
    """Bytes of the tokens of one tokenizer.

    Args:
        tokenizer: A transformers tokenizer; a fast one tells which of the two ways is its own.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added: dict[int, str] = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        state = {} if backend is None else json.loads(backend.to_str())
        self._alphabet = _byte_of_character() if "ByteLevel" in _kinds(state.get("decoder")) else None

    def of(self, token: int) -> bytes:
        """Bytes of one id; none for an id that the tokenizer does not know (a model's table may be longer)."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if not isinstance(piece, str):
            return b""
        if self._alphabet is not None:
            return bytes(self._alphabet[character] for character in piece)
        if found := _BYTE.fullmatch(piece):
            return bytes([int(found[1], 16)])
        return piece.replace(_SPACE, " ").encode()


def _kinds(decoder: Any) -> set[str]:
    """The kinds of decoders that one is made of."""
    if not isinstance(decoder, dict):
        return set()
    parts = decoder.get("decoders", [])
    return {str(decoder.get("type"))}.union(*(_kinds(part) for part in parts))


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes are themselves, the others the characters from U+0100 on, in order."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
