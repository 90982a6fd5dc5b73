"""The GPU benchmark's dry run: every section, from a folder of links where paceline is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "bench_gpu.py"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_the_dry_run_does_everything_and_keeps_it(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = run("--dry-run", "--out", str(out))
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert json.loads(out.read_text()) == line
    assert line["dry_run"] is True
    kernels = {row["kernel"] for row in line["kernels"]}
    assert {"sampling filters, both", "verification of chains", "overlap", "paged attention", "compaction"} <= kernels
    assert [(row["batch"], row["positions"]) for row in line["steps"]] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert all(row["step/floor"] > 0 for row in line["steps"])
    assert [(row["batch"], row["drafter"]) for row in line["rounds"]] == [
        (1, "plain"),
        (1, "ngram"),
        (2, "plain"),
        (2, "ngram"),
    ]
    assert all(0 < row["overhead"] < 1 for row in line["rounds"])
    texts = {row["system"]: row for row in line["texts"]}
    assert len(texts) == 7
    for name, row in texts.items():  # float32: greedy text is the same whoever drafts it, transformers' included
        assert row["answers as plain"] == "2 of 2", name


def test_what_is_missing_is_said_before_anything_is_measured() -> None:
    done = run("--only", "kernels", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "no CUDA device is present" in done.stderr
