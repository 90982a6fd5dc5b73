"""`paceline train` from the command line, on the embedded model: a few prompts, three steps, a head that drafts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from paceline.actors.drafter_registry import DrafterContext, build_drafter, features_needed
from paceline.actors.messages import Open, Propose
from paceline.actors.model_source import resolve
from paceline.actors.sampling import Sampling
from paceline.cluster import cli

PROMPTS = {"rivers": ["Name a river.", "Where does the Nile end?", "How long is the Rhine?"], "sums": ["Add 3 and 4."]}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("prompts")
    paths = {}
    for split in ("train", "test"):
        paths[split] = folder / f"{split}.jsonl"
        lines = [{"domain": domain, "prompt": text} for domain, texts in PROMPTS.items() for text in texts]
        paths[split].write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


def arguments(files: dict[str, Path], output: Path, data: Path, *more: str) -> list[str]:
    return [
        *("train", str(output), "--prompts", str(files["train"]), "--test", str(files["test"]), "--data", str(data)),
        *("--max-tokens", "24", "--steps", "3", "--batch-tokens", "128", "--levels", "2", "--draft-vocab", "300"),
        *("--test-answers", "1", "--source", "written for this test (Apache-2.0)", *more),
    ]


def test_a_head_is_trained_exported_and_drafts(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = tmp_path / "data", tmp_path / "rivers"
    assert cli.main(arguments(files, output, data)) == 0
    assert "kind: head" in capsys.readouterr().out
    assert sorted(path.name for path in output.iterdir()) == [
        "README.md",
        "head.json",
        "head.safetensors",
        "training.png",
    ]
    card = (output / "README.md").read_text()
    assert "written for this test (Apache-2.0)" in card
    assert "| rivers |" in card
    assert "| sums |" in card
    assert (output / "training.png").read_bytes().startswith(b"\x89PNG")
    assert features_needed("head", {"model": str(output)}) == (10, 20, 30)

    target = resolve("embedded").path
    context = DrafterContext(target, 49152, threads=torch.get_num_threads())
    drafter = build_drafter("head", {"model": str(output)}, context)
    assert drafter.features is not None
    rows = torch.randn(9, 3 * 576).bfloat16().view(torch.int16).numpy().view("uint16")
    drafter.open([Open(1, list(range(10)), Sampling(), rows)])
    assert len(drafter.propose([Propose(1, 10, 4)])[0].tokens) == 4

    # the same command again has nothing to do; an expert uses the same data
    made = {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()}
    assert cli.main(arguments(files, output, data)) == 0
    expert = tmp_path / "expert"
    assert cli.main(arguments(files, expert, data, "--domain", "rivers", "--expert-of", str(output))) == 0
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()} == made
    assert "starting from `rivers`" in (expert / "README.md").read_text()

    capsys.readouterr()
    for more, told in (
        (("--domain", "chess"), "chess: not in the data, which has rivers, sums"),
        (("--max-prompt", "7"), "max_prompt=640"),
    ):
        assert cli.main(arguments(files, tmp_path / "none", data, *more)) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--steps", "0"), "steps"),
        (("--layers", "3", "2", "30"), "feature_layers"),
        (("--layers", "3", "29"), "feature_layers"),
        (("--max-prompt", "3"), "max-prompt"),
        (("--temperatures", "-1"), "temperatures"),
        (("--device", "abacus"), "device"),
        (("--target", "/nowhere"), "nowhere"),
    ],
)
def test_bad_arguments_are_refused_by_name(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], told: str
) -> None:
    assert cli.main(arguments(files, tmp_path / "head", tmp_path / "data", *more)) == 2
    assert told in capsys.readouterr().err


def test_an_empty_file_is_refused_by_name(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert cli.main(arguments(files | {"train": empty}, tmp_path / "head", tmp_path / "data")) == 2
    assert "empty.jsonl: holds no prompts" in capsys.readouterr().err
