"""Explained, recorded and replayed: real requests of the running cluster, and whether a replay tells what they did."""

from __future__ import annotations

import threading
from io import StringIO
from pathlib import Path

import httpx
import pytest
from live_cluster import DRAFTERS, ask, prompts, wait_until
from rich.console import Console

from paceline.cluster.client import Client
from paceline.cluster.explain_command import explain
from paceline.cluster.record_command import record
from paceline.cluster.replay.recording import read_recording
from paceline.cluster.replay_command import prediction_table, run_replay
from paceline.cluster.served_process import ServedProcess

pytestmark = pytest.mark.cluster

BOUND = 0.05  # of the measured tokens per round
ACCEPTED_BOUND = 0.15  # of the accepted tokens, or 3 of them where they are few


def test_a_reply_is_explained_by_its_id(live: ServedProcess) -> None:
    live.wait_for_drafters(set(DRAFTERS), 60)
    reply = ask(live, prompts()[2], n=2, max_tokens=40, paceline={"drafter": "suffix"}, user="team")
    with Client(live.url) as client:
        wait_until(lambda: client.explain(reply["id"]).finished, 10, "the selector has heard of both ends")
        found = client.explain(reply["id"])
        assert reply["id"] in {item.id for item in client.requests(50).requests}
    assert [choice.index for choice in found.choices] == [0, 1]
    rounds = [entry for choice in found.choices for entry in choice.rounds]
    assert len(rounds) == reply["metrics"]["speculative_decoding"]["rounds"]
    assert sum(entry.committed - entry.start for entry in rounds) == reply["usage"]["completion_tokens"]
    assert sum(entry.accepted for entry in rounds) == reply["metrics"]["speculative_decoding"]["accepted_tokens"]
    for choice in found.choices:
        assert (choice.drafters, choice.route, choice.rounds_lost) == (["suffix"], "team", 0)
    for entry in rounds:
        assert entry.drafter in {"", "suffix"}
        assert entry.weights is not None
        assert max(entry.weights, key=entry.weights.__getitem__) == "suffix"
        assert entry.round_ms > 0
        assert entry.text is None
        assert entry.token_ids == []
    scored = [entry for entry in rounds if "suffix" in entry.gammas]
    assert len(scored) > len(rounds) // 2
    console = Console(file=StringIO(), record=True)
    assert explain(live.url, reply["id"], console) == 0
    assert console.export_text().count("followed by suffix alone") == 2
    unknown = httpx.get(f"{live.url}/v1/paceline/requests/chatcmpl-none", timeout=10)
    assert unknown.status_code == 404
    assert "'chatcmpl-none'" in unknown.json()["error"]["message"]


def test_a_replay_of_the_drafter_that_played_tells_its_tokens_per_round(live: ServedProcess, tmp_path: Path) -> None:
    live.wait_for_drafters(set(DRAFTERS), 60)
    path = tmp_path / "recorded.parquet"
    recorder = threading.Thread(target=record, args=(live.url, path), kwargs={"seconds": None, "requests": 8})
    recorder.start()
    wait_until(lambda: path.with_name(path.name + ".part").exists(), 30, "the recording began")
    measured: dict[str, list[tuple[int, int]]] = {"ngram": [], "suffix": []}
    for prompt in 2 * prompts()[5:7]:  # twice, since `suffix` drafts from earlier answers
        for drafter, figures in measured.items():
            reply = ask(live, prompt, max_tokens=64, paceline={"drafter": drafter})
            rounds = reply["metrics"]["speculative_decoding"]["rounds"]
            figures.append((reply["usage"]["completion_tokens"], rounds))
    recorder.join(timeout=60)
    sequences, about = read_recording(path)
    assert (len(sequences), about["requests_lost"]) == (8, 0)
    lines = Console(width=120)
    for drafter, figures in measured.items():
        mine = [sequence for sequence in sequences if sequence.allowed == (drafter,)]
        assert [sum(entry.tokens for entry in item.rounds) for item in mine] == [tokens for tokens, _ in figures]
        result = run_replay(mine, [f"fixed:{drafter}"], length="recorded")
        predicted = result.policies[0].tokens_per_round
        real = sum(tokens for tokens, _ in figures) / sum(rounds for _, rounds in figures)
        lines.print(f"{drafter}: {predicted:.3f} tokens per round predicted, {real:.3f} measured")
        lines.print(prediction_table(result.predictions))
        assert result.predictions, f"{drafter} drafted nothing"
        assert predicted == pytest.approx(real, rel=BOUND)
        accepted = sum(tokens - rounds for tokens, rounds in figures)
        expected = sum(result.policies[0].tokens) - sum(result.policies[0].rounds)
        assert accepted > 0
        assert expected == pytest.approx(accepted, rel=ACCEPTED_BOUND, abs=3)
