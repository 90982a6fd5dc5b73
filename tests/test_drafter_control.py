"""Before a drafter is added: every wrong field is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paceline.actors.errors import Conflict, RequestError
from paceline.cluster.config import DrafterConfig
from paceline.cluster.drafter_control import check_drafter
from paceline.cluster.roster import Roster, RosterEntry

ZOO = Path(__file__).resolve().parent.parent / "zoo" / "generalist"
LAYERS = tuple(json.loads((ZOO / "head.json").read_text())["feature_layers"])


def check(layers: tuple[int, ...] = (), **fields: Any) -> DrafterConfig:
    return check_drafter(fields, ("taken",), layers)


def test_what_is_right_is_taken_whole() -> None:
    found = check(name="new", kind="suffix", replicas=2, options={"min_match": 3}, resources={"num_cpus": 0.5})
    assert (found.name, found.replicas, found.options, found.resources.num_cpus) == ("new", 2, {"min_match": 3}, 0.5)
    assert check(LAYERS, name="new", kind="head", options={"model": str(ZOO)}).kind == "head"
    assert check(name="new", kind="lm", options={"model": "org/some-model"}).kind == "lm", "a hub id is no folder"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"kind": "ngram"}, "name", "Field required"),
        ({"name": "a"}, "kind", "Field required"),
        ({"name": "A b", "kind": "ngram"}, "name", "pattern"),
        ({"name": "a/1", "kind": "ngram"}, "name", "pattern"),
        ({"name": "plain", "kind": "ngram"}, "name", "one of paceline's own"),
        ({"name": "a", "kind": "magic"}, "kind", "'magic' is not a drafter kind; there are ngram"),
        ({"name": "a", "kind": "ngram", "colour": 1}, "colour", "Extra inputs"),
        ({"name": "a", "kind": "ngram", "replicas": 0}, "replicas", "greater than or equal to 1 (got 0)"),
        ({"name": "a", "kind": "ngram", "replicas": True}, "replicas", "got True"),
        ({"name": "a", "kind": "ngram", "replicas": "2"}, "replicas", "got '2'; expected a whole number"),
        ({"name": "a", "kind": "ngram", "threads": 1.0}, "threads", "got 1.0; expected a whole number"),
        ({"name": "a", "kind": "ngram", "resources": {"num_cpus": "1"}}, "resources.num_cpus", "expected a number"),
        ({"name": "a", "kind": "lm", "device": "gpu"}, "device", "expected cpu, cuda or cuda:N (got 'gpu')"),
        ({"name": "a", "kind": "ngram", "device": "cuda"}, "device", "expected cpu, since kind ngram runs no model"),
        ({"name": "a", "kind": "ngram", "options": {"depth": 1}}, "options.depth", "no such option"),
        ({"name": "a", "kind": "ngram", "options": {"min_ngram": 0}}, "options.min_ngram", "expected 1 to 32"),
        ({"name": "a", "kind": "ngram", "resources": {"num_gpus": -1}}, "resources.num_gpus", "(got -1)"),
        ({"name": "a", "kind": "head"}, "options.model", "is needed"),
        ({"name": "a", "kind": "head", "options": {"model": "zoo/x"}}, "options.model", "not a folder of the server"),
        ({"name": "a", "kind": "retrieval", "options": {"model": "/no/where"}}, "options.model", "not a folder"),
        ({"name": "a", "kind": "lm", "options": {"model": "./here"}}, "options.model", "not a folder"),
        ({"name": "a", "kind": "lm", "options": {"model": "/no\0where"}}, "options.model", "not a folder"),
    ],
)
def test_wrong_fields_are_refused_by_name(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(RequestError) as refused:
        check(**fields)
    assert refused.value.http_status == 400
    assert refused.value.param == param
    assert words in str(refused.value)


def test_a_taken_name_is_a_conflict() -> None:
    with pytest.raises(Conflict, match="'taken' already") as refused:
        check(name="taken", kind="ngram")
    assert (refused.value.http_status, refused.value.param) == (409, "name")


def test_a_folder_without_a_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"head\.json") as refused:
        check(name="a", kind="head", options={"model": str(tmp_path)})
    assert refused.value.param == "options.model"


def test_a_head_whose_features_the_target_does_not_keep_is_refused() -> None:
    for kept in ((), LAYERS[1:]):
        with pytest.raises(RequestError, match=r"target\.feature_layers") as refused:
            check(kept, name="a", kind="head", options={"model": str(ZOO)})
        assert refused.value.param == "options.model"
        assert str(list(LAYERS)) in str(refused.value)


def test_a_roster_keeps_order_and_never_gives_a_number_twice() -> None:
    def drafter(name: str) -> DrafterConfig:
        return DrafterConfig(name=name, kind="ngram")

    roster = Roster.of((drafter("a"), drafter("b")))
    roster = roster.with_added(RosterEntry(config=drafter("c"), number=1))
    roster = roster.with_draining("b").without("a")
    assert roster.names == ("b", "c")
    assert roster.draining == {"b": True, "c": False}
    assert roster.without("c").added == 1, "a drafter added next is another one than the one that left"
    assert roster.find("a") is None
    assert Roster.model_validate_json(roster.model_dump_json()) == roster
