"""The running cluster as its users meet it: the official client, bad input, clients that go away."""

from __future__ import annotations

import ast
import itertools
import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import psutil
import pytest
from bad_input_cases import CASES, check_case
from live_cluster import DRAFTERS, PORTS, ROOT, ask, body, model_name, prompts, stream, text_of, wait_until
from required_tools import without

from paceline.cluster.client import Client
from paceline.cluster.served_process import ServedProcess

pytestmark = pytest.mark.cluster


def test_the_official_client_streaming_and_not(live: ServedProcess) -> None:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="unused") as client:
        name = client.models.list().data[0].id
        messages = [{"role": "user", "content": prompts()[0]}]
        whole = client.chat.completions.create(model=name, messages=messages, max_tokens=24, temperature=0)
        parts = client.chat.completions.create(
            model=name,
            messages=messages,
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(parts)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        usage = chunks[-1].usage
        assert usage is not None
        assert whole.usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (
            whole.usage.prompt_tokens,
            whole.usage.completion_tokens,
        )
        assert usage.prompt_tokens_details is not None
        cached = usage.prompt_tokens_details.cached_tokens
        assert cached == (usage.prompt_tokens - 1) // 16 * 16, "the same prompt again: all of its whole blocks"
        completion = client.completions.create(model=name, prompt="1, 2, 3, 4,", max_tokens=8, temperature=0, n=2)
        assert completion.choices[0].text == completion.choices[1].text


def test_a_stop_string_cuts_the_text(live: ServedProcess) -> None:
    whole = text_of(ask(live, prompts()[4], max_tokens=48))
    stop = whole[20:26]
    reply = ask(live, prompts()[4], max_tokens=48, stop=stop)
    assert text_of(reply) == whole[: whole.index(stop)]
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_a_request_may_name_its_policy_and_gets_the_same_text(live: ServedProcess) -> None:
    live.wait_for_drafters(set(DRAFTERS), 60)
    texts = {text_of(ask(live, prompts()[2], max_tokens=24))}
    for policy in ("ucbspec_tuned", "composite"):
        reply = ask(live, prompts()[2], max_tokens=24, paceline={"policy": policy})
        texts.add(text_of(reply))
        assert reply["metrics"]["speculative_decoding"]["rounds"] > 0
    assert len(texts) == 1


def test_a_policy_that_a_request_names_decides_who_pulls(live: ServedProcess) -> None:
    """By the weights that rounds are told: whether a draft is asked for then is a matter of what it costs here."""
    live.wait_for_drafters(set(DRAFTERS), 60)
    assert len(leaders(live, "round_robin")) >= 2, "in turn all of them have all of the weight"
    assert not leaders(live, "uniform"), "all of them have as much"


def leaders(live: ServedProcess, policy: str) -> set[str]:
    """Who had all of the weight in a round of an answer."""
    wanted = {"policy": policy, "detail": True}
    _, events = stream(live, prompts()[11], max_tokens=96, ignore_eos=True, paceline=wanted)
    rounds = [event["paceline"]["weights"] for event in events if (event.get("paceline") or {}).get("weights")]
    return {name for weights in rounds for name, weight in weights.items() if weight > 0.99}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_refused_and_named(live: ServedProcess, case: object) -> None:
    with httpx.Client(base_url=live.url, timeout=30) as client:
        check_case(client, model_name(live), case)


def test_every_grpc_server_listens_where_the_firewall_lets_it(live: ServedProcess) -> None:
    live.wait_for_drafters(set(DRAFTERS), 60)
    addresses = {actor["name"]: actor["address"] for actor in live.status()["actors"] if actor["address"]}
    assert set(addresses) == {"selector", *DRAFTERS}
    assert all(PORTS[0] <= int(address.rpartition(":")[2]) <= PORTS[1] for address in addresses.values()), addresses


def test_the_processes_that_serve_pass_chunks_on_directly(live: ServedProcess) -> None:
    pids = {actor["name"]: actor["pid"] for actor in live.status()["actors"]}
    for name in ("ingress", "target"):
        assert psutil.Process(pids[name]).environ()["RAY_SERVE_USE_GRPC_BY_DEFAULT"] == "1", name


def test_after_all_bad_input_a_good_request_works(live: ServedProcess) -> None:
    assert text_of(ask(live, prompts()[0], max_tokens=8))


def test_a_full_queue_answers_429_and_loses_nothing_that_it_took(live: ServedProcess) -> None:
    """8 run and 8 wait; of 40 at once the rest hears so at once, and those that were taken get their text."""

    def post(_: int) -> httpx.Response:
        return httpx.post(f"{live.url}/v1/chat/completions", json=request, timeout=120)

    request = body(live, prompts()[1], max_tokens=16)
    with ThreadPoolExecutor(40) as clients:
        replies = list(clients.map(post, range(40)))
    taken = [reply for reply in replies if reply.status_code == 200]
    refused = [reply for reply in replies if reply.status_code == 429]
    assert len(taken) + len(refused) == 40
    assert len(taken) >= 16
    assert refused
    assert len({text_of(reply.json()) for reply in taken}) == 1
    for reply in refused:
        assert int(reply.headers["Retry-After"]) >= 1
        assert reply.json()["error"]["code"] == "overloaded"
    assert live.status()["waiting"] == 0


def test_a_trace_shows_a_round_across_the_processes(live: ServedProcess) -> None:
    with ThreadPoolExecutor(1) as other, Client(live.url) as client:
        watched = other.submit(client.trace, 6.0)
        rounds = 0
        for drafter in itertools.cycle(("ngram", "suffix")):  # named, since the selector may leave one alone
            if watched.done():
                break
            reply = ask(live, prompts()[0], max_tokens=32, paceline={"drafter": drafter})
            rounds += reply["metrics"]["speculative_decoding"]["rounds"]
        events = watched.result()["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    names = {(event["cat"], event["name"]) for event in spans}
    assert {("target", part) for part in ("round", "choose", "draft", "verify", "judge", "tell")} <= names
    assert {(drafter, "catch up") for drafter in ("ngram", "suffix")} <= names
    assert {("selector", "learn"), ("selector", "scores"), ("selector", "weights")} <= names
    assert 0 < [event["name"] for event in spans].count("round") <= rounds
    # Every arrow that arrives at a drafter left from the target before, by the one clock of this machine.
    left = {event["id"]: event["ts"] for event in events if event["ph"] == "s"}
    arrived = {event["id"]: event["ts"] for event in events if event["ph"] == "f"}
    assert arrived
    assert all(left[number] <= at for number, at in arrived.items())


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_a_client_that_goes_away_frees_the_target_and_every_drafter(live: ServedProcess, streamed: bool) -> None:
    live.wait_for_drafters(set(DRAFTERS), 60)
    request = body(live, prompts()[0], max_tokens=2000, stream=streamed, temperature=1.5)
    if streamed:
        with httpx.stream("POST", f"{live.url}/v1/chat/completions", json=request, timeout=60) as reply:
            next(reply.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{live.url}/v1/chat/completions", json=request, timeout=httpx.Timeout(10, read=1.0))

    def freed() -> bool:
        status = live.status()
        return status["running"] == 0 and all(item["sessions"] == 0 for item in status["actors"])

    wait_until(freed, 10, "no sequence runs and no drafter holds one")


def test_the_quick_start_runs_as_it_is_written(live: ServedProcess, capsys: pytest.CaptureFixture[str]) -> None:
    written = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "quickstart.md").read_text(), re.M | re.S)
    assert len(written) == 2
    exec("".join(written), {"URL": live.url})
    text, rounds = capsys.readouterr().out.strip().rsplit("\n", 1)
    assert len(text) > 20
    assert sum(ast.literal_eval(rounds).values()) == pytest.approx(1.0, abs=0.01)


def fields_of(value: object) -> object:
    """What a reply is made of: the fields of objects, all the way down; names of drafters are not fields."""
    match value:
        case {"rounds_by_drafter": dict(), **rest}:
            return fields_of(rest) | {"rounds_by_drafter": None}
        case dict():
            return {name: fields_of(item) for name, item in value.items()}
        case [dict() as first, *_]:
            return [fields_of(first)]
    return None


def test_the_first_request_of_the_readme_runs_as_it_is_written_and_is_answered_as_is_printed(
    live: ServedProcess,
) -> None:
    if shutil.which("curl") is None:
        without("curl", "curl is not installed")
    readme = (ROOT / "README.md").read_text()
    command, printed = re.findall(r"^```(?:bash\n(?=curl)|json\n)(.*?)^```", readme, re.M | re.S)
    written = "http://127.0.0.1:8000"
    assert command.count(written) == 1
    ran = subprocess.run(
        ["bash", "-c", command.replace(written, live.url)], capture_output=True, text=True, timeout=60, check=True
    )
    reply = json.loads(ran.stdout)
    assert fields_of(reply) == fields_of(json.loads(printed))
    assert reply["choices"][0]["message"]["content"].startswith("A library is ")
    assert sum(reply["metrics"]["speculative_decoding"]["rounds_by_drafter"].values()) == pytest.approx(1, abs=0.01)
