"""Replies and stream events of both endpoints, as plain dicts. One `ReplyWriter` writes one request's.

Beyond OpenAI's fields: `metrics` (on a whole reply, or on the last event of a stream), `paceline` (on each event: who
drafted that round), and `token_ids` where asked for, as vLLM has them.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from paceline.actors.generation import TokenLogprobs
from paceline.cluster.openai_logprobs import LogprobsWriter
from paceline.cluster.token_pieces import Piece

FinalReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class RoundDetail:
    """What a request with `paceline.detail` is told of a round, beside who drafted.

    The round's tokens are `start`, `start` + 1, ..., counted from the answer's first; the first `accepted` of them are
    the drafter's, the others the target's own. `pieces` joined are the event's text: each is a token and characters of
    it, which may have been held back since an earlier round.
    """

    start: int
    token_ids: list[int]
    pieces: list[Piece]
    weights: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class Delta:
    """What one round added to one choice. `finish_reason` is set on the last one and only there."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinalReason | None
    drafter: str
    drafted: int
    accepted: int
    detail: RoundDetail | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()  # of each id, where asked for


@dataclass(slots=True)
class Choice:
    """One whole choice."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinalReason | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, over all its choices; a prompt counts once."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int  # of the prompt's

    def as_dict(self) -> dict[str, Any]:
        """As OpenAI has it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


class ReplyWriter:
    """Writes one request's reply.

    Args:
        chat: Which endpoint's words to use.
        model: The served name.
        include_usage: Whether a stream's events have a `usage` field.
        include_ids: Whether choices have `token_ids`.
        logprobs: Writes each choice's log-probabilities; None where they are not asked for.
    """

    def __init__(
        self,
        *,
        chat: bool,
        model: str,
        include_usage: bool,
        include_ids: bool,
        logprobs: LogprobsWriter | None = None,
    ) -> None:
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._chat = chat
        self._model = model
        self._include_usage = include_usage
        self._include_ids = include_ids
        self._logprobs = logprobs
        self._created = int(time.time())
        self._begun: set[int] = set()  # choices whose role was said

    def whole(self, choices: list[Choice], usage: Usage, metrics: dict[str, Any]) -> dict[str, Any]:
        """The reply of a request that does not stream."""
        written = []
        for index, choice in enumerate(choices):
            if self._chat:
                body: dict[str, Any] = {"message": {"role": "assistant", "content": choice.text}}
            else:
                body = {"text": choice.text}
            written.append(self._choice(index, body, choice.finish_reason, choice.token_ids, choice.logprobs))
        kind = "chat.completion" if self._chat else "text_completion"
        return self._head(kind) | {"choices": written, "usage": usage.as_dict(), "metrics": metrics}

    def event(self, delta: Delta) -> dict[str, Any]:
        """One round of one choice."""
        if self._chat:
            role = {} if delta.index in self._begun else {"role": "assistant"}
            self._begun.add(delta.index)
            body: dict[str, Any] = {"delta": role | {"content": delta.text}}
        else:
            body = {"text": delta.text}
        choice = self._choice(delta.index, body, delta.finish_reason, delta.token_ids, delta.logprobs)
        vendor: dict[str, Any] = {
            "drafter": delta.drafter or None,
            "accepted": delta.accepted,
            "drafted": delta.drafted,
        }
        if delta.detail is not None:
            vendor |= asdict(delta.detail)
        document = self._head(self._event_kind) | {"choices": [choice], "paceline": vendor}
        if self._include_usage:
            document["usage"] = None
        return document

    def usage_event(self, usage: Usage) -> dict[str, Any]:
        """The event after the last choice's end, where usage was asked for."""
        return self._head(self._event_kind) | {"choices": [], "usage": usage.as_dict()}

    @property
    def _event_kind(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self._created, "model": self._model}

    def _choice(
        self,
        index: int,
        body: dict[str, Any],
        finish_reason: FinalReason | None,
        token_ids: list[int],
        logprobs: Sequence[TokenLogprobs],
    ) -> dict[str, Any]:
        written = None if self._logprobs is None else self._logprobs.write(index, token_ids, logprobs)
        choice = {"index": index, **body, "logprobs": written, "finish_reason": finish_reason}
        if self._include_ids:
            choice["token_ids"] = token_ids
        return choice
