"""What the endpoints answer, as models: the API's document is made of them, and tests hold real replies against them.

Replies themselves are plain dicts (`openai_replies`), written once per round; nothing is checked on that path.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from paceline.cluster.drafter_control import DrafterView

FinishReason = Literal["stop", "length"]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetail(_Shape):
    """What went wrong. `param` names the field of the request, where one is at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(_Shape):
    """Any answer that is not a success; also an event of a stream that fails midway."""

    error: ErrorDetail


class PromptTokensDetails(_Shape):
    """Of the prompt's tokens."""

    cached_tokens: int = Field(ge=0, description="those whose keys and values were there already")


class Usage(_Shape):
    """Tokens of a request, over all its choices; a prompt counts once."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)
    prompt_tokens_details: PromptTokensDetails


class SpeculativeDecoding(_Shape):
    """What drafting did for a reply."""

    mean_acceptance_length: float = Field(ge=1, description="tokens per drafting round, the bonus token included")
    draft_acceptance_rate: float | None = Field(ge=0, le=1, description="null where nothing was drafted")
    acceptance_histogram: list[int] = Field(description="[i] counts the drafting rounds that accepted i tokens")
    rounds: int = Field(ge=0)
    draft_tokens: int = Field(ge=0)
    accepted_tokens: int = Field(ge=0)
    rounds_by_drafter: dict[str, float] = Field(description="shares of all rounds; `plain` drafted nothing")


class Metrics(_Shape):
    """On a whole reply, or on the last event of a stream."""

    speculative_decoding: SpeculativeDecoding


class RoundNews(BaseModel):
    """The round behind an event of a stream."""

    model_config = ConfigDict(extra="allow")
    drafter: str | None = Field(description="who drafted; null for a plain round")
    accepted: int = Field(ge=0)
    drafted: int = Field(ge=0)


class AlternativeToken(_Shape):
    """A token and its log-probability."""

    token: str
    logprob: float = Field(le=0)
    bytes: list[int]


class ContentToken(AlternativeToken):
    """A generated token, and the likeliest ones at its place."""

    top_logprobs: list[AlternativeToken]


class ChatLogprobs(_Shape):
    """One item per generated id."""

    content: list[ContentToken]
    refusal: None


class CompletionLogprobs(_Shape):
    """Four lists with an item per generated id."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class AssistantMessage(_Shape):
    """The answer."""

    role: Literal["assistant"]
    content: str


class MessageDelta(_Shape):
    """What an event adds; the role comes once."""

    role: Literal["assistant"] = "assistant"
    content: str


class _Choice(_Shape):
    index: int = Field(ge=0)
    token_ids: list[int] = Field([], description="with `return_token_ids`")


class ChatChoice(_Choice):
    """One answer."""

    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatChunkChoice(_Choice):
    """One round of an answer."""

    delta: MessageDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class CompletionChoice(_Choice):
    """One continuation, or one round of it, whose `finish_reason` is null while it goes on."""

    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class _Head(_Shape):
    id: str
    created: int
    model: str


class ChatCompletion(_Head):
    """A whole reply of `/v1/chat/completions`."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    metrics: Metrics


class ChatCompletionChunk(_Head):
    """An event of a stream of `/v1/chat/completions`; `data: [DONE]` ends the stream."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    paceline: RoundNews | None = None
    usage: Usage | None = Field(None, description="with `stream_options.include_usage`: null but on the last event")
    metrics: Metrics | None = None


class TextCompletion(_Head):
    """A whole reply of `/v1/completions`."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage
    metrics: Metrics


class TextCompletionChunk(_Head):
    """An event of a stream of `/v1/completions`; `data: [DONE]` ends the stream."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    paceline: RoundNews | None = None
    usage: Usage | None = None
    metrics: Metrics | None = None


class TokenizeReply(_Shape):
    """Ids of a text or a conversation."""

    count: int = Field(ge=0)
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeReply(_Shape):
    """Text of ids."""

    prompt: str


class ModelCard(_Shape):
    """The served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class ModelList(_Shape):
    """All models: one."""

    object: Literal["list"]
    data: list[ModelCard]


class DrafterDeleted(_Shape):
    """A drafter that was taken away."""

    object: Literal["drafter.deleted"]
    name: str
    deleted: Literal[True]


class DrafterList(_Shape):
    """The drafters of the cluster."""

    object: Literal["list"]
    data: list[DrafterView]


class HealthReply(_Shape):
    """The endpoint answers."""

    status: Literal["ok"]


class ReadyReply(_Shape):
    """The target answers."""

    status: Literal["ready"]
    mode: str
    drafters: list[str] = Field(description="those that can be asked")


class TraceReply(BaseModel):
    """A time line in the Trace Event Format."""

    model_config = ConfigDict(extra="allow")
    traceEvents: list[dict[str, Any]]  # noqa: N815 - the format's own name
