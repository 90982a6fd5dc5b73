"""The registry of selection policies: who pulls, by name.

Nothing here or below knows Ray, gRPC or a clock, so a policy can be driven offline as well: `build_policy`, `join` the
drafters, `open` a row, then `weights`, `played`, `judged` and `learn` as things happen (`policy_base` says what each
means). `Selector` is the live caller.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from paceline.actors.errors import ConfigError
from paceline.cluster.adanormalhedge import AdaNormalHedge
from paceline.cluster.bandit import EpsilonGreedy, Thompson
from paceline.cluster.config import SelectorConfig
from paceline.cluster.exp3 import Exp3Spec
from paceline.cluster.hedge import FollowTheLeader, Hedge
from paceline.cluster.learned_policy import LearnedPolicy
from paceline.cluster.learner import Learner
from paceline.cluster.normalhedge import NormalHedge
from paceline.cluster.policy_base import Policy as Policy
from paceline.cluster.policy_mix import PolicyMix
from paceline.cluster.shared_prior import SharedPrior
from paceline.cluster.ucb import MetaSdUcb, UcbSpec
from paceline.cluster.unlearned_policy import Composite, Fixed, RoundRobin, Uniform

Maker = Callable[[SelectorConfig, int, SharedPrior], Policy]


# The learners that hear of every drafter at every position, so that they can choose among all arms.
FULL_INFORMATION: dict[str, type[Learner]] = {
    "normalhedge": NormalHedge,
    "adanormalhedge": AdaNormalHedge,
    "hedge": Hedge,
    "follow_the_leader": FollowTheLeader,
}


def _learned(learner: type[Learner]) -> Maker:
    return lambda config, _, prior: LearnedPolicy(
        learner(config.max_sequences, config.discount), config.discount, prior, config.prior_weight
    )


def _fixed(config: SelectorConfig, _: int, __: SharedPrior) -> Policy:
    if config.drafter is None:
        raise ConfigError("selector.drafter: policy `fixed` needs the name of the drafter to play, got nothing")
    return Fixed(config.drafter)


def _ucbspec_tuned(config: SelectorConfig, most: int, _: SharedPrior) -> Policy:
    options = config.options.ucbspec_tuned
    return UcbSpec(config.max_sequences, most, options.delta, options.coefficient)


_POLICIES: dict[str, Maker] = {
    **{name: _learned(learner) for name, learner in FULL_INFORMATION.items()},
    "epsilon_greedy": lambda c, _, __: EpsilonGreedy(c.max_sequences, c.options.epsilon_greedy.epsilon),
    "thompson": lambda c, _, __: Thompson(c.max_sequences, c.options.thompson.seed),
    "exp3spec": lambda c, most, _: Exp3Spec(c.max_sequences, most),
    "ucbspec": lambda c, most, _: UcbSpec(c.max_sequences, most, c.options.ucbspec.delta),
    "ucbspec_tuned": _ucbspec_tuned,
    "metasd_ucb": lambda c, _, __: MetaSdUcb(c.max_sequences, c.options.metasd_ucb.beta),
    "composite": lambda c, _, __: Composite(c.max_sequences, c.options.composite.priority),
    "fixed": _fixed,
    "round_robin": lambda c, _, __: RoundRobin(c.max_sequences),
    "uniform": lambda _, __, ___: Uniform(),
}


def build_policy(config: SelectorConfig, max_draft: int) -> PolicyMix:
    """The policy that a configuration names, and with it all that sequences may name, made when they first do.

    Args:
        config: The policy's name and everybody's settings.
        max_draft: Most tokens drafted in a round, from which rewards have their range.

    Raises:
        ConfigError: it lacks what the policy needs.
    """
    shared = SharedPrior(config.prior_memory)
    return PolicyMix(config.policy, config.max_sequences, partial(build_one, config, max_draft), shared)


def build_one(config: SelectorConfig, max_draft: int, name: str, prior: SharedPrior) -> Policy:
    """One policy by itself; whoever holds `prior` has to teach it.

    Raises:
        ConfigError: the configuration lacks what the policy needs.
    """
    return _POLICIES[name](config, max_draft, prior)
