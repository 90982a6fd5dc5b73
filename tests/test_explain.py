"""Requests explained over HTTP and on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from engine_rig import EvenBoard, crowd, rig
from fake_backend import CONFIG, FakeBackend, make_api, make_tokenizer, served
from rich.console import Console
from score_tables import table
from table_model import TableModel

from paceline.actors.messages import (
    DraftTiming,
    RoundContext,
    Score,
    SequenceOpened,
    SequenceRound,
    TargetReport,
    WeightsUpdate,
)
from paceline.cluster.cli import main
from paceline.cluster.client import Client
from paceline.cluster.engine_limits import engine_limits
from paceline.cluster.explain_command import explain
from paceline.cluster.request_log import RequestLog
from paceline.cluster.tokenizer import ChatTokenizer

REQUEST = "chatcmpl-1"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def shared(tokenizer: ChatTokenizer) -> Iterator[tuple[FakeBackend, str]]:
    backend = FakeBackend(lambda _: [])
    with served(make_api(backend, tokenizer)) as url:
        yield backend, url


@pytest.fixture
def url(shared: tuple[FakeBackend, str], tokenizer: ChatTokenizer) -> str:
    """A cluster with one request of two choices, whose text is kept, and a second one that has not begun."""
    backend, url = shared
    log = backend.log = RequestLog(8, 8, lambda: 5.0)
    for seq, name, followers in (
        (1, f"{REQUEST}-0", ("ngram", "suffix")),
        (2, f"{REQUEST}-1", ()),
        (3, "cmpl-2-0", ()),
    ):
        log.opened("t", SequenceOpened(seq, 10, drafters=followers, request=name))
    update = WeightsUpdate(1, ("ngram", "suffix"), np.array([0.25, 0.75], dtype=np.float32))
    log.sent(update)
    ids = tuple(tokenizer.encode("the end"))
    rounds = [
        SequenceRound(1, 10 + len(ids), "suffix", 4, len(ids) - 1, length=5, tokens=ids),
        SequenceRound(2, 11, "ngram", 0, 0, length=4),
    ]
    context = RoundContext(2.5, 14.0, 1)
    timing = [DraftTiming("suffix", 1, 5, 2.25)]
    log.reported(TargetReport("t", rounds=rounds, drafts=timing, verify_ms=11.5, verify_tokens=6, context=context))
    log.scores(table("ngram", Score(1, 10, np.array([1.0, 0.5], dtype=np.float32))))
    log.reported(TargetReport("t", closed=[1, 2]))
    return url


def test_a_request_is_explained_choice_by_choice(url: str) -> None:
    document = httpx.get(f"{url}/v1/paceline/requests/{REQUEST}").json()
    assert (document["id"], document["finished"], len(document["choices"])) == (REQUEST, True, 2)
    first = document["choices"][0]["rounds"][0]
    assert (first["drafter"], first["length"], first["drafted"]) == ("suffix", 5, 4)
    assert first["weights"] == {"ngram": 0.25, "suffix": 0.75}
    assert first["gammas"]["ngram"][:2] == [1.0, 0.5]
    assert (first["draft_ms"], first["wait_ms"], first["verify_ms"]) == (2.25, 2.5, 11.5)
    assert first["text"] == "the end"
    second = document["choices"][1]["rounds"][0]
    assert (second["drafter"], second["drafted"], second["text"], second["token_ids"]) == ("ngram", 0, None, [])
    with Client(url) as client:
        assert client.explain(REQUEST).choices[1].rounds[0].drafter == "ngram"


def test_the_newest_come_first_and_as_many_as_are_asked_for(url: str) -> None:
    document = httpx.get(f"{url}/v1/paceline/requests?limit=1").json()
    assert ([item["id"] for item in document["requests"]], document["kept"], document["seen"]) == (["cmpl-2"], 2, 2)
    listed = httpx.get(f"{url}/v1/paceline/requests").json()["requests"]
    assert listed[1]["rounds"] == {"suffix": 1, "plain": 1}


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "many", "1001", "", "9" * 30])
def test_a_limit_that_is_none_is_refused(url: str, limit: str) -> None:
    reply = httpx.get(f"{url}/v1/paceline/requests", params={"limit": limit})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "limit"


def test_an_unknown_request_is_named(url: str) -> None:
    reply = httpx.get(f"{url}/v1/paceline/requests/chatcmpl-nobody")
    assert reply.status_code == 404
    error = reply.json()["error"]
    assert "'chatcmpl-nobody'" in error["message"]
    assert str(CONFIG.selector.explain_requests) in error["message"]
    assert (error["param"], error["code"]) == ("id", "request_not_found")


def test_without_a_selector_the_answer_is_503(url: str, shared: tuple[FakeBackend, str]) -> None:
    shared[0].log = None
    for path in ("", f"/{REQUEST}"):
        reply = httpx.get(f"{url}/v1/paceline/requests{path}")
        assert reply.status_code == 503
        assert "selector" in reply.json()["error"]["message"]


def printed(url: str, request: str | None) -> tuple[int, str]:
    console = Console(file=StringIO(), record=True)
    return explain(url, request, console), console.export_text()


def test_the_table_shows_arm_why_and_what_each_drafter_would_have_done(url: str) -> None:
    status, text = printed(url, REQUEST)
    assert status == 0
    lines = [line for line in text.splitlines() if line.startswith("    0  ")]
    assert len(lines) == 2
    assert "suffix 5" in lines[0]
    assert "suffix 0.75, ngram 0.25" in lines[0]
    assert "*5." in lines[0]
    assert "'the end'" in lines[0]
    assert "ngram 4, no draft" in lines[1]
    # Who follows a sequence is mostly the engine's choice: the heading must not say that the request allowed no others.
    assert "in 1 rounds; followed by ngram, suffix alone\n" in text
    assert "choice 1 (ended) on t; 10 prompt tokens, 1 in 1 rounds\n" in text


def test_without_an_id_the_newest_are_listed(url: str, shared: tuple[FakeBackend, str]) -> None:
    status, text = printed(url, None)
    assert status == 0
    assert text.index("cmpl-2") < text.index(REQUEST)
    shared[0].log = RequestLog(8, 8, lambda: 5.0)
    assert printed(url, None)[0] == 1


def test_the_command_names_an_id_that_is_not_kept(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "nobody", "--url", url]) == 2
    assert "'nobody'" in capsys.readouterr().err
    assert main(["explain", REQUEST, "--url", url]) == 0
    assert "suffix 5" in capsys.readouterr().out


def test_tokens_are_reported_only_where_text_is_to_be_explained() -> None:
    assert not engine_limits(CONFIG, 64).report_tokens
    on = CONFIG.model_copy(update={"selector": CONFIG.selector.model_copy(update={"explain_text": True})})
    assert engine_limits(on, 64).report_tokens


@pytest.mark.parametrize("told", [False, True], ids=["without text", "with text"])
def test_the_engine_tells_the_arm_and_what_became_of_it(told: bool) -> None:
    model = TableModel(vocab_size=12)
    with rig(model, crowd(model), report_tokens=told) as made:
        text = made.submit([1, 2, 3], 60).wait()
    rounds = made.board.rounds
    assert {entry.drafter for entry in rounds} >= {"", "good"}
    for entry in rounds:
        assert entry.drafted <= entry.length
        assert bool(entry.drafter) == bool(entry.length)
    assert any(entry.drafter == "silent" for entry in rounds)
    assert not any(entry.drafted for entry in rounds if entry.drafter == "silent")
    spelled = [token for entry in rounds for token in entry.tokens]
    assert spelled == (text if told else [])
    assert len(made.board.contexts) == len(rounds)
    for context in made.board.contexts:
        assert 0 < context.wait_ms < context.round_ms
        assert context.weights_number == EvenBoard.weights_number
