"""What the documents say: links lead somewhere, settings are the newest, commands and configurations are accepted."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from paceline.actors.errors import ConfigError
from paceline.cluster import cli, settings_table
from paceline.cluster.config import parse_config

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_accepted(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in snippets(page, "bash"):
        for line in text.replace("\\\n", " ").splitlines():
            if line.startswith("paceline "):
                words = shlex.split(line, comments=True)
                try:
                    cli.parser().parse_args(words[1:])
                except SystemExit:
                    pytest.fail(f"{page.name}: {line}\n{capsys.readouterr().err}")
