"""From a request's fields to the generations that answer it: names checked, prompts tokenised, lengths settled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from paceline.actors.errors import UnknownModel
from paceline.actors.generation import Generation
from paceline.actors.prompt_sketch import sketch
from paceline.actors.sampling import LogitsProcessing, Sampling
from paceline.cluster.config import ClusterConfig
from paceline.cluster.http_errors import RefusedRequest
from paceline.cluster.openai_requests import ChatRequest, CompletionRequest, OpenAIRequest
from paceline.cluster.tokenizer import ChatTokenizer

_COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions
_TINY = 1e-20  # a temperature below it is greedy to the last bit, and a top_p below it keeps one token, as it does
_MAX_TOP_K = 2**31 - 1  # more than any vocabulary
_TOO_LONG = "context_length_exceeded"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one request generates: choice i is `generations[i]`."""

    generations: list[Generation]
    stops: tuple[str, ...]
    min_tokens: int  # before which no stop string is looked for
    prompt_tokens: int
    include_usage: bool
    detail: bool


class Planner:
    """Plans requests for one served model.

    Args:
        tokenizer: The model's.
        config: The cluster's settings.
        model_name: The name clients must use.
        max_context: Most tokens of prompt and answer together.
        stop_ids: Token ids that end a text.
        drafters: The drafters that there are now; default: the configuration's.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        config: ClusterConfig,
        model_name: str,
        max_context: int,
        stop_ids: frozenset[int],
        drafters: Callable[[], Awaitable[tuple[str, ...]]] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._configured = tuple(drafter.name for drafter in config.drafters)
        self._drafters = drafters
        self._max_choices = config.http.max_choices
        self._sketched = config.selector.prompt_weight > 0
        self._max_draft = config.speculation.max_draft
        self._model_name = model_name
        self._most_tokens = min(max_context, config.target.max_tokens_in_flight)
        self._stop_ids = stop_ids

    def check_model(self, name: str) -> None:
        """See that a model is the one served.

        Raises:
            UnknownModel: it is not.
        """
        if name != self._model_name:
            raise UnknownModel(f"model: {name!r:.200} is not served here; {self._model_name!r} is", "model")

    async def plan(self, request: ChatRequest | CompletionRequest, request_id: str) -> Plan:
        """Plan one request; its generations are named after `request_id`.

        Raises:
            RequestError: a field asks for what this model or cluster has not.
        """
        self.check_model(request.model)
        drafters = await self._allowed(request.paceline.drafter)
        if (request.paceline.max_draft or 0) > self._max_draft:
            raise RefusedRequest(
                f"paceline.max_draft: {request.paceline.max_draft}; this cluster drafts at most {self._max_draft}",
                "paceline.max_draft",
            )
        self._check_ids(request)
        self._check_choices(request.n, len(request.prompt) if isinstance(request, CompletionRequest) else 1)
        prompts = await self._tokenised(request)
        generations: list[Generation] = []
        for prompt in prompts:
            most = self._answer_tokens(request, len(prompt))
            for choice in range(request.n):
                generations.append(
                    Generation(
                        request_id=f"{request_id}-{len(generations)}",
                        prompt=tuple(prompt),
                        max_tokens=most,
                        stop_ids=self._stops(request),
                        sampling=_sampling(request, choice),
                        processing=_processing(request),
                        logprobs=request.alternatives,
                        drafters=drafters,
                        speculate=request.paceline.enabled,
                        max_draft=request.paceline.max_draft,
                        policy=request.paceline.policy or "",
                        route=request.user,
                        # Stop strings are found in the text, by us: the sooner, the less is generated in vain.
                        streamed=request.stream or bool(request.stop),
                        show_weights=request.paceline.detail,
                        sketch=sketch(prompt) if self._sketched else b"",
                    )
                )
        return Plan(
            generations,
            tuple(request.stop),
            request.min_tokens,
            sum(map(len, prompts)),
            request.include_usage,
            request.paceline.detail,
        )

    def _stops(self, request: OpenAIRequest) -> frozenset[int]:
        return frozenset(request.stop_token_ids) | (frozenset() if request.ignore_eos else self._stop_ids)

    def _check_ids(self, request: OpenAIRequest) -> None:
        named = {"stop_token_ids": request.stop_token_ids, "logit_bias": [token for token, _ in request.logit_bias]}
        for field, ids in named.items():
            self.check_vocabulary(field, ids)

    def check_vocabulary(self, field: str, ids: list[int]) -> None:
        """See that token ids are this model's.

        Raises:
            RefusedRequest: one is not.
        """
        vocab = self._tokenizer.vocab_size
        if (strange := next((token for token in ids if not 0 <= token < vocab), None)) is not None:
            raise RefusedRequest(
                f"{field}: holds the token id {strange!r:.80}; the vocabulary is 0 to {vocab - 1}", field
            )

    async def _allowed(self, drafter: str | None) -> tuple[str, ...]:
        if drafter is None:
            return ()
        names = self._configured if self._drafters is None else await self._drafters()
        if drafter not in names:
            known = ", ".join(names) or "none"
            raise RefusedRequest(
                f"paceline.drafter: {drafter!r:.200} is not one of the drafters ({known})", "paceline.drafter"
            )
        return (drafter,)

    def _check_choices(self, n: int, prompts: int) -> None:
        if n > self._max_choices:
            raise RefusedRequest(f"n: {n} choices; the most is {self._max_choices}", "n")
        if prompts * n > self._max_choices:
            raise RefusedRequest(
                f"prompt: {prompts} prompts with n = {n} make {prompts * n} choices; the most is {self._max_choices}",
                "prompt",
            )

    async def _tokenised(self, request: ChatRequest | CompletionRequest) -> list[list[int]]:
        if isinstance(request, ChatRequest):
            return [await self._tokenizer.apply_chat_async([message.turn for message in request.messages])]
        prompts = []
        for prompt in request.prompt:
            ids = await self._tokenizer.encode_async(prompt) if isinstance(prompt, str) else prompt
            self.check_vocabulary("prompt", ids)
            prompts.append(ids)
        return prompts

    def _answer_tokens(self, request: ChatRequest | CompletionRequest, prompt: int) -> int:
        """Most tokens of an answer to a prompt of so many tokens."""
        most, field = request.answer_limit()
        room = self._most_tokens - prompt
        if room < 1:
            field = "messages" if isinstance(request, ChatRequest) else "prompt"
            raise RefusedRequest(
                f"{field}: has {prompt} tokens; prompt and answer together may have {self._most_tokens}",
                field,
                _TOO_LONG,
            )
        if most is None:
            most = room if isinstance(request, ChatRequest) else min(room, max(_COMPLETION_TOKENS, request.min_tokens))
            if request.min_tokens > most:
                raise RefusedRequest(
                    f"min_tokens: {request.min_tokens} and the prompt's {prompt} tokens are more than the "
                    f"{self._most_tokens} that prompt and answer together may have",
                    "min_tokens",
                    _TOO_LONG,
                )
            return most
        if most > room:
            raise RefusedRequest(
                f"{field}: {most} and the prompt's {prompt} tokens are more than the {self._most_tokens} that prompt "
                "and answer together may have",
                field,
                _TOO_LONG,
            )
        return most


def _processing(request: OpenAIRequest) -> LogitsProcessing | None:
    processing = LogitsProcessing(
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        repetition_penalty=request.repetition_penalty,
        logit_bias=request.logit_bias,
        min_tokens=request.min_tokens,
    )
    return None if processing == LogitsProcessing() else processing


def _sampling(request: OpenAIRequest, choice: int) -> Sampling:
    """Choice i has seed + i, within 64 bits.

    Numbers that float32 or the wire would round to nothing become the nearest that mean the same.
    """
    return Sampling(
        temperature=request.temperature if request.temperature >= _TINY else 0.0,
        top_k=min(max(request.top_k, 0), _MAX_TOP_K),
        top_p=max(request.top_p, _TINY),
        seed=None if request.seed is None else (request.seed + choice + 2**63) % 2**64 - 2**63,
    )
