"""LangChain and LiteLLM against a server, as an application would use them: `python other_clients.py NAME < JSON`.

The input has `url`, `model`, `question`, `tokens` and the greedy answer, `expected`; `test_live_clients` gives it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest

Given = dict[str, Any]


async def langchain(given: Given) -> None:
    from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_openai import ChatOpenAI, OpenAI

    question, expected, tokens = given["question"], given["expected"], given["tokens"]
    fields: Given = {"base_url": given["url"], "api_key": "unused", "model": given["model"], "temperature": 0}
    chat = ChatOpenAI(**fields, max_tokens=tokens)
    answer = chat.invoke([HumanMessage(question)])
    assert answer.content == expected
    assert answer.usage_metadata["output_tokens"] == tokens
    assert "".join(chunk.content for chunk in chat.stream(question)) == expected
    assert (await chat.ainvoke(question)).content == expected
    gathered: Any = AIMessageChunk("")
    async for chunk in chat.astream(question, stream_usage=True):
        gathered += chunk
    assert gathered.content == expected
    assert gathered.usage_metadata["output_tokens"] == tokens

    brief = chat.invoke([SystemMessage("Be brief."), HumanMessage("What is a library?")]).content
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{question}")])
    chain = prompt | chat | StrOutputParser()
    assert chain.batch([{"question": "What is a library?"}] * 2) == [brief] * 2

    plain = ChatOpenAI(**fields, max_tokens=tokens, extra_body={"paceline": {"enabled": False}}, logprobs=True)
    answer = plain.invoke(question)
    assert answer.content == expected
    assert len(answer.response_metadata["logprobs"]["content"]) == tokens
    assert "4" in OpenAI(**fields, max_tokens=8).invoke("1, 2, 3,")


async def litellm(given: Given) -> None:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import asks the internet for prices
    import litellm

    question, expected, tokens = given["question"], given["expected"], given["tokens"]
    fields: Given = {"api_base": given["url"], "api_key": "unused", "temperature": 0, "max_tokens": tokens}
    chat = fields | {"model": f"openai/{given['model']}", "messages": [{"role": "user", "content": question}]}
    whole = litellm.completion(**chat)
    assert whole.choices[0].message.content == expected
    assert whole.usage.completion_tokens == tokens
    parts = litellm.completion(**chat, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == expected
    assert (await litellm.acompletion(**chat)).choices[0].message.content == expected
    text = ""
    async for part in await litellm.acompletion(**chat, stream=True, stream_options={"include_usage": True}):
        text += part.choices[0].delta.content or ""
    assert text == expected
    plain = litellm.completion(**chat, extra_body={"paceline": {"enabled": False}})
    assert plain.choices[0].message.content == expected
    with pytest.raises(litellm.BadRequestError, match="nonesuch"):
        litellm.completion(**chat, extra_body={"paceline": {"drafter": "nonesuch"}})
    text = litellm.text_completion(**fields, model=f"text-completion-openai/{given['model']}", prompt="1, 2, 3,")
    assert "4" in text.choices[0].text


if __name__ == "__main__":
    asyncio.run({"langchain": langchain, "litellm": litellm}[sys.argv[1]](json.load(sys.stdin)))
    sys.stdout.write("done\n")
