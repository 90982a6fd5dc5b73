"""What a configuration says of the engine reaches it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from paceline.actors import drafter_registry
from paceline.cluster.config import parse_config
from paceline.cluster.engine_limits import engine_limits, feature_layers

POSITIONS = 4096


@pytest.mark.parametrize(
    ("section", "option", "value", "limit"),
    [
        ("target", "max_sequences", 3, "max_sequences"),
        ("target", "max_tokens_in_flight", 999, "max_tokens_in_flight"),
        ("target", "max_queue", 0, "max_queue"),
        ("target", "max_context", 100, "max_context"),
        ("target", "max_prefill_tokens", 17, "max_prefill"),
        ("speculation", "max_draft", 3, "max_draft"),
        ("speculation", "draft_length", "longest", "draft_length"),
        ("speculation", "evaluation_share", 0.5, "evaluation_share"),
    ],
)
def test_each_option_sets_one_limit(section: str, option: str, value: Any, limit: str) -> None:
    usual = asdict(engine_limits(parse_config({}), POSITIONS))
    changed = asdict(engine_limits(parse_config({section: {option: value}}), POSITIONS))
    assert {name for name in usual if usual[name] != changed[name]} == {limit}
    assert changed[limit] == value


def test_the_context_is_never_longer_than_the_models() -> None:
    assert engine_limits(parse_config({}), POSITIONS).max_context == POSITIONS
    assert engine_limits(parse_config({"target": {"max_context": 10**6}}), POSITIONS).max_context == POSITIONS


def test_the_target_keeps_the_features_that_any_drafter_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    drafters = [
        {"name": "a", "kind": "ngram", "options": {"max_ngram": 7}},
        {"name": "b", "kind": "suffix"},
        {"name": "c", "kind": "early_exit", "options": {"layers": 3}},
        {"name": "d", "kind": "lm", "options": {"model": "somewhere"}},
    ]
    config = parse_config({"drafters": drafters})
    assert feature_layers(config) == ()
    needs = {"ngram": lambda options: (1, options.max_ngram), "early_exit": lambda options: (1, options.layers)}
    monkeypatch.setattr(drafter_registry, "_FEATURES", needs)
    assert feature_layers(config) == (1, 3, 7)


def test_a_head_that_cannot_be_read_does_not_keep_the_target_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drafters = [{"name": "broken", "kind": "head", "options": {"model": str(tmp_path / "nowhere")}}]
    assert feature_layers(parse_config({"drafters": drafters})) == ()
    assert "drafter broken" in caplog.text


def test_layers_for_heads_added_later_are_kept_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafter_registry, "_FEATURES", {"ngram": lambda _: (2, 7)})
    drafters = [{"name": "a", "kind": "ngram"}]
    assert feature_layers(parse_config({"drafters": drafters, "target": {"feature_layers": [5, 2]}})) == (2, 5, 7)
