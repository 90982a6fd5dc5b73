"""One request run over a scripted cluster, without HTTP: what a stop id that is ordinary text does."""

from __future__ import annotations

from pathlib import Path

from fake_backend import FakeBackend, make_tokenizer

from paceline.actors.generation import Chunk, Generation
from paceline.cluster.activity import Activity
from paceline.cluster.completion import Completion
from paceline.cluster.openai_replies import ReplyWriter
from paceline.cluster.request_plan import Plan


async def test_the_id_that_ends_a_text_is_counted_and_never_shown_even_where_it_is_ordinary_text(
    tmp_path: Path,
) -> None:
    tokenizer = make_tokenizer(tmp_path)
    ids = tokenizer.encode("a;b;")
    end = ids[-1]
    generation = Generation("r-0", (1,), 9, frozenset({end}))

    async def reply(chunk: Chunk) -> tuple[str, int]:
        writer = ReplyWriter(chat=False, model="m", include_usage=False, include_ids=False)
        plan = Plan([generation], (), min_tokens=0, prompt_tokens=1, include_usage=False, detail=False)
        document = await Completion(FakeBackend(lambda _: [chunk]), tokenizer.decode, plan, writer, Activity()).whole()
        return document["choices"][0]["text"], document["usage"]["completion_tokens"]

    assert await reply(Chunk(ids, "stop")) == ("a;b", len(ids))
    assert await reply(Chunk(ids, "length")) == ("a;b;", len(ids))
