"""`paceline train` from the command line, on the embedded model: a few prompts, three steps, a head that drafts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from paceline.actors.drafter_registry import DrafterContext, build_drafter, features_needed
from paceline.actors.messages import Open, Propose
from paceline.actors.model_source import resolve
from paceline.actors.sampling import Sampling
from paceline.cluster import cli

PROMPTS = {
    "train": {
        "rivers": ["Name a river.", "Where does the Nile end?", "How long is the Rhine?"],
        "sums": ["Add 3 and 4."],
    },
    "test": {"rivers": ["WHERE does  the Nile end?"], "sums": ["Add 5 and 6."]},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("prompts")
    paths = {}
    for split, prompts in PROMPTS.items():
        paths[split] = folder / f"{split}.jsonl"
        lines = [{"domain": domain, "prompt": text} for domain, texts in prompts.items() for text in texts]
        paths[split].write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


def arguments(files: dict[str, Path], output: Path, data: Path, *more: str) -> list[str]:
    return [
        *("train", str(output), "--prompts", str(files["train"]), "--test", str(files["test"]), "--data", str(data)),
        *("--max-tokens", "24", "--steps", "3", "--batch-tokens", "128", "--levels", "2", "--test-answers", "1"),
        *(
            "--temperatures",
            "0.7",
            "--source",
            "written for this test (Apache-2.0)",
            *(more or ("--draft-vocab", "300")),
        ),
    ]


def test_a_head_is_trained_exported_and_drafts(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = tmp_path / "data", tmp_path / "rivers"
    assert cli.main(arguments(files, output, data)) == 0
    printed = capsys.readouterr().out
    assert "kind: head" in printed
    assert "prompts: 1 are also among the test prompts" in printed
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
    assert "(0% of the answers greedy" in card
    assert "- Steps: 3," in card
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
    assert (output / "README.md").read_text() == card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "rivers", "rivers.training"]
    expert = tmp_path / "expert"
    assert cli.main(arguments(files, expert, data, "--domain", "rivers", "--expert-of", str(output))) == 0
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file()} == made
    card = (expert / "README.md").read_text()
    assert "starting from `rivers`" in card
    assert re.search(r"\| domain \| greedy \| `rivers` \|\n\|---\|---\|---\|\n\| rivers \| 1\.\d\d \| 1\.\d\d \|", card)
    assert f"paceline drafters add name=expert kind=head options.model={expert}" in capsys.readouterr().out

    capsys.readouterr()
    for more, told in (
        (("--domain", "chess"), "chess: not in the data, which has rivers, sums"),
        (("--max-prompt", "600"), "max_prompt=640"),
    ):
        assert cli.main(arguments(files, tmp_path / "none", data, *more)) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--steps", "0"), "steps"),
        (("--inner", "0"), "inner"),
        (("--learning-rate", "inf"), "learning_rate"),
        (("--learning-rate", "nan"), "learning_rate"),
        (("--temperatures", "0", "nan"), "temperatures"),
        (("--expert-of", "head", "--window", "9"), "window: got 9 beside expert_of"),
        (("--expert-of", "/nowhere/head"), "/nowhere/head"),
        (("--max-prompt", "8180"), "max_prompt, max_tokens: 8180 + 24"),
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


@pytest.mark.parametrize("output", [".", "..", "/"])
def test_an_output_without_a_name_is_refused(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str], output: str
) -> None:
    command = ["train", output, "--prompts", str(files["train"]), "--test", str(files["test"])]
    assert cli.main(command) == 2
    assert f"output: expected a folder with a name of its own, got '{output}'" in capsys.readouterr().err


def test_what_cannot_be_written_is_named(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("paceline.cluster.training.answer_store.AnswerStore.append", full)
    assert cli.main(arguments(files, tmp_path / "head", tmp_path / "data")) == 2
    assert f"{tmp_path / 'data'}: No space left on device; see to free space" in capsys.readouterr().err


def test_an_empty_file_is_refused_by_name(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert cli.main(arguments(files | {"train": empty}, tmp_path / "head", tmp_path / "data")) == 2
    assert "empty.jsonl: holds no prompts" in capsys.readouterr().err
