"""The policies there are, by name, and the settings that only one of them has.

Each policy's own settings lie under its name, so that a setting always belongs to a policy that knows it: any request
may name any policy, and then the settings under that name hold. `config` takes them; `policy` builds from them.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, field_validator

from paceline.cluster.settings import Settings

PolicyName = Literal[
    "normalhedge",
    "adanormalhedge",
    "hedge",
    "follow_the_leader",
    "epsilon_greedy",
    "thompson",
    "exp3spec",
    "ucbspec",
    "ucbspec_tuned",
    "metasd_ucb",
    "composite",
    "fixed",
    "round_robin",
    "uniform",
]
POLICY_NAMES: tuple[str, ...] = get_args(PolicyName)
# `fixed` needs a drafter's name; a request that wants one drafter names it (`paceline.drafter`).
REQUEST_POLICIES = tuple(name for name in POLICY_NAMES if name != "fixed")


class EpsilonGreedyOptions(Settings):
    """The best drafter so far, and now and then any."""

    epsilon: float = Field(0.1, ge=0, le=1, description="share of rounds that go to a drafter drawn uniformly")


class ThompsonOptions(Settings):
    """A draw of each drafter's acceptance from what is believed of it."""

    seed: int = Field(0, ge=0, lt=2**63, description="of what it draws")


class UcbSpecOptions(Settings):
    """The highest upper confidence bound of tokens per round, as published (arXiv 2505.15141)."""

    delta: float = Field(0.1, gt=0, lt=1, description="chance with which the confidence bounds may fail")


class TunedUcbSpecOptions(UcbSpecOptions):
    """As `ucbspec`, with a narrower confidence term."""

    coefficient: float = Field(0.15, ge=0, description="of the confidence term; 1 is the published formula")


class MetaSdOptions(Settings):
    """The highest upper confidence bound of acceptance (arXiv 2604.05417)."""

    beta: float = Field(0.2, ge=0, description="of the confidence term sqrt(2 ln t / n)")


class CompositeOptions(Settings):
    """The first drafter, in a fixed order, that has something to offer."""

    priority: tuple[str, ...] = Field(
        (), description="drafters in the order in which they are tried; empty: the order in which they joined"
    )

    @field_validator("priority")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} is named twice")
        return names


class PolicyOptions(Settings):
    """Settings of the policies that have some, under their names."""

    epsilon_greedy: EpsilonGreedyOptions = EpsilonGreedyOptions()
    thompson: ThompsonOptions = ThompsonOptions()
    ucbspec: UcbSpecOptions = UcbSpecOptions()
    ucbspec_tuned: TunedUcbSpecOptions = TunedUcbSpecOptions()
    metasd_ucb: MetaSdOptions = MetaSdOptions()
    composite: CompositeOptions = CompositeOptions()
