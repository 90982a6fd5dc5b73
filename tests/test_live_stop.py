"""A real cluster of its own that is short of memory, and is stopped while text streams."""

from __future__ import annotations

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from live_cluster import ask, body, prompts, text_of, wait_until

from paceline.cluster.selector_state import read_state
from paceline.cluster.served_process import ServedProcess

pytestmark = pytest.mark.cluster

PREEMPTIONS = re.compile(r"^paceline_num_preemptions_total\S* (\S+)$", re.MULTILINE)


def test_memory_runs_out_nothing_is_lost_and_sigterm_is_told_to_whoever_reads(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    document = {
        "target": {"dtype": "float32", "max_context": 400, "max_tokens_in_flight": 400, "prefix_cache_tokens": 256},
        "drafters": [{"name": "ngram", "kind": "ngram"}],
        "selector": {"state_file": str(state), "state_interval_s": 3600},
        "http": {"drain_s": 0.5},
        "metrics": {"interval_s": 0.5},
    }
    with ServedProcess(document) as served:
        asked = prompts()[:4]
        wanted = {"max_tokens": 150, "ignore_eos": True}
        alone = [text_of(ask(served, prompt, **wanted)) for prompt in asked]
        with ThreadPoolExecutor(len(asked)) as pool:
            together = list(pool.map(lambda prompt: text_of(ask(served, prompt, **wanted)), asked))
        assert together == alone

        def preempted() -> bool:
            found = PREEMPTIONS.search(httpx.get(f"{served.url}/metrics").text)
            return found is not None and float(found[1]) > 0

        wait_until(preempted, 20, "preemptions were counted")

        request = body(served, asked[0], stream=True, max_tokens=300, ignore_eos=True)
        with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=request, timeout=60) as reply:
            lines = (line.removeprefix("data: ") for line in reply.iter_lines() if line)
            assert json.loads(next(lines))["choices"]
            os.kill(served.pid, signal.SIGTERM)
            *_, error, done = lines
        assert json.loads(error)["error"]["code"] == "not_ready"
        assert done == "[DONE]"
        psutil.Process(served.pid).wait(60)  # another signal would force it
        kept = read_state(state)
        assert kept is not None, "what was learned is saved, though its time had not come"
        assert kept.drafters["ngram"].rounds > 0
