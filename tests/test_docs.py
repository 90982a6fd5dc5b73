"""What the documents say: links lead somewhere, settings are the newest, commands and configurations are accepted."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path

import pytest
import yaml

from paceline.actors.errors import ConfigError
from paceline.cluster import cli, settings_table
from paceline.cluster.config import parse_config
from paceline.cluster.drafters_command import described

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def snippets(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [text for kind, text in _FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def test_the_settings_are_the_newest(tmp_path: Path) -> None:
    page = ROOT / "docs" / "configuration.md"
    assert settings_table.main([str(page), "--check"]) == 0, "python -m paceline.cluster.settings_table docs/..."
    old = tmp_path / "old.md"
    old.write_text(page.read_text(encoding="utf-8").replace("sequences decoded together", "something else"))
    assert settings_table.main([str(old), "--check"]) == 1
    assert settings_table.main([str(old)]) == 0
    assert old.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
    old.write_text("no marks")
    with pytest.raises(ConfigError, match="the document has no"):
        settings_table.main([str(old)])


def test_every_setting_has_its_line() -> None:
    made = settings_table.table()
    for line in (
        "| `max_draft` | whole number, at least 1, at most 64 | `7` |",
        "| `draft_length` | `learned` or `measured` or `longest` | `learned` |",
        "| `dtype` | `float32` or `bfloat16` or `float16` | `bfloat16` |",
        "| `deadline_ms` | number, more than 0, at most 60000 | `250.0` |",
        "### `options` of kind `suffix`",
        "| `memory_tokens` | whole number, at least 0, at most 10000000 | `65536` |",
    ):
        assert line in made


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configurations_are_accepted(page: Path) -> None:
    for text in snippets(page, "yaml"):
        document = yaml.safe_load(text)
        if isinstance(document, list):
            document = {"drafters": document}
        if {"target", "drafters", "speculation", "selector", "http", "network"} & set(document):
            parse_config(document, page.name)


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of every command in a page's blocks."""
    for text in snippets(page, "bash"):
        begun = ""
        for line in text.replace("\\\n", " ").splitlines():
            begun += line
            try:
                words = shlex.split(begun, comments=True)
            except ValueError:  # a quotation that goes on in the next line
                begun += "\n"
                continue
            begun = ""
            yield list(dropwhile(re.compile("[A-Z_]+=").match, words))  # of what is set for it alone
        assert not begun, f"{page.name}: {begun}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_accepted(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in command_lines(page):
        if words[:1] != ["paceline"]:
            continue
        try:
            parsed = cli.parser().parse_args(words[1:])
        except SystemExit:
            pytest.fail(f"{page.name}: {words}\n{capsys.readouterr().err}")
        if words[1:3] == ["drafters", "add"]:
            assert described(parsed.drafter)["name"]


def options_of(script: Path) -> dict[str, ast.Call]:
    """The calls of `add_argument` that a script makes, by name; read, not run, since most load half a cluster."""
    found = {}
    for call in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            found |= {name.value: call for name in call.args if isinstance(name, ast.Constant)}
        elif isinstance(call.func, ast.Name) and call.func.id == "add_out":
            found |= options_of(ROOT / "benchmarks" / "result_file.py")
    return found


def unknown(script: Path, words: list[str]) -> set[str]:
    """Options that a script does not have; values that begin with a dash are not written in our documents."""
    return {word.partition("=")[0] for word in words if word.startswith("-")} - set(options_of(script))


def missing(script: Path, words: list[str]) -> set[str]:
    """Options that a script cannot do without, and that are not given."""
    return {
        name
        for name, call in options_of(script).items()
        if any(given.arg == "required" and ast.literal_eval(given.value) for given in call.keywords)
    } - set(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_take_the_options_with_which_they_are_written(page: Path) -> None:
    for words in command_lines(page):
        if words and words[0].endswith("python") and words[1].endswith(".py"):
            script = ROOT / words[1]
            assert not unknown(script, words[2:]) | missing(script, words[2:]), words
    if page.name == "decisions.md":
        return  # it says what was run at its date
    for name, words in re.findall(r"`((?:benchmarks|deploy)/\w+\.py)\s([^`]+)`", page.read_text(encoding="utf-8")):
        assert not unknown(ROOT / name, words.split()), f"{name} {words}"


def test_an_option_that_a_script_lacks_is_found() -> None:
    script = ROOT / "benchmarks" / "bench_router.py"
    assert missing(script, ["--prompts", "FILE"]) == {"--train"}
    assert unknown(script, ["--train", "FILE", "--out=x", "--no-such-option"]) == {"--no-such-option", "--out"}
    assert "--out" in options_of(ROOT / "benchmarks" / "bench_serve.py"), "which `add_out` gives it"


_OWN = r"(?:actors|benchmarks|cluster|deploy|docs|kernels|protos|tests|zoo)/[\w./-]+"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    """In commands, also where `ray up` brings them to; elsewhere in code spans."""
    commands = "\n".join(snippets(page, "bash"))
    named = set(re.findall(rf"(?<![\w./-])(?:~/paceline/)?({_OWN})", commands))
    if page.name != "decisions.md":  # which says what there was at its date
        named |= set(re.findall(rf"`({_OWN})[^`]*`", page.read_text(encoding="utf-8")))
    assert not [path for path in named if not (ROOT / path).exists()]
