"""The served model's tokenizer: text and chats to token ids, and back.

The ingress has one for all requests; tests and benchmarks make their own to compare ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer

from paceline.actors.errors import ModelSourceError, RequestError
from paceline.cluster.token_bytes import TokenBytes

_LONG_CHARACTERS = 16_384  # beyond it encoding takes milliseconds, which other requests' streams should not wait for
_TURN_CHARACTERS = 32  # what a template writes around each message: many short ones make a long text, too


class ChatTokenizer:
    """A tokenizer with a chat template.

    Args:
        path: The model's folder.

    Raises:
        ModelSourceError: the folder holds no tokenizer that can be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ModelSourceError(f"{path}: its tokenizer cannot be read ({error})") from error
        self.vocab_size: int = len(self._tokenizer)
        self._special = frozenset(self._tokenizer.all_special_ids)
        self._bytes = TokenBytes(self._tokenizer)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text, with the special tokens that are this tokenizer's own norm (a BOS, for some)."""
        return list(self._tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])

    def apply_chat(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = True) -> list[int]:
        """Ids of a conversation, up to the place where the assistant's next words begin.

        Raises:
            RequestError: the model's chat template does not take these messages.
        """
        if not self._tokenizer.chat_template:
            raise RequestError("messages: this model has no chat template; use /v1/completions", "messages")
        try:
            ids = self._tokenizer.apply_chat_template(
                messages,
                tokenize=True,
                add_generation_prompt=add_generation_prompt,
                return_dict=False,
                tokenizer_kwargs={"verbose": False},  # too long a prompt is refused, not warned about
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise RequestError(f"messages: the model's chat template refuses them: {error}", "messages") from error
        return list(ids)

    async def encode_async(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """As `encode`; a long text on another thread."""
        if len(text) > _LONG_CHARACTERS:
            return await asyncio.to_thread(self.encode, text, add_special_tokens=add_special_tokens)
        return self.encode(text, add_special_tokens=add_special_tokens)

    async def apply_chat_async(
        self, messages: list[dict[str, str]], *, add_generation_prompt: bool = True
    ) -> list[int]:
        """As `apply_chat`; a long conversation on another thread.

        Raises:
            RequestError: as `apply_chat`.
        """
        if sum(len(message["content"]) + _TURN_CHARACTERS for message in messages) > _LONG_CHARACTERS:
            return await asyncio.to_thread(self.apply_chat, messages, add_generation_prompt=add_generation_prompt)
        return self.apply_chat(messages, add_generation_prompt=add_generation_prompt)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids, as a rule without special tokens."""
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return text

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each id as the tokenizer's own table writes it."""
        return [str(piece) for piece in self._tokenizer.convert_ids_to_tokens(list(ids))]

    def bytes_of(self, token: int) -> bytes:
        """What one id adds to a text."""
        return self._bytes.of(token)

    def is_shown(self, token: int) -> bool:
        """Whether `decode` shows an id: special tokens are left out."""
        return token not in self._special
