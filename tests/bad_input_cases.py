"""Bad requests, and how each must be refused: one table for the endpoint alone and for the running cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"
_ABSENT = object()


@dataclass(frozen=True)
class Case:
    """A request that must be refused.

    Attributes:
        name: What is wrong.
        param: The field that the error must name; None where there is no single one.
        body: Fields laid over a good body; `_ABSENT` takes one away.
        content: Raw bytes instead of a body.
        streamed: Sends `content` in parts, without its length.
        content_type: What the body is announced as; None for nothing.
        mentions: What the message must say.
    """

    name: str
    param: str | None = None
    body: dict[str, Any] = field(default_factory=dict)
    path: str = CHAT
    method: str = "POST"
    status: int = 400
    code: str | None = None
    content: bytes | None = None
    streamed: bool = False
    content_type: str | None = "application/json"
    mentions: str = ""


def check_case(client: httpx.Client, model: str, case: Any) -> None:
    """Send it; the answer must have the right status and shape, and name the field."""
    content: Any = case.content
    if content is None and case.method == "POST":
        content = json.dumps(_laid_over(_good(case.path, model), case.body)).encode()
    if case.streamed:
        content = _parts(content)
    headers = {} if case.content_type is None else {"Content-Type": case.content_type}
    reply = client.request(case.method, case.path, content=content, headers=headers)
    assert reply.status_code == case.status, reply.text
    assert reply.headers["content-type"] == "application/json"
    document = reply.json()
    assert document.keys() == {"error"}
    error = document["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == (case.param, case.code), error
    assert error["message"]
    assert (case.mentions or case.param or "") in error["message"]


def _good(path: str, model: str) -> dict[str, Any]:
    if path in (TOKENIZE, DETOKENIZE):
        return {"model": model} | ({"prompt": "hello"} if path == TOKENIZE else {"tokens": [1, 2]})
    asked = {"messages": [{"role": "user", "content": "hello"}]} if path == CHAT else {"prompt": "hello"}
    return {"model": model, "max_tokens": 4, **asked}


def _laid_over(body: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (body | fields).items() if value is not _ABSENT}


def _parts(content: bytes) -> Iterator[bytes]:
    for at in range(0, len(content), 2**18):
        yield content[at : at + 2**18]


def _user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


_UNSUPPORTED, _MISSING, _UNKNOWN = "unsupported_parameter", "missing_required_parameter", "unknown_parameter"
_LONG, _MEDIA = "context_length_exceeded", "unsupported_media_type"
_NAN = b'{"model": "x", "messages": [{"role": "user", "content": "a"}], "temperature": %s}'
_BIG = b'{"model": "' + b"x" * 10_000_000 + b'"}'
_WORDS = "word " * 20_000

CASES = [
    Case("the body is empty", content=b"", code="invalid_json"),
    Case("the body is not JSON", content=b'{"model": ', code="invalid_json"),
    Case("the body is a list", content=b"[1, 2]", code="invalid_json", mentions="array"),
    Case("the body is null", content=b"null", code="invalid_json", mentions="null"),
    Case("the body is not UTF-8", content=b'{"model": "\xff"}', code="invalid_json", mentions="UTF-8"),
    Case("the body is nested a thousand deep", content=b'{"a":' * 1000 + b"1" + b"}" * 1000, code="invalid_json"),
    Case("the body is nested without end", content=b"[" * 200_000, code="invalid_json"),
    Case("an integer of 5,000 digits", content=b'{"seed": ' + b"9" * 5000 + b"}", code="invalid_json"),
    Case("a key is given twice", "seed", content=b'{"seed": 1, "seed": 2}', code="invalid_json"),
    Case("the body has 10 MB", content=_BIG, status=413, code="body_too_large"),
    Case("the body has 10 MB and no length", content=_BIG, streamed=True, status=413, code="body_too_large"),
    Case("a body of plain text", content_type="text/plain", status=415, code=_MEDIA, mentions="Content-Type"),
    Case("a form", path=COMPLETIONS, content_type="application/x-www-form-urlencoded", status=415, code=_MEDIA,
         mentions="application/json"),
    Case("a body that is not announced", content_type=None, status=415, code=_MEDIA, mentions="application/json"),
    Case("temperature is NaN", "temperature", content=_NAN % b"NaN"),
    Case("temperature is infinite", "temperature", content=_NAN % b"-Infinity"),
    Case("temperature overflows", "temperature", content=_NAN % b"1e999"),
    Case("an unknown path", path="/v1/nothing", status=404, code="not_found"),
    Case("a wrong method", path=CHAT, method="GET", status=405, code="method_not_allowed", mentions="POST"),
    Case("a wrong method on models", path="/v1/models", method="DELETE", status=405, code="method_not_allowed"),
    Case("a model's page that is not there", "model", path="/v1/models/a/b", method="GET", status=404,
         code="model_not_found"),
    Case("no model", "model", {"model": _ABSENT}, code=_MISSING),
    Case("model is a number", "model", {"model": 5}),
    Case("model is null", "model", {"model": None}, code=_MISSING),
    Case("an unknown model", "model", {"model": "gpt-none"}, status=404, code="model_not_found"),
    Case("no messages", "messages", {"messages": _ABSENT}, code=_MISSING),
    Case("messages are empty", "messages", {"messages": []}),
    Case("messages are a string", "messages", {"messages": "hello"}),
    Case("a message is a string", "messages[0]", {"messages": ["hello"]}),
    Case("a message without a role", "messages[0].role", {"messages": [{"content": "a"}]}, code=_MISSING),
    Case("an unknown role", "messages[1].role", {"messages": [*_user("a"), {"role": "robot", "content": "a"}]}),
    Case("a tool's message", "messages[1].role", {"messages": [*_user("a"), {"role": "tool", "content": "a"}]}),
    Case("a function's message", "messages[1].role", {"messages": [*_user("a"), {"role": "function", "content": "a"}]}),
    Case("a message without content", "messages[0].content", {"messages": [{"role": "user"}]}, code=_MISSING),
    Case("content is a number", "messages[0].content", {"messages": _user(7)}),
    Case("content is a picture", "messages[0].content",
         {"messages": _user([{"type": "image_url", "image_url": {"url": "x"}}])}),
    Case("content is an empty list", "messages[0].content", {"messages": _user([])}),
    Case("a part's text is a number", "messages[0].content", {"messages": _user([{"type": "text", "text": 1}])}),
    Case("a message with a tool call", "messages[0].tool_calls",
         {"messages": [{"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]}]}, code=_UNKNOWN),
    Case("a lone surrogate", "messages[0].content", {"messages": _user("a\ud800")}),
    Case("a lone surrogate in a name", "a\\ud800", {"a\ud800": 1}),
    Case("the prompt alone is too long", "messages", {"messages": _user(_WORDS)}, code=_LONG),
    Case("max_tokens is negative", "max_tokens", {"max_tokens": -1}),
    Case("max_tokens is 0", "max_tokens", {"max_tokens": 0}),
    Case("max_tokens is a string", "max_tokens", {"max_tokens": "5"}),
    Case("max_tokens is true", "max_tokens", {"max_tokens": True}),
    Case("max_tokens is 1.5", "max_tokens", {"max_tokens": 1.5}),
    Case("max_tokens goes beyond the context", "max_tokens", {"max_tokens": 10**6}, code=_LONG),
    Case("max_completion_tokens goes beyond the context", "max_completion_tokens",
         {"max_tokens": _ABSENT, "max_completion_tokens": 10**6}, code=_LONG),
    Case("two limits that differ", "max_tokens", {"max_completion_tokens": 5}),
    Case("temperature is too high", "temperature", {"temperature": 2.1}),
    Case("temperature is negative", "temperature", {"temperature": -0.1}),
    Case("temperature is a string", "temperature", {"temperature": "hot"}),
    Case("temperature is true", "temperature", {"temperature": True}),
    Case("top_p is 0", "top_p", {"top_p": 0}),
    Case("top_p is over 1", "top_p", {"top_p": 1.01}),
    Case("top_k is -2", "top_k", {"top_k": -2}),
    Case("top_k is 1.5", "top_k", {"top_k": 1.5}),
    Case("stop is empty", "stop", {"stop": ""}),
    Case("stop is an empty list", "stop", {"stop": []}),
    Case("five stops", "stop", {"stop": list("abcde")}),
    Case("a stop is a number", "stop", {"stop": ["a", 1]}),
    Case("a stop of 2,000 characters", "stop", {"stop": "x" * 2000}),
    Case("seed is beyond 64 bits", "seed", {"seed": 2**63}),
    Case("seed is a string", "seed", {"seed": "1"}),
    Case("n is 0", "n", {"n": 0}),
    Case("n is huge", "n", {"n": 10**9}),
    Case("n has 400 digits", "n", {"n": 10**400}),
    Case("stream is a string", "stream", {"stream": "true"}),
    Case("stream is 1", "stream", {"stream": 1}),
    Case("stream_options without stream", "stream_options", {"stream_options": {"include_usage": True}}),
    Case("an unknown stream option", "stream_options.speed", {"stream": True, "stream_options": {"speed": 1}},
         code=_UNKNOWN),
    Case("an unknown field", "temprature", {"temprature": 1}, code=_UNKNOWN),
    Case("tools", "tools", {"tools": [{"type": "function"}]}, code=_UNSUPPORTED),
    Case("logprobs is a number", "logprobs", {"logprobs": 1}),
    Case("top_logprobs is 21", "top_logprobs", {"logprobs": True, "top_logprobs": 21}),
    Case("top_logprobs is negative", "top_logprobs", {"logprobs": True, "top_logprobs": -1}),
    Case("top_logprobs without logprobs", "top_logprobs", {"top_logprobs": 2}, mentions="logprobs: true"),
    Case("a JSON response", "response_format", {"response_format": {"type": "json_object"}}, code=_UNSUPPORTED),
    Case("a frequency penalty of 2.1", "frequency_penalty", {"frequency_penalty": 2.1}),
    Case("a presence penalty of -2.1", "presence_penalty", {"presence_penalty": -2.1}),
    Case("a presence penalty that is false", "presence_penalty", {"presence_penalty": False}),
    Case("a repetition penalty of 0", "repetition_penalty", {"repetition_penalty": 0}),
    Case("a logit bias that is a list", "logit_bias", {"logit_bias": [5]}),
    Case("a logit bias for a word", "logit_bias", {"logit_bias": {"the": 1}}, mentions="'the'"),
    Case("a logit bias for one id twice", "logit_bias", {"logit_bias": {"5": 1, "05": 2}}, mentions="'05'"),
    Case("a logit bias for a negative id", "logit_bias", {"logit_bias": {"-1": 1}}),
    Case("a logit bias beyond the vocabulary", "logit_bias", {"logit_bias": {"999999999": 1}}, mentions="999999999"),
    Case("a logit bias of 101", "logit_bias", {"logit_bias": {"5": 101}}, mentions="for 5"),
    Case("a logit bias that is true", "logit_bias", {"logit_bias": {"5": True}}),
    Case("a logit bias of a thousand tokens and more", "logit_bias", {"logit_bias": {str(i): 1 for i in range(1025)}}),
    Case("stop_token_ids is a number", "stop_token_ids", {"stop_token_ids": 5}),
    Case("a negative stop id", "stop_token_ids[1]", {"stop_token_ids": [1, -1]}),
    Case("a stop id beyond the vocabulary", "stop_token_ids", {"stop_token_ids": [10**9]}, mentions="1000000000"),
    Case("65 stop ids", "stop_token_ids", {"stop_token_ids": list(range(65))}, mentions="64"),
    Case("min_tokens is negative", "min_tokens", {"min_tokens": -1}),
    Case("min_tokens over max_tokens", "min_tokens", {"min_tokens": 5}, mentions="max_tokens (4)"),
    Case("min_tokens over max_completion_tokens", "min_tokens",
         {"min_tokens": 5, "max_tokens": _ABSENT, "max_completion_tokens": 3}, mentions="max_completion_tokens (3)"),
    Case("min_tokens beyond the context", "min_tokens", {"min_tokens": 10**6, "max_tokens": _ABSENT}, code=_LONG),
    Case("ignore_eos is 1", "ignore_eos", {"ignore_eos": 1}),
    Case("min_p", "min_p", {"min_p": 0.1}, code=_UNSUPPORTED),
    Case("return_token_ids is 1", "return_token_ids", {"return_token_ids": 1}),
    Case("user is a number", "user", {"user": 5}),
    Case("user has 300 characters", "user", {"user": "x" * 300}, mentions="256"),
    Case("paceline is a list", "paceline", {"paceline": []}),
    Case("an unknown paceline option", "paceline.speed", {"paceline": {"speed": 9}}, code=_UNKNOWN),
    Case("an unknown drafter", "paceline.drafter", {"paceline": {"drafter": "none-such"}}, mentions="ngram"),
    Case("a drafter for plain decoding", "paceline.drafter", {"paceline": {"drafter": "ngram", "enabled": False}}),
    Case("a draft length for plain decoding", "paceline.max_draft", {"paceline": {"max_draft": 2, "enabled": False}}),
    Case("an unknown policy", "paceline.policy", {"paceline": {"policy": "best"}}, mentions="ucbspec_tuned"),
    Case("policy fixed", "paceline.policy", {"paceline": {"policy": "fixed"}}, mentions="paceline.drafter"),
    Case("a policy for plain decoding", "paceline.policy", {"paceline": {"policy": "hedge", "enabled": False}}),
    Case("a policy for one drafter", "paceline.policy", {"paceline": {"policy": "hedge", "drafter": "ngram"}}),
    Case("a drafter that may draft nothing", "paceline.drafter", {"paceline": {"drafter": "ngram", "max_draft": 0}}),
    Case("a policy that may draft nothing", "paceline.policy", {"paceline": {"policy": "hedge", "max_draft": 0}}),
    Case("max_draft is -1", "paceline.max_draft", {"paceline": {"max_draft": -1}}),
    Case("max_draft is 65", "paceline.max_draft", {"paceline": {"max_draft": 65}}),
    Case("a bad field of a stream", "top_p", {"stream": True, "top_p": 7}),
    Case("no prompt", "prompt", {"prompt": _ABSENT}, COMPLETIONS, code=_MISSING),
    Case("the prompt is empty", "prompt", {"prompt": ""}, COMPLETIONS),
    Case("the prompt is an empty list", "prompt", {"prompt": []}, COMPLETIONS),
    Case("the prompt is a list with an empty list", "prompt", {"prompt": [[]]}, COMPLETIONS),
    Case("the prompt is mixed", "prompt", {"prompt": ["a", 5]}, COMPLETIONS),
    Case("the prompt's ids are true", "prompt", {"prompt": [True]}, COMPLETIONS),
    Case("a token id beyond the vocabulary", "prompt", {"prompt": [10**9]}, COMPLETIONS, mentions="1000000000"),
    Case("a negative token id", "prompt", {"prompt": [[3, -1]]}, COMPLETIONS),
    Case("too many prompts", "prompt", {"prompt": ["a"] * 100}, COMPLETIONS),
    Case("a prompt of ids that is too long", "prompt", {"prompt": [5] * 20_000}, COMPLETIONS, code=_LONG),
    Case("messages for completions", "messages", {"messages": _user("a")}, COMPLETIONS, code=_UNKNOWN),
    Case("echo", "echo", {"echo": True}, COMPLETIONS, code=_UNSUPPORTED),
    Case("best_of", "best_of", {"best_of": 3}, COMPLETIONS, code=_UNSUPPORTED),
    Case("six logprobs of a completion", "logprobs", {"logprobs": 6}, COMPLETIONS),
    Case("logprobs of a completion as chat has them", "logprobs", {"logprobs": True}, COMPLETIONS),
    Case("top_logprobs of a completion", "top_logprobs", {"top_logprobs": 1}, COMPLETIONS, code=_UNKNOWN),
    Case("neither a text nor a chat to tokenise", "prompt", path=TOKENIZE, body={"prompt": _ABSENT}),
    Case("a text and a chat to tokenise", "prompt", {"messages": _user("a")}, TOKENIZE),
    Case("a template's end for a text", "add_generation_prompt", {"add_generation_prompt": True}, TOKENIZE),
    Case("special tokens for a chat", "add_special_tokens",
         {"prompt": _ABSENT, "messages": _user("a"), "add_special_tokens": True}, TOKENIZE),
    Case("another model's tokenizer", "model", {"model": "gpt-none"}, TOKENIZE, status=404, code="model_not_found"),
    Case("tokenise plain text", path=TOKENIZE, content_type="text/plain", status=415, code=_MEDIA,
         mentions="Content-Type"),
    Case("no ids to detokenise", "tokens", {"tokens": _ABSENT}, DETOKENIZE, code=_MISSING),
    Case("an id that is text", "tokens[0]", {"tokens": ["a"]}, DETOKENIZE),
    Case("an id beyond the vocabulary", "tokens", {"tokens": [1, 10**9]}, DETOKENIZE, mentions="1000000000"),
]  # fmt: skip
