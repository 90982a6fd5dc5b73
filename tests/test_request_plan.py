"""A request's limits to the token: what just fits is planned, one more is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_backend import CONFIG, CONTEXT, EOS, MODEL, make_tokenizer

from paceline.actors.generation import Generation
from paceline.actors.prompt_sketch import sketch
from paceline.cluster.config import ClusterConfig
from paceline.cluster.http_errors import RefusedRequest
from paceline.cluster.openai_requests import ChatRequest, CompletionRequest
from paceline.cluster.request_body import parse_request
from paceline.cluster.request_plan import Planner
from paceline.cluster.tokenizer import ChatTokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


async def planned(tokenizer: ChatTokenizer, config: ClusterConfig = CONFIG, **fields: Any) -> Generation:
    """The first generation of a completion."""
    planner = Planner(tokenizer, config, MODEL, CONTEXT, frozenset(tokenizer.encode(EOS)))
    request = parse_request(CompletionRequest, {"model": MODEL, **fields})
    return (await planner.plan(request, "r")).generations[0]


async def test_prompt_and_answer_fill_the_context_and_no_more(tokenizer: ChatTokenizer) -> None:
    prompt = [5] * (CONTEXT - 10)
    assert (await planned(tokenizer, prompt=prompt, max_tokens=10)).max_tokens == 10
    assert (await planned(tokenizer, prompt=prompt)).max_tokens == 10, "the default of 16 is cut to what fits"
    with pytest.raises(RefusedRequest, match="11") as refused:
        await planned(tokenizer, prompt=prompt, max_tokens=11)
    assert (refused.value.param, refused.value.code) == ("max_tokens", "context_length_exceeded")


async def test_a_prompt_must_leave_room_for_one_token(tokenizer: ChatTokenizer) -> None:
    assert (await planned(tokenizer, prompt=[5] * (CONTEXT - 1))).max_tokens == 1
    with pytest.raises(RefusedRequest, match=f"{CONTEXT} tokens") as refused:
        await planned(tokenizer, prompt=[5] * CONTEXT)
    assert (refused.value.param, refused.value.code) == ("prompt", "context_length_exceeded")


async def test_what_the_target_never_holds_at_once_is_refused_at_the_door(tokenizer: ChatTokenizer) -> None:
    small = CONFIG.model_copy(update={"target": CONFIG.target.model_copy(update={"max_tokens_in_flight": 64})})
    assert (await planned(tokenizer, small, prompt=[5] * 60, max_tokens=4)).max_tokens == 4
    with pytest.raises(RefusedRequest, match="64"):
        await planned(tokenizer, small, prompt=[5] * 60, max_tokens=5)


async def test_the_last_id_of_the_vocabulary_is_the_last(tokenizer: ChatTokenizer) -> None:
    last = tokenizer.vocab_size - 1
    assert (await planned(tokenizer, prompt=[0, last])).prompt == (0, last)
    with pytest.raises(RefusedRequest, match=str(last + 1)):
        await planned(tokenizer, prompt=[0, last + 1])


async def test_seeds_of_the_choices_stay_within_64_bits(tokenizer: ChatTokenizer) -> None:
    planner = Planner(tokenizer, CONFIG, MODEL, CONTEXT, frozenset())
    fields = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "n": 3, "seed": 2**63 - 2}
    plan = await planner.plan(parse_request(ChatRequest, fields), "r")
    assert [item.sampling.seed for item in plan.generations] == [2**63 - 2, 2**63 - 1, -(2**63)]


async def test_tokens_are_handed_over_one_by_one_where_someone_reads_along(tokenizer: ChatTokenizer) -> None:
    assert not (await planned(tokenizer, prompt="the fox")).streamed
    assert (await planned(tokenizer, prompt="the fox", stream=True)).streamed
    assert (await planned(tokenizer, prompt="the fox", stop=["dog"])).streamed, "a stop string is found in the text"


async def test_a_draft_longer_than_the_clusters_is_refused(tokenizer: ChatTokenizer) -> None:
    assert (await planned(tokenizer, prompt="a", paceline={"max_draft": 7})).max_draft == 7
    with pytest.raises(RefusedRequest, match="max_draft: 8; this cluster drafts at most 7"):
        await planned(tokenizer, prompt="a", paceline={"max_draft": 8})


async def test_a_prompt_is_sketched_only_where_the_selector_reads_sketches(tokenizer: ChatTokenizer) -> None:
    assert (await planned(tokenizer, prompt=[5, 6, 7])).sketch == b""
    selector = CONFIG.selector.model_copy(update={"prompt_weight": 0.5})
    reading = CONFIG.model_copy(update={"selector": selector})
    assert (await planned(tokenizer, reading, prompt=[5, 6, 7])).sketch == sketch([5, 6, 7])
