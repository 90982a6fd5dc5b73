"""`/tokenize` and `/detokenize`, in vLLM's shapes: what the served model's tokenizer makes of a text."""

from __future__ import annotations

from typing import Annotated, ClassVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic import FailFast, Field

from paceline.cluster.http_errors import RefusedRequest
from paceline.cluster.openai_requests import Message
from paceline.cluster.request_body import Neutral, RequestBody, read_request
from paceline.cluster.request_fields import TokenId
from paceline.cluster.request_plan import Planner
from paceline.cluster.tokenizer import ChatTokenizer


class TokenizeRequest(RequestBody):
    """Body of `/tokenize`: a text or a conversation."""

    neutral: ClassVar[Neutral] = {"continue_final_message": (False,), "tools": ([],)}
    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message] | None, FailFast(), Field(min_length=1)] = None
    add_special_tokens: bool | None = Field(None, description="default: true for a text, false for a conversation")
    add_generation_prompt: bool | None = Field(None, description="of a conversation; default: true")
    return_token_strs: bool = False

    def check(self) -> None:
        """As `RequestBody`.

        Raises:
            RefusedRequest: there is not exactly one of text and conversation, or an option of the other.
        """
        if (self.prompt is None) == (self.messages is None):
            raise RefusedRequest("prompt: expected either `prompt` or `messages`", "prompt")
        if self.prompt is not None and self.add_generation_prompt is not None:
            raise RefusedRequest(
                "add_generation_prompt: goes with `messages`, and only with them", "add_generation_prompt"
            )
        if self.messages is not None and self.add_special_tokens:
            raise RefusedRequest(
                "add_special_tokens: a conversation has those of its template; expected false", "add_special_tokens"
            )


class DetokenizeRequest(RequestBody):
    """Body of `/detokenize`."""

    model: str | None = None
    tokens: list[TokenId]


class TokenizeEndpoints:
    """Both endpoints.

    Args:
        tokenizer: The served model's.
        planner: Knows the model's name and the vocabulary.
        max_context: Most tokens of prompt and answer together.
    """

    def __init__(self, tokenizer: ChatTokenizer, planner: Planner, max_context: int) -> None:
        self._tokenizer = tokenizer
        self._planner = planner
        self._max_context = max_context

    async def tokenize(self, request: Request) -> Response:
        """Ids of a text or a conversation."""
        body = await read_request(request, TokenizeRequest)
        if body.model is not None:
            self._planner.check_model(body.model)
        if body.messages is not None:
            messages = [message.turn for message in body.messages]
            ids = await self._tokenizer.apply_chat_async(
                messages, add_generation_prompt=body.add_generation_prompt is not False
            )
        else:
            ids = await self._tokenizer.encode_async(
                body.prompt or "", add_special_tokens=body.add_special_tokens is not False
            )
        pieces = self._tokenizer.pieces(ids) if body.return_token_strs else None
        return JSONResponse(
            {"count": len(ids), "max_model_len": self._max_context, "tokens": ids, "token_strs": pieces}
        )

    async def detokenize(self, request: Request) -> Response:
        """Text of ids, special tokens included."""
        body = await read_request(request, DetokenizeRequest)
        if body.model is not None:
            self._planner.check_model(body.model)
        self._planner.check_vocabulary("tokens", body.tokens)
        return JSONResponse({"prompt": self._tokenizer.decode(body.tokens, skip_special_tokens=False)})
