"""What `paceline train` is fed: prompt files, the questions made of them, the answers kept, the layers it reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paceline.actors.errors import ConfigError
from paceline.cluster.training.answer_store import Answer, AnswerStore
from paceline.cluster.training.data_stages import Asked, questions, questions_hash
from paceline.cluster.training.head_start import feature_layers
from paceline.cluster.training.prompt_file import read_prompts
from paceline.cluster.training.train_settings import DataSettings


def test_answers_outlive_a_write_that_was_cut(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "answers.jsonl")
    answers = [Answer(index, "math", 0.0, [1, 2], [3, 4, 5], False) for index in range(3)]
    assert list(store.read()) == []
    store.append(answers[:2])
    with store.path.open("ab") as file:
        file.write(b'{"index": 2, "dom')
    assert list(store.read()) == answers[:2]
    store.append(answers[2:])
    assert list(store.read()) == answers
    store.path.write_text("nonsense\n" + store.path.read_text())
    with pytest.raises(ConfigError, match=r"answers.jsonl:1"):
        list(store.read())


def test_prompt_files_are_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "math" / "train.jsonl"
    path.parent.mkdir()
    path.write_text('{"prompt": "one"}\n\n{"domain": "code", "prompt": "two"}\n{"category": "c", "turns": ["three"]}\n')
    assert [(prompt.domain, prompt.text) for prompt in read_prompts(path)] == [
        ("math", "one"),
        ("code", "two"),
        ("c", "three"),
    ]
    for damage, told in (
        ("nonsense", ":2"),
        ('{"prompt": 3}', "prompt: expected text"),
        ('{"prompt": " "}', "prompt: expected text"),
        ("[1]", ":2"),
        ('{"turns": []}', ":2"),
        ('{"prompt": "a\x01"}', ":2"),
    ):
        path.write_text('{"prompt": "one"}\n' + damage + "\n")
        with pytest.raises(ConfigError, match=told):
            read_prompts(path)
    path.write_text("\n")
    with pytest.raises(ConfigError, match="holds no prompts"):
        read_prompts(path)
    with pytest.raises(ConfigError, match="nowhere"):
        read_prompts(tmp_path / "nowhere.jsonl")
    (tmp_path / "x.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(ConfigError, match=r"x\.jsonl\.gz"):
        read_prompts(tmp_path / "x.jsonl.gz")


def test_a_data_folder_is_not_mixed_up(tmp_path: Path) -> None:
    DataSettings(prompts=("a",), max_tokens=10).claim(tmp_path / "data", "one")
    DataSettings(prompts=("a",), max_tokens=10).claim(tmp_path / "data", "one")
    with pytest.raises(ConfigError, match="max_tokens=10"):
        DataSettings(prompts=("a",), max_tokens=20).claim(tmp_path / "data", "one")
    with pytest.raises(ConfigError, match="questions='one'"):
        DataSettings(prompts=("a",), max_tokens=10).claim(tmp_path / "data", "other")


class Letters:
    """As many tokens as letters."""

    def apply_chat(self, messages: list[dict[str, str]]) -> list[int]:
        return [ord(letter) for letter in messages[0]["content"]]


def asked(folder: Path, train: list[str], test: list[str], **settings: Any) -> tuple[Asked, Asked]:
    files = {}
    for name, texts in (("train", train), ("test", test)):
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps({"domain": "d", "prompt": text}) + "\n" for text in texts))
    data = DataSettings(prompts=(str(files["train"]),), test_prompts=(str(files["test"]),), **settings)
    return questions(data, Letters())  # type: ignore[arg-type]


def test_what_is_measured_on_is_not_trained_on(tmp_path: Path) -> None:
    train, test = asked(tmp_path, ["One  two", "three", "four"], ["ONE two ", "five"])
    assert sorted(len(question.prompt_ids) for question in train.questions) == [4, 5]
    assert (train.repeated, train.too_long, test.repeated, len(test.questions)) == (1, 0, 0, 2)
    again = asked(tmp_path, ["One  two", "three", "four"], ["ONE two ", "five"])
    assert questions_hash(train, test) == questions_hash(*again)
    assert questions_hash(train, test) != questions_hash(*asked(tmp_path, ["three", "fore"], ["ONE two ", "five"]))
    with pytest.raises(ConfigError, match=r"prompts: no prompt is left.* 1 are also among those to measure on"):
        asked(tmp_path, ["one"], ["ONE"])


def test_without_test_prompts_one_in_ten_is_held_out(tmp_path: Path) -> None:
    texts = [f"prompt {number}" for number in range(40)]
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine" / "prompts.txt"
    file.write_text("\n".join([*texts, "", "  Prompt 7 "]) + "\n")
    assert [prompt.text for prompt in read_prompts(file)] == [*texts, "Prompt 7"]
    train, test = questions(DataSettings(prompts=(str(file),)), Letters())  # type: ignore[arg-type]
    asked_ids = ["".join(map(chr, question.prompt_ids)).lower() for question in train.questions]
    held_ids = ["".join(map(chr, question.prompt_ids)).lower() for question in test.questions]
    assert len(held_ids) == 4
    assert {question.domain for question in [*train.questions, *test.questions]} == {"mine"}
    assert not set(asked_ids) & set(held_ids)
    assert set(asked_ids) | set(held_ids) == set(texts)
    file.write_text("only one\n")
    with pytest.raises(ConfigError, match="no prompt is left"):
        questions(DataSettings(prompts=(str(file),)), Letters())  # type: ignore[arg-type]


def test_a_prompt_that_is_too_long_makes_room_for_the_next(tmp_path: Path) -> None:
    texts = ["x" * length for length in (1, 2, 3, 4, 50, 60, 70)]
    train, _ = asked(tmp_path, texts, ["y"], answers=4, max_prompt=10, temperatures=(0.0, 1.0))
    assert sorted(len(question.prompt_ids) for question in train.questions) == [1, 2, 3, 4]
    assert [question.temperature for question in train.questions] == [0.0, 1.0, 0.0, 1.0]
    assert 0 < train.too_long <= 3
    assert len({question.index for question in train.questions}) == 4


@pytest.mark.parametrize(("last", "layers"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (30, (10, 20, 30))])
def test_default_feature_layers_are_the_targets_own(last: int, layers: tuple[int, ...]) -> None:
    assert feature_layers((), last) == layers


@pytest.mark.parametrize("given", [(3, 2, 30), (0, 30), (-1, 30), (3, 29), (3, 3, 30), (3, 31)])
def test_feature_layers_that_the_target_lacks_are_refused(given: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="feature_layers: expected"):
        feature_layers(given, 30)
