"""Bodies of `/v1/chat/completions` and `/v1/completions`: their fields, and which of them contradict one another."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import FailFast, Field

from paceline.cluster.http_errors import RefusedRequest
from paceline.cluster.policy_options import REQUEST_POLICIES
from paceline.cluster.request_body import Neutral, RequestBody, Strict
from paceline.cluster.request_fields import INT64, Biases, Content, Prompts, Role, Stops, TokenId

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "min_p": (0,),
    "metadata": ({},),
    "store": (False,),
    "service_tier": ("auto", "default"),
}


class Message(Strict):
    """One turn of a conversation."""

    role: Role
    content: Content

    @property
    def turn(self) -> dict[str, str]:
        """As chat templates know it: what OpenAI calls the developer's word is the system's."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class StreamOptions(Strict):
    """How a stream is written."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False  # sent by some clients; padding is never added


class PacelineOptions(Strict):
    """Our own field: who may draft for this request."""

    drafter: str | None = Field(None, description="the only drafter to use")
    policy: str | None = Field(
        None,
        description="who chooses among the drafters, instead of the cluster's policy",
        json_schema_extra={"enum": [*REQUEST_POLICIES, None]},
    )
    enabled: bool = Field(True, description="false decodes plainly")
    max_draft: int | None = Field(
        None, ge=0, le=64, description="most tokens drafted per round, up to the cluster's own; 0 drafts none"
    )
    detail: bool = Field(False, description="each event of a stream tells the text of each token, and the weights")

    def check_choice(self) -> None:
        """See that whoever is named to draft, or to choose who does, has something to do.

        Raises:
            RefusedRequest: there is no such policy, or nothing to choose or to draft.
        """
        if self.max_draft == 0:
            for who in ("drafter", "policy"):
                if (value := getattr(self, who)) is not None:
                    field = f"paceline.{who}"
                    raise RefusedRequest(
                        f"{field}: {value!r:.200} has no effect with `paceline.max_draft: 0`: nothing is drafted",
                        field,
                    )
        field, name = "paceline.policy", self.policy
        if name is None:
            return
        if name == "fixed":
            raise RefusedRequest(f"{field}: 'fixed' needs a drafter; `paceline.drafter: NAME` plays that one", field)
        if name not in REQUEST_POLICIES:
            raise RefusedRequest(f"{field}: {name!r:.200} is not one of {', '.join(REQUEST_POLICIES)}", field)
        if self.drafter is not None:
            raise RefusedRequest(f"{field}: {name!r} has no effect with `paceline.drafter`, which leaves one", field)


class OpenAIRequest(RequestBody):
    """What both endpoints take."""

    model: str
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, lt=INT64, description="0 and -1 are off")
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="taken off a token's logit for each time it came")
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="taken off the logit of each token that came")
    repetition_penalty: float = Field(
        1.0, ge=0.01, le=100, description="divides the logits of tokens in prompt and answer; 1 is off"
    )
    logit_bias: Biases = ()
    max_tokens: int | None = Field(None, ge=1, lt=INT64)
    min_tokens: int = Field(0, ge=0, lt=INT64, description="tokens before which nothing ends the text")
    stop: Stops = Field([])
    stop_token_ids: list[TokenId] = Field([], max_length=64, description="token ids that end the text, as EOS does")
    ignore_eos: bool = Field(False, description="true goes on after the model's own end of text")
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    n: int = Field(1, ge=1, lt=INT64)
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

    @property
    def alternatives(self) -> int | None:
        """Likeliest tokens whose log-probabilities are wanted beside each token's own; None for none at all."""
        raise NotImplementedError

    def check(self) -> None:
        """As `RequestBody`.

        Raises:
            RefusedRequest: two fields contradict one another.
        """
        if self.stream_options is not None and not self.stream:
            raise RefusedRequest("stream_options: goes with `stream: true`, and only with it", "stream_options")
        if self.paceline.detail and not self.stream:
            raise RefusedRequest("paceline.detail: goes with `stream: true`, and only with it", "paceline.detail")
        most, field = self.answer_limit()
        if most is not None and self.min_tokens > most:
            raise RefusedRequest(f"min_tokens: {self.min_tokens} is more than {field} ({most})", "min_tokens")
        if not self.paceline.enabled:
            for name in ("drafter", "policy", "max_draft"):
                if (value := getattr(self.paceline, name)) is not None:
                    field = f"paceline.{name}"
                    raise RefusedRequest(f"{field}: {value!r} has no effect with `paceline.enabled: false`", field)
        self.paceline.check_choice()


class ChatRequest(OpenAIRequest):
    """Body of `/v1/chat/completions`."""

    neutral: ClassVar[Neutral] = _NEUTRAL | {
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
    }
    messages: Annotated[list[Message], FailFast(), Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=1, lt=INT64)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)

    @property
    def alternatives(self) -> int | None:
        """As `OpenAIRequest`."""
        return self.top_logprobs if self.logprobs else None

    def answer_limit(self) -> tuple[int | None, str]:
        """As `OpenAIRequest`; the newer name counts where both are given."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens, "max_completion_tokens"
        return super().answer_limit()

    def check(self) -> None:
        """As `RequestBody`.

        Raises:
            RefusedRequest: two fields contradict one another.
        """
        super().check()
        old, new = self.max_tokens, self.max_completion_tokens
        if old is not None and new is not None and old != new:
            raise RefusedRequest(f"max_tokens: {old} differs from max_completion_tokens ({new})", "max_tokens")
        if self.top_logprobs and not self.logprobs:
            raise RefusedRequest(
                f"top_logprobs: {self.top_logprobs} goes with `logprobs: true`, and only with it", "top_logprobs"
            )


class CompletionRequest(OpenAIRequest):
    """Body of `/v1/completions`. `prompt` is always a list here, of texts or of lists of token ids."""

    neutral: ClassVar[Neutral] = _NEUTRAL | {"echo": (False,), "best_of": (1,), "suffix": ("",)}
    prompt: Prompts
    logprobs: int | None = Field(None, ge=0, le=5)

    @property
    def alternatives(self) -> int | None:
        """As `OpenAIRequest`."""
        return self.logprobs
