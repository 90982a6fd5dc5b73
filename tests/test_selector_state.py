"""What outlives the selector: statistics, priors and fits by drafters' names. And files that are not what they seem."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from paceline.actors.messages import (
    DrafterStatistics,
    DraftTiming,
    Heartbeat,
    Score,
    SelectorSnapshot,
    SequenceOpened,
    SequenceRound,
    TargetReport,
)
from paceline.actors.prompt_sketch import features, sketch
from paceline.cluster.config import SelectorConfig, SpeculationConfig, load_config
from paceline.cluster.selector import Selector
from paceline.cluster.selector_server import SelectorServer
from paceline.cluster.selector_state import BrokenState, NewerState, read_state, unpacked, write_state
from paceline.cluster.state_keeper import StateKeeper

K, C = 4, 3


class Life:
    """One life of a selector, with two targets."""

    def __init__(
        self, *drafters: str, lengths: Literal["measured", "learned"] = "measured", most: int = K, **settings: object
    ) -> None:
        config = SelectorConfig.model_validate({"loss": "eal", **settings})
        speculation = SpeculationConfig(max_draft=most, catch_up_tokens=C, draft_length=lengths)
        self.selector = Selector(config, speculation, 1.0, lambda: 0.0)
        self.join(*drafters)
        self.targets = [self.selector.connect("t0"), self.selector.connect("t1")]

    def join(self, *drafters: str) -> None:
        for name in drafters:
            self.selector.register(Heartbeat(name, "ngram", "h:1"))

    def traffic(
        self,
        seq: int,
        gammas: dict[str, float],
        *,
        rounds: int = 30,
        target: int = 0,
        route: str = "",
        sketched: bytes = b"",
    ) -> None:
        """A whole request, at whose positions drafters have these acceptances."""
        connection = self.targets[target]
        self.selector.report(connection, TargetReport("t", opened=[SequenceOpened(seq, 10, route, sketch=sketched)]))
        for number in range(rounds):
            start = 10 + 3 * number
            for name, gamma in gammas.items():
                self.selector.scores(name, [Score(seq, start, np.full(3, gamma, dtype=np.float32))])
            told = SequenceRound(seq, start + 3, "a", K, 2)
            timing = [DraftTiming("a", 1, K, 2.0)]
            news = TargetReport("t", rounds=[told], drafts=timing, verify_ms=20.0, verify_tokens=K + 1)
            self.selector.report(connection, news)
        self.selector.report(connection, TargetReport("t", closed=[seq]))

    def start(self, seq: int, route: str = "", target: int = 0) -> dict[str, float]:
        """The weights that a new sequence starts from."""
        connection = self.targets[target]
        self.selector.report(connection, TargetReport("t", opened=[SequenceOpened(seq, 10, route)]))
        update = self.selector.update(connection)
        assert update is not None
        return dict(zip(update.drafters, update.sequences[seq].tolist(), strict=True))


def figures(snapshot: SelectorSnapshot) -> dict[str, DrafterStatistics]:
    """Everything learned, by drafter."""
    return {item.drafter: item for item in snapshot.drafters}


@pytest.fixture
def taught() -> Life:
    life = Life("a", "b")
    life.traffic(1, {"a": 0.9, "b": 0.2}, rounds=12, route="team")
    life.traffic(2, {"a": 0.3, "b": 0.9})
    return life


def test_a_new_life_knows_what_the_old_one_did(taught: Life) -> None:
    later = Life()
    later.selector.restore(taught.selector.state())
    later.join("b", "a")  # in another order, and so with other columns
    assert figures(later.selector.snapshot()) == figures(taught.selector.snapshot())
    assert later.start(9) == pytest.approx(taught.start(9))
    assert later.start(8, "team") == pytest.approx(taught.start(8, "team"))
    assert later.start(9)["b"] > 0.9
    assert later.start(8, "team")["a"] > 0.9
    assert list(later.selector.state().positions) == ["", "team"]
    assert later.selector.state().positions == taught.selector.state().positions


def test_a_file_holds_all_of_it(taught: Life, tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.json"
    state = taught.selector.state()
    write_state(path, state)
    assert read_state(path) == state
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert read_state(tmp_path / "absent.json") is None


def test_drafters_that_do_not_come_are_kept_until_they_do(taught: Life) -> None:
    second = Life()
    second.selector.restore(taught.selector.state())
    second.join("a")
    second.traffic(3, {"a": 0.5})
    third = Life()
    third.selector.restore(second.selector.state())
    third.join("new", "b")
    shown = figures(third.selector.snapshot())
    before = figures(taught.selector.snapshot())
    assert shown["b"].gamma == before["b"].gamma
    assert shown["new"].scored == 0
    third.join("a")
    assert figures(third.selector.snapshot())["a"].gamma != before["a"].gamma


def test_routes_beyond_the_bound_are_those_used_longest_ago(taught: Life) -> None:
    state = taught.selector.state()
    many = [f"r{number}" for number in range(400)]
    regret = dict.fromkeys(["", *many], 1.0)
    grown = {name: item.model_copy(update={"regret": regret}) for name, item in state.drafters.items()}
    later = Life()
    later.selector.restore(state.model_copy(update={"positions": dict.fromkeys(["", *many], 9.0), "drafters": grown}))
    later.join("a", "b")
    assert list(later.selector.state().positions) == ["", *many[-256:]]


def test_two_targets_teach_one_selector() -> None:
    """A request on one target starts from what the other's taught, and statistics are over both."""
    life = Life("a", "b")
    life.traffic(1, {"a": 0.2, "b": 0.9}, target=0)
    assert life.start(2, target=1)["b"] > 0.9
    life.traffic(3, {"a": 0.4, "b": 0.5}, target=1)
    both = figures(life.selector.snapshot())
    assert both["b"].scored == 180
    assert both["a"].rounds == 60
    assert 0.6 < both["b"].gamma < 0.8
    assert life.start(4, target=1) == pytest.approx(life.start(5, target=0))
    life.selector.disconnect(life.targets[0])
    assert figures(life.selector.snapshot()) == both, "its lessons stay when it goes"


def test_what_prompts_foretell_outlives_it(tmp_path: Path) -> None:
    tokens = sketch([5, 6, 7])
    life = Life("a", "b", prompt_weight=1.0)
    life.traffic(1, {"a": 0.2, "b": 0.9}, sketched=tokens)
    write_state(tmp_path / "state.json", life.selector.state())
    state = read_state(tmp_path / "state.json")
    assert state is not None
    advantage = float(unpacked(state.drafters["b"].prompts) @ features(tokens))
    assert advantage > 0.02
    later = Life(prompt_weight=1.0)
    later.selector.restore(state)
    later.join("b", "a")
    assert later.selector.state() == life.selector.state().model_copy(update={"drafters": state.drafters})
    assert all(not item.prompts for item in Life("a", "b").selector.state().drafters.values())


def test_it_forgets_at_the_set_rate() -> None:
    found = {}
    for memory in (40, 4000):
        life = Life("a", "b", prior_memory=memory)
        life.traffic(1, {"a": 0.9, "b": 0.1}, rounds=60)
        life.traffic(2, {"a": 0.1, "b": 0.9}, rounds=30)
        found[memory] = life.start(3)["b"], life.selector.snapshot().drafters[1].gamma
    assert found[40][0] > 0.9
    assert found[4000][0] < 0.1, "twice as much spoke for the other"
    assert found[40][1] > 0.75 > 0.5 > found[4000][1]


def test_what_is_learned_under_a_policy_that_learns_nothing_is_kept() -> None:
    life = Life("a", "b", policy="uniform")
    life.traffic(1, {"a": 0.5})
    later = Life(policy="uniform")
    later.selector.restore(life.selector.state())
    later.join("a", "b")
    assert figures(later.selector.snapshot()) == figures(life.selector.snapshot())
    assert later.selector.state() == life.selector.state()


def test_a_life_that_does_not_learn_about_arms_keeps_what_is_known_of_them(tmp_path: Path) -> None:
    learned = Life("a", "b", "c", lengths="learned")
    learned.traffic(1, {"a": 0.5, "b": 0.9})
    path = tmp_path / "state.json"
    write_state(path, learned.selector.state())
    state = read_state(path)
    assert state is not None
    assert state.arms is not None
    measured = Life()
    measured.selector.restore(state)
    measured.join("b", "a", "new")
    measured.traffic(2, {"a": 0.7})
    later = measured.selector.state()
    assert later.arms == state.arms
    assert {name: item.arms for name, item in later.drafters.items()} == {
        **{name: item.arms for name, item in state.drafters.items()},
        "new": None,
    }


@pytest.mark.parametrize("most", [6, 7])
def test_a_drafter_that_was_away_while_lengths_changed_begins_anew(most: int) -> None:
    """Its priors are of other lengths than the rest of the state's: of fewer, or, which is no better, of as many."""
    old = Life("a", "b", lengths="learned", most=5)
    old.traffic(1, {"a": 0.5, "b": 0.9})
    state = old.selector.state()
    between = Life(lengths="learned", most=most)
    between.selector.restore(state)
    between.join("a")
    between.traffic(2, {"a": 0.5})
    written = between.selector.state()
    assert written.drafters["b"].arms == state.drafters["b"].arms
    later = Life(lengths="learned", most=most)
    later.selector.restore(written)
    later.join("a", "b", "new")
    came = later.selector.state().drafters
    ours = {name: item.arms for name, item in came.items()}
    assert ours["a"] is not None
    assert ours["b"] is not None
    assert ours["new"] is not None
    assert written.drafters["a"].arms is not None
    assert (ours["a"].rounds_alone, ours["a"].positions) == (
        written.drafters["a"].arms.rounds_alone,
        written.drafters["a"].arms.positions,
    )
    assert (ours["b"].rounds_alone, ours["b"].positions) == (ours["new"].rounds_alone, 0.0)
    assert ours["b"].lengths == ours["a"].lengths
    assert came["b"].gamma == old.selector.state().drafters["b"].gamma, "all else is taken back"


@pytest.mark.parametrize(("field", "value"), [("lengths", [1, 2]), ("rounds_alone", [1.0]), ("prior", None)])
def test_arms_of_other_lengths_than_they_say_are_broken(tmp_path: Path, field: str, value: object) -> None:
    life = Life("a", lengths="learned")
    life.traffic(1, {"a": 0.5})
    path = tmp_path / "state.json"
    write_state(path, life.selector.state())
    document = json.loads(path.read_text())
    arms = document["drafters"]["a"]["arms"]
    arms[field] = {"": arms["prior"][""] | {"alone": [1.0]}} if value is None else value
    path.write_text(json.dumps(document))
    with pytest.raises(BrokenState, match=r"drafters\.a\.arms: .*lengths"):
        read_state(path)


@pytest.mark.parametrize("version", [1, 2])
def test_of_earlier_versions_what_was_measured_and_counted_is_read(tmp_path: Path, version: int) -> None:
    """What they learned stands on another kind of mean."""
    life = Life("a", "b", lengths="learned")
    life.traffic(1, {"a": 0.5, "b": 0.9})
    path = tmp_path / "state.json"
    state = life.selector.state()
    write_state(path, state)
    assert read_state(path) == state
    document = json.loads(path.read_text())
    assert document["version"] == 3
    for kept in document["drafters"].values():
        del kept["starts"]
        kept["eal"] = [40.0, 20.0]
        if version == 1:
            del kept["arms"]
    path.write_text(json.dumps(document | {"version": version}))
    read = read_state(path)
    assert read is not None
    unlearned = {"starts": (0.0, 0.0), "regret": {}, "prompts": ""}
    for name, item in state.drafters.items():
        assert read.drafters[name].model_copy(update={"arms": item.arms}) == item.model_copy(update=unlearned)
        ours, theirs = read.drafters[name].arms, item.arms
        assert theirs is not None
        if version == 1:
            assert ours is None
        else:
            assert ours is not None
            assert (ours.truth, ours.wait_ms, ours.rounds) == (theirs.truth, theirs.wait_ms, theirs.rounds)
            assert (ours.lengths, ours.prior, ours.price) == ([], {}, [])
    assert read.positions == {}
    assert (read.verify_ms, read.loads, read.plain_rounds) == (state.verify_ms, state.loads, state.plain_rounds)
    assert read.arms is not None
    assert state.arms is not None
    assert read.arms.forward_ms == state.arms.forward_ms
    later = Life(lengths="learned")
    later.selector.restore(read)
    later.join("a", "b")
    assert [item.scored for item in later.selector.snapshot().drafters] == [
        item.scored for item in life.selector.snapshot().drafters
    ]


@pytest.mark.parametrize(
    "content",
    ["", "no json", "[]", "{}", '{"format": "paceline selector state"}', '{"format": "other", "version": 2}', "\xff"],
)
def test_a_broken_file_is_told_from_a_newer_one(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(BrokenState, match=r"state\.json"):
        read_state(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rounds", -1),
        ("starts", [1.0]),
        ("draft_ms", [[1.0, "x"]]),
        ("prompts", "no"),
        ("prompts", "AAAA"),
        ("more", 1),
    ],
)
def test_values_that_cannot_be_are_broken(taught: Life, tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "state.json"
    write_state(path, taught.selector.state())
    document = json.loads(path.read_text())
    document["drafters"]["a"][field] = value
    path.write_text(json.dumps(document))
    with pytest.raises(BrokenState, match=rf"drafters\.a\.{field}"):
        read_state(path)


def keeper(life: Life, path: Path) -> StateKeeper:
    """A keeper over a server that is never started: its lock and its core are all that is needed."""
    server = SelectorServer(
        life.selector, host="127.0.0.1", token=None, max_message_bytes=2**20, heartbeat_s=1.0, workers=2
    )
    return StateKeeper(server, path, interval_s=60.0)


def test_the_keeper_saves_and_restores(taught: Life, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    first = keeper(taught, path)
    first.start()
    first.save()
    later = Life()
    keeper(later, path)
    later.join("a", "b")
    assert figures(later.selector.snapshot()) == figures(taught.selector.snapshot())


def test_a_broken_file_is_put_aside_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state.json"
    path.write_text("no json")
    life = Life("a")
    kept = keeper(life, path)
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.WARNING]
    assert path.with_name("state.json.broken").read_text() == "no json"
    kept.start()
    kept.save()
    assert read_state(path) == life.selector.state()


def test_a_newer_file_is_neither_read_nor_overwritten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state.json"
    content = '{"format": "paceline selector state", "version": 4, "more": true}'
    path.write_text(content)
    with pytest.raises(NewerState, match="version 4"):
        read_state(path)
    kept = keeper(Life("a"), path)
    kept.start()
    kept.save()
    assert path.read_text() == content
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "neither restored nor overwritten" in caplog.text


def test_a_place_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    kept = keeper(Life("a"), tmp_path / "file" / "state.json")
    kept.start()
    kept.save()
    assert "cannot be written" in caplog.text


def test_a_relative_file_lies_beside_the_settings(tmp_path: Path) -> None:
    settings = tmp_path / "cluster.yaml"
    settings.write_text("selector: {state_file: kept/state.json}\n")
    assert load_config(settings).selector.state_file == str(tmp_path / "kept" / "state.json")
    settings.write_text("selector: {policy: uniform}\n")
    assert load_config(settings).selector.state_file is None
