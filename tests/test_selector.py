"""The selector's core: it learns from full information whoever plays, and stays within its bounds."""

from __future__ import annotations

import numpy as np
import pytest
from single_ring import SingleChain

from paceline.actors.errors import Overloaded
from paceline.actors.messages import (
    DraftTiming,
    Heartbeat,
    Score,
    SequenceOpened,
    SequenceRound,
    TargetReport,
    WeightsUpdate,
)
from paceline.cluster.config import SelectorConfig, SpeculationConfig
from paceline.cluster.membership import MAX_DRAFTERS
from paceline.cluster.selector import Selector

K, C = 4, 3


class Cluster:
    """A selector with a clock of its own, and a target and drafters that say what a test wants."""

    def __init__(self, *drafters: str, **settings: object) -> None:
        self.now_s = 0.0
        config = SelectorConfig.model_validate(settings)
        speculation = SpeculationConfig(max_draft=K, catch_up_tokens=C, draft_length="measured")
        self.selector = Selector(config, speculation, 1.0, lambda: self.now_s)
        for drafter in drafters:
            self.beat(drafter)
        self.target = self.selector.connect("target")
        self.committed: dict[int, int] = {}

    def beat(self, drafter: str, address: str = "h:1", **state: int) -> None:
        self.selector.register(Heartbeat(drafter, "ngram", address, **state))

    def report(self, **news: object) -> None:
        self.selector.report(self.target, TargetReport("target", **news))  # type: ignore[arg-type]

    def open(self, seq: int, prompt: int = 10, **settings: object) -> None:
        self.report(opened=[SequenceOpened(seq, prompt, **settings)])  # type: ignore[arg-type]
        self.committed[seq] = prompt

    def round(self, seq: int, gammas: dict[str, float], step: int = 3, drafter: str = "", **news: object) -> None:
        """Commit `step` tokens at which the drafters have these acceptances."""
        start = self.committed[seq]
        for name, gamma in gammas.items():
            self.selector.scores(name, [Score(seq, start, np.full(step, gamma, dtype=np.float32))])
        self.committed[seq] = start + step
        drafted = K if drafter else 0
        self.report(rounds=[SequenceRound(seq, start + step, drafter, drafted, step - 1 if drafter else 0)], **news)

    def update(self) -> WeightsUpdate:
        update = self.selector.update(self.target)
        assert update is not None
        return update

    def weights(self, seq: int) -> dict[str, float]:
        update = self.update()
        return dict(zip(update.drafters, update.sequences[seq].tolist(), strict=True))


def test_the_better_drafter_wins_though_it_never_played() -> None:
    cluster = Cluster("incumbent", "challenger", loss="eal")
    cluster.open(1)
    for _ in range(20):
        cluster.round(1, {"incumbent": 0.5, "challenger": 0.8}, drafter="incumbent")
    assert cluster.weights(1)["challenger"] > 0.9
    cluster.open(2)
    assert cluster.weights(2)["challenger"] > 0.9  # and the next request begins with it


def test_gathered_reports_teach_what_they_teach_one_by_one() -> None:
    alone, together = Cluster("a", "b"), Cluster("a", "b")
    for cluster in (alone, together):
        cluster.open(1)
    for start in range(10, 100, 9):
        told = []
        for committed in range(start + 3, start + 12, 3):
            played = SequenceRound(1, committed, "a", K, 2)
            told.append(TargetReport("target", rounds=[played], drafts=[DraftTiming("a", 1, K, 2.0)], verify_ms=9.0))
            for cluster in (alone, together):
                gammas = np.array([0.4, 0.9, 0.6], dtype=np.float32)
                cluster.selector.scores("b", [Score(1, committed - 3, gammas)])
                cluster.selector.scores("a", [Score(1, committed - 3, gammas / 2)])
        for report in told:
            alone.selector.report(alone.target, report)
        together.selector.report(together.target, *told)
    weights = together.weights(1)
    # What a round costs is known a little earlier where reports are gathered, so the first losses differ a little.
    assert weights == pytest.approx(alone.weights(1), abs=0.02)
    assert weights["b"] > 0.9
    ended = TargetReport("target", rounds=[SequenceRound(1, 200, "a", K, 2)], closed=[1])
    together.selector.report(together.target, ended, TargetReport("target", opened=[SequenceOpened(2, 5)]))
    assert together.selector.snapshot().sequences == 1


def test_one_update_tells_all_that_changed_and_nothing_is_told_twice() -> None:
    cluster = Cluster("a", "b")
    cluster.open(1)
    cluster.open(2)
    cluster.open(3)
    first = cluster.update()
    assert set(first.sequences) == {1, 2, 3}
    assert [member.drafter for member in first.members or ()] == ["a", "b"]
    assert cluster.selector.update(cluster.target) is None
    cluster.round(1, {})
    cluster.round(3, {})
    second = cluster.update()
    assert set(second.sequences) == {1, 3}
    assert second.members is None
    assert second.number > first.number


def test_scores_count_at_once_for_their_own_sequence_and_teach_others_after_the_delay() -> None:
    cluster = Cluster("a", "b", loss="eal")
    cluster.open(1, prompt=10)
    cluster.round(1, {"a": 0.1, "b": 0.9}, step=1)
    assert cluster.weights(1)["b"] == 1.0
    cluster.round(1, {"a": 0.1, "b": 0.9}, step=K + C - 1)
    cluster.round(1, {"a": 0.1, "b": 0.9}, step=1)
    assert cluster.update().prior.tolist() == [0.5, 0.5], "at the first position everybody's round begins"
    cluster.round(1, {"a": 0.1, "b": 0.9}, step=1)
    assert cluster.update().prior.tolist() == [0.0, 1.0]


def test_a_drafter_that_lags_is_not_judged_by_what_it_could_not_score_yet() -> None:
    """What is not released counts only for drafters whose scores have come."""
    cluster = Cluster("prompt", "late", "down", loss="eal")
    cluster.open(1)
    cluster.round(1, {"prompt": 0.5}, step=2 * K)
    assert cluster.weights(1) == pytest.approx({"prompt": 1 / 3, "late": 1 / 3, "down": 1 / 3})


def test_drafters_that_are_down_get_no_weight_and_come_back() -> None:
    cluster = Cluster("a", "b", loss="eal")
    cluster.open(1)
    for _ in range(20):
        cluster.round(1, {"a": 0.9, "b": 0.3})
    assert cluster.weights(1)["a"] > 0.9
    cluster.now_s = 2.5
    cluster.beat("b")
    cluster.now_s = 3.5  # three heartbeats of a are missing
    update = cluster.update()
    assert dict(zip(update.drafters, update.sequences[1], strict=True)) == {"a": 0.0, "b": 1.0}
    assert [(member.drafter, member.up) for member in update.members or ()] == [("a", False), ("b", True)]
    cluster.beat("a", address="h:2")  # restarted, and remembered
    update = cluster.update()
    assert update.members is not None
    assert (update.members[0].address, update.members[0].up) == ("h:2", True)
    assert update.sequences[1][0] > 0.9
    cluster.now_s = 60.0
    assert cluster.weights(1) == {"a": 0.0, "b": 0.0}
    assert cluster.selector.snapshot().drafters[0].weight == 0.0


def test_sessions_that_come_and_go_are_no_news() -> None:
    cluster = Cluster("a")
    cluster.update()
    cluster.beat("a", sessions=5)
    assert cluster.selector.update(cluster.target) is None
    assert cluster.selector.snapshot().members[0].sessions == 5


def test_a_drafter_that_joins_late_is_tried_on_its_merits() -> None:
    cluster = Cluster("a", "b", loss="eal")
    cluster.open(1)
    for _ in range(10):
        cluster.round(1, {"a": 0.6, "b": 0.3})
    cluster.beat("new")
    for _ in range(12):
        cluster.round(1, {"a": 0.6, "b": 0.3, "new": 0.9})
    assert cluster.weights(1)["new"] > 0.9


def test_restricted_sequences_use_only_what_they_may() -> None:
    cluster = Cluster("a", "b", "c", loss="eal")
    cluster.open(1, drafters=("b", "c", "later"))
    for _ in range(20):
        cluster.round(1, {"a": 0.95, "b": 0.6, "c": 0.3})
    weights = cluster.weights(1)
    assert weights["a"] == 0.0
    assert weights["b"] > 0.9
    cluster.beat("later")
    for _ in range(12):
        cluster.round(1, {"a": 0.95, "b": 0.6, "c": 0.3, "later": 0.9})
    weights = cluster.weights(1)
    assert weights["a"] == 0.0
    assert weights["later"] > 0.9


@pytest.mark.parametrize(
    ("gammas", "reason"),
    [([0.5, float("nan")], "scores_invalid"), ([1.5], "scores_invalid"), ([-0.5], "scores_invalid")],
)
def test_a_lying_drafter_is_counted_and_not_believed(gammas: list[float], reason: str) -> None:
    cluster = Cluster("a", "b")
    cluster.open(1)
    cluster.selector.scores("a", [Score(1, 10, np.array(gammas, dtype=np.float32))])
    assert cluster.selector.counts[reason] == 1
    assert cluster.selector.snapshot().drafters[0].scored == 0


def test_what_cannot_be_used_is_counted() -> None:
    cluster = Cluster("a")
    cluster.open(1, prompt=10)
    cluster.round(1, {"a": 0.5}, step=40)
    one = np.ones(1, dtype=np.float32)
    cluster.selector.scores("stranger", [Score(1, 50, one)])
    cluster.selector.scores("a", [Score(9, 10, one), Score(1, 10, one), Score(1, 10**6, one)])
    cluster.report(
        rounds=[SequenceRound(9, 20, "stranger", 3, 1)], closed=[9], drafts=[DraftTiming("stranger", 1, K, 5.0)]
    )
    counts = cluster.selector.counts
    for reason in (
        "scores_of_unknown_drafter",
        "scores_of_unknown_sequence",
        "gammas_late",
        "rounds_of_unknown_drafter",
        "rounds_of_unknown_sequence",
        "ends_of_unknown_sequence",
        "timings_of_unknown_drafter",
    ):
        assert counts[reason] == 1, reason
    assert counts["gammas_early"] >= 1
    cluster.beat("a", scores_dropped=7)
    assert counts["scores_dropped_by_drafters"] == 7


def test_learners_are_bounded_and_the_idlest_goes() -> None:
    cluster = Cluster("a", "b", max_sequences=2)
    cluster.open(1)
    cluster.open(2)
    cluster.round(1, {})
    cluster.update()
    cluster.open(3)
    update = cluster.update()
    assert len(update.sequences[2]) == 0  # back to the prior
    assert len(update.sequences[3]) == 2
    assert cluster.selector.counts["sequences_evicted"] == 1
    assert cluster.selector.snapshot().sequences == 2
    cluster.round(1, {})  # the one in use still has its learner
    assert len(cluster.update().sequences[1]) == 2


def test_drafters_are_bounded() -> None:
    cluster = Cluster()
    for number in range(MAX_DRAFTERS):
        cluster.beat(f"d{number}")
    with pytest.raises(Overloaded, match="one-too-many"):
        cluster.beat("one-too-many")
    cluster.beat("d0", address="h:9")  # those that are there go on


def test_a_targets_end_frees_its_sequences_but_not_those_it_announced_anew() -> None:
    cluster = Cluster("a", "b", loss="eal")
    cluster.open(1)
    cluster.open(2)
    for _ in range(20):
        cluster.round(1, {"a": 0.2, "b": 0.9})
    old, cluster.target = cluster.target, cluster.selector.connect("target")
    cluster.open(1, prompt=cluster.committed[1])  # the new stream is there before the old one's end is noticed
    cluster.selector.disconnect(old)
    assert cluster.selector.snapshot().sequences == 1
    assert cluster.weights(1)["b"] > 0.9


def test_several_rounds_of_one_sequence_in_one_report_all_count() -> None:
    one, many = Cluster("a", "b", loss="eal"), Cluster("a", "b", loss="eal")
    for cluster in (one, many):
        cluster.open(1)
        for name, gamma in (("a", 0.4), ("b", 0.6)):
            cluster.selector.scores(name, [Score(1, 10, np.full(24, gamma, dtype=np.float32))])
    rounds = [SequenceRound(1, committed, "a", 4, 3) for committed in range(14, 35, 4)]
    for played in rounds:
        one.report(rounds=[played])
    many.report(rounds=rounds)
    assert one.weights(1) == many.weights(1)
    assert many.selector.snapshot().drafters[0].rounds == len(rounds)


def test_snapshot_tells_what_was_played() -> None:
    cluster = Cluster("a", "b", policy="round_robin")
    cluster.open(1)
    for _ in range(6):
        cluster.round(
            1, {"a": 0.5}, drafter="a", drafts=[DraftTiming("a", 1, K, 8.0)], verify_ms=20.0, verify_tokens=K + 1
        )
    cluster.round(1, {"a": 0.5})
    snapshot = cluster.selector.snapshot()
    a, b = snapshot.drafters
    assert (a.rounds, a.drafted, a.accepted, a.scored) == (6, 6 * K, 12, 21)
    assert a.gamma == pytest.approx(0.5)
    chain = SingleChain(1, np.array([K]))
    released = 7 * 3 - K - C
    rounds = sum(chain.advance(np.arange(1), np.full((1, K), 0.5))[0, 0] for _ in range(released))
    assert a.eal == pytest.approx(released / rounds, rel=0.01), "newer positions count a little more"
    assert a.draft_ms == pytest.approx(8.0)
    assert (b.scored, b.gamma, b.eal, b.draft_ms) == (0, 0.0, 0.0, 0.0)
    assert (snapshot.policy, snapshot.plain_rounds, snapshot.sequences) == ("round_robin", 1, 1)


def test_a_sequence_may_name_its_policy() -> None:
    cluster = Cluster("a", "b", "c", loss="eal")
    cluster.open(1)
    cluster.open(2, policy="round_robin")
    cluster.open(3, policy="ucbspec")
    for _ in range(8):
        for seq in (1, 2, 3):
            cluster.round(seq, {"a": 0.2, "b": 0.9, "c": 0.4}, drafter="c")
    told = cluster.update()
    rows = {seq: dict(zip(told.drafters, told.sequences[seq].tolist(), strict=True)) for seq in (1, 2, 3)}
    assert rows[1]["b"] > 0.9  # learns from scores
    assert rows[2] == {"a": 0.0, "b": 0.0, "c": 1.0}  # eight turns of three
    assert rows[3] == {"a": 1.0, "b": 0.0, "c": 0.0}  # a bandit: c has played, a and b have not
    cluster.open(4)
    assert cluster.weights(4)["b"] > 0.9  # what all of them taught
    assert not cluster.selector.counts["sequences_of_unknown_policy"]


@pytest.mark.parametrize("name", ["fixed", "no-such-policy"])
def test_a_policy_that_is_none_is_counted_and_the_clusters_own_chooses(name: str) -> None:
    cluster = Cluster("a", "b", policy="uniform")
    cluster.open(1, policy=name)
    assert cluster.weights(1) == {"a": 0.5, "b": 0.5}
    assert cluster.selector.counts["sequences_of_unknown_policy"] == 1


def test_a_bandit_hears_of_a_drafter_that_had_nothing_to_offer() -> None:
    cluster = Cluster("mute", "other", policy="ucbspec_tuned")
    cluster.open(1)
    assert cluster.weights(1)["mute"] == 1.0
    cluster.report(rounds=[SequenceRound(1, 11, "mute", 0, 0)])
    assert cluster.weights(1)["other"] == 1.0
    assert cluster.selector.snapshot().plain_rounds == 1


def test_metasd_hears_the_played_drafters_gammas_when_they_come() -> None:
    """Both drafters played one round, of which the scores come late and in another order; those of a drafter that did
    not play, or of positions that nobody drafted, are not rewards."""
    cluster = Cluster("a", "b", policy="metasd_ucb")
    cluster.open(1, prompt=10)
    cluster.report(rounds=[SequenceRound(1, 13, "a", K, 2), SequenceRound(1, 14, "b", K, 0)])
    scores = {("b", 13): [0.9], ("a", 12): [0.4], ("a", 10): [0.3, 0.2], ("b", 10): [0.0, 0.0, 0.0], ("a", 13): [1.0]}
    for (name, start), gammas in scores.items():
        cluster.selector.scores(name, [Score(1, start, np.array(gammas, dtype=np.float32))])
    assert cluster.weights(1) == {"a": 0.0, "b": 1.0}  # 0.9 against 0.3


def test_metasd_hears_what_is_here_though_a_message_of_many_rounds_releases_it() -> None:
    """The oldest round's scores never come, those of the next are here, and one message brings so many rounds that the
    positions of both are released: the second one is heard, as it is where each round is a message."""
    cluster = Cluster("a", "b", policy="metasd_ucb")
    cluster.open(1, prompt=10)
    cluster.report(rounds=[SequenceRound(1, 13, "a", K, 2), SequenceRound(1, 16, "b", K, 2)])
    cluster.selector.scores("b", [Score(1, 13, np.full(3, 0.9, dtype=np.float32))])
    later = range(19, 19 + 3 * (K + C), 3)
    cluster.report(rounds=[SequenceRound(1, committed, "a", K, 2) for committed in later])
    policy = cluster.selector._learning.policy._policies[0]
    assert policy._reward[0].tolist() == pytest.approx([0.0, 0.9])


def test_rounds_whose_scores_never_come_do_not_hold_up_later_ones() -> None:
    cluster = Cluster("a", "b", policy="metasd_ucb")
    cluster.open(1, prompt=10)
    cluster.report(rounds=[SequenceRound(1, 13, "a", K, 2), SequenceRound(1, 16, "b", K, 2)])
    cluster.committed[1] = 16
    cluster.round(1, {"b": 0.1}, step=2 * K + C)  # the first round's positions are released unheard
    cluster.round(1, {"a": 0.9, "b": 0.1}, drafter="a")
    cluster.round(1, {"a": 0.9, "b": 0.1}, drafter="b")
    assert cluster.weights(1) == {"a": 1.0, "b": 0.0}


def test_the_selector_turns_from_a_long_but_slow_drafter() -> None:
    for aim, expected in (("eal", "slow"), ("time", "quick")):
        cluster = Cluster("quick", "slow", loss=aim)
        cluster.open(1)
        timings = [DraftTiming("quick", 1, K, 1.0), DraftTiming("slow", 1, K, 60.0)]
        for _ in range(20):
            cluster.round(1, {"quick": 0.6, "slow": 0.7}, drafts=timings, verify_ms=20.0, verify_tokens=K + 1)
        assert cluster.weights(1)[expected] > 0.9, aim
