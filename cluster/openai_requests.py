"""Bodies of `/v1/chat/completions` and `/v1/completions`: what is understood, and how the rest is refused.

Every field either has an effect or is refused by name. Fields that clients send out of habit are let through where
their value asks for nothing (`frequency_penalty: 0`); null means absent. Types are strict: no "5" for 5.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, PlainValidator, ValidationError
from pydantic_core import ErrorDetails

from paceline.cluster.http_errors import RefusedRequest
from paceline.cluster.policy_options import REQUEST_POLICIES

_MAX_STOPS = 4
_MAX_STOP_CHARACTERS = 1024
_INT64 = 2**63

# Values that ask for nothing that is not done anyway. Whatever else these fields hold is not supported.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "logit_bias": ({},),
    "metadata": ({},),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
_NEUTRAL_CHAT = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
_NEUTRAL_COMPLETION: dict[str, tuple[Any, ...]] = {"logprobs": (), "echo": (False,), "best_of": (1,), "suffix": ("",)}


def _stops(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ValueError("expected a string or a list of strings")
    if not 1 <= len(stops) <= _MAX_STOPS:
        raise ValueError(f"expected 1 to {_MAX_STOPS} strings")
    if not all(1 <= len(stop) <= _MAX_STOP_CHARACTERS for stop in stops):
        raise ValueError(f"expected strings of 1 to {_MAX_STOP_CHARACTERS} characters")
    return stops


def _joined(content: Any) -> Any:
    """Text of a message given as parts."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.keys() != {"type", "text"} or part["type"] != "text":
            raise ValueError('expected a string or a list of {"type": "text", "text": ...}')
        if not isinstance(part["text"], str):
            raise ValueError("expected the text of each part to be a string")
    if not content:
        raise ValueError("expected at least one part")
    return "".join(part["text"] for part in content)


def _prompts(value: Any) -> list[str] | list[list[int]]:
    """Any of the four forms as a list of texts or a list of lists of ids."""
    whole = [value] if isinstance(value, str) or _is_ids(value) else value
    if not isinstance(whole, list) or not whole:
        raise ValueError("expected a non-empty string, list of strings, list of token ids, or list of such lists")
    if not (all(isinstance(item, str) for item in whole) or all(_is_ids(item) for item in whole)):
        raise ValueError("expected a string, a list of strings, a list of token ids, or a list of such lists")
    if not all(whole):
        raise ValueError("expected no prompt to be empty")
    return whole


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Message(_Strict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined)]


class StreamOptions(_Strict):
    """How a stream is written."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False  # sent by some clients; padding is never added


class PacelineOptions(_Strict):
    """Our own field: who may draft for this request."""

    drafter: str | None = Field(None, description="the only drafter to use")
    policy: str | None = Field(None, description="who chooses among the drafters, instead of the cluster's policy")
    enabled: bool = Field(True, description="false decodes plainly")
    max_draft: int | None = Field(None, ge=1, le=64, description="most tokens drafted per round")
    detail: bool = Field(False, description="each event of a stream tells the text of each token, and the weights")

    def check_policy(self) -> None:
        """See that a policy is named that can choose.

        Raises:
            RefusedRequest: there is none of that name, or nothing to choose.
        """
        field, name = "paceline.policy", self.policy
        if name is None:
            return
        if name == "fixed":
            raise RefusedRequest(f"{field}: 'fixed' needs a drafter; `paceline.drafter: NAME` plays that one", field)
        if name not in REQUEST_POLICIES:
            raise RefusedRequest(f"{field}: {name!r:.200} is not one of {', '.join(REQUEST_POLICIES)}", field)
        if self.drafter is not None:
            raise RefusedRequest(f"{field}: {name!r} has no effect with `paceline.drafter`, which leaves one", field)


class OpenAIRequest(_Strict):
    """What both endpoints take."""

    model: str
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, lt=_INT64, description="0 and -1 are off")
    max_tokens: int | None = Field(None, ge=1, lt=_INT64)
    stop: Annotated[list[str], BeforeValidator(_stops)] = []
    seed: int | None = Field(None, ge=-_INT64, lt=_INT64)
    n: int = Field(1, ge=1, lt=_INT64)
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    user: str = Field("", max_length=256)
    paceline: PacelineOptions = PacelineOptions()

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def answer_limit(self) -> tuple[int | None, str]:
        """Most tokens to generate, where given, and the field that gave it."""
        return self.max_tokens, "max_tokens"

    def check(self) -> None:
        """What no field can see alone.

        Raises:
            RefusedRequest: two fields contradict one another.
        """
        if self.stream_options is not None and not self.stream:
            raise RefusedRequest("stream_options: goes with `stream: true`, and only with it", "stream_options")
        if self.paceline.detail and not self.stream:
            raise RefusedRequest("paceline.detail: goes with `stream: true`, and only with it", "paceline.detail")
        if not self.paceline.enabled:
            for name in ("drafter", "policy", "max_draft"):
                if (value := getattr(self.paceline, name)) is not None:
                    field = f"paceline.{name}"
                    raise RefusedRequest(f"{field}: {value!r} has no effect with `paceline.enabled: false`", field)
        self.paceline.check_policy()


class ChatRequest(OpenAIRequest):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], FailFast(), Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=1, lt=_INT64)

    def answer_limit(self) -> tuple[int | None, str]:
        """As `OpenAIRequest`; the newer name counts where both are given."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens, "max_completion_tokens"
        return super().answer_limit()

    def check(self) -> None:
        """As `OpenAIRequest`.

        Raises:
            RefusedRequest: two fields contradict one another.
        """
        super().check()
        old, new = self.max_tokens, self.max_completion_tokens
        if old is not None and new is not None and old != new:
            raise RefusedRequest(f"max_tokens: {old} differs from max_completion_tokens ({new})", "max_tokens")


class CompletionRequest(OpenAIRequest):
    """Body of `/v1/completions`. `prompt` is always a list here, of texts or of lists of token ids."""

    prompt: Annotated[list[str] | list[list[int]], PlainValidator(_prompts)]


R = TypeVar("R", bound=OpenAIRequest)


def parse_request(kind: type[R], document: dict[str, Any]) -> R:
    """Check a JSON object.

    Raises:
        RefusedRequest: a field is unknown, missing, of the wrong type, out of range or not supported.
    """
    given = _without_nulls(document)
    neutral = _NEUTRAL | (_NEUTRAL_CHAT if kind is ChatRequest else _NEUTRAL_COMPLETION)
    for name in [name for name in given if name in neutral]:
        value = given.pop(name)
        if not any(_same(value, accepted) for accepted in neutral[name]):
            raise RefusedRequest(f"{name}: {value!r:.80} is not supported here", name, "unsupported_parameter")
    try:
        request = kind.model_validate(given)
    except ValidationError as error:
        raise _refusal(error) from None
    request.check()
    return request


def _without_nulls(value: Any) -> Any:
    """Null means absent, in objects at every depth; elements of lists stay where they are."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) if isinstance(item, dict) else item for item in value]
    return value


def _same(value: Any, accepted: Any) -> bool:
    """Equal, and true is not 1."""
    return isinstance(value, bool) == isinstance(accepted, bool) and bool(value == accepted)


def _refusal(error: ValidationError) -> RefusedRequest:
    item = error.errors(include_url=False)[0]
    param = ""
    for part in item["loc"]:
        param += f"[{part}]" if isinstance(part, int) else f".{part}" if param else part
    match item["type"]:
        case "missing":
            return RefusedRequest(f"{param}: is required", param, "missing_required_parameter")
        case "extra_forbidden":
            return RefusedRequest(f"{param}: is not a field that is known here", param, "unknown_parameter")
        case _:
            return RefusedRequest(f"{param}: {_expectation(item)} (got {item['input']!r:.80})", param)


def _expectation(item: ErrorDetails) -> str:
    """What a field should have been, in a client's words rather than in those of our classes."""
    limits = item.get("ctx", {})
    match item["type"]:
        case "model_type":
            return "expected an object"
        case "too_short":
            return f"expected at least {limits['min_length']} item(s)"
        case "string_too_long":
            return f"expected at most {limits['max_length']} characters"
        case _:
            message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            return message if message.startswith("expected") else f"expected {message}"
