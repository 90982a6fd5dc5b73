"""What of a selector is written down and taken back: statistics, fitted times and priors, matched by drafters' names.

A drafter that the state names and that has not come (yet) is kept as it was, and written down again: it may be added
back in a month. So is what is known of arms, where the target sets lengths. `Selector` holds one.
"""

from __future__ import annotations

from collections.abc import Sequence

from paceline.cluster.arm_memory import ArmMemory
from paceline.cluster.drafter_tally import DrafterTally
from paceline.cluster.prompt_predictor import PromptPredictor
from paceline.cluster.round_cost import RoundCost
from paceline.cluster.selector_state import ArmsState, DrafterArms, DrafterState, SelectorState, packed, unpacked
from paceline.cluster.shared_prior import SharedPrior


class SelectorMemory:
    """Writes down and takes back.

    Args:
        prior: What sequences taught.
        cost: Its fits are part of the state.
        predictor: What prompts foretell.
        arms: What is known where the selector sets lengths.
    """

    def __init__(self, prior: SharedPrior, cost: RoundCost, predictor: PromptPredictor, arms: ArmMemory | None) -> None:
        self._prior = prior
        self._arms = arms
        self._cost = cost
        self._predictor = predictor
        self._kept: dict[str, DrafterState] = {}  # of drafters that have not come
        self._kept_arms: tuple[ArmsState | None, dict[str, DrafterArms]] = (None, {})  # where nobody learns about arms

    def restore(self, state: SelectorState) -> None:
        """Take a state over, before any drafter has come: each gets its own when it does."""
        self._kept = dict(state.drafters)
        self._prior.restore_positions(state.positions)
        self._cost.restore_verify(state.verify_ms, state.loads)
        if self._arms is None:
            self._kept_arms = state.arms, {name: kept.arms for name, kept in state.drafters.items() if kept.arms}
        elif state.arms is not None:
            self._arms.restore(state.arms)

    def joined(self, drafter: str, column: int, tally: DrafterTally) -> None:
        """A drafter came: give it what was kept of it."""
        kept = self._kept.pop(drafter, None)
        if kept is None:
            return
        tally.gamma.restore(*kept.gamma)
        tally.starts.restore(*kept.starts)
        tally.scored, tally.rounds = kept.scored, kept.rounds
        tally.drafted, tally.accepted = kept.drafted, kept.accepted
        self._cost.restore_draft(column, kept.draft_ms)
        if kept.prompts:
            self._predictor.restore(column, unpacked(kept.prompts))
        if self._arms is not None and kept.arms is not None:
            self._arms.joined(column, kept.arms)
        known = self._prior.positions()
        self._prior.restore(column, {route: kept.regret[route] for route in known if route in kept.regret})

    def state(
        self, policy: str, names: Sequence[str], tallies: Sequence[DrafterTally], plain_rounds: int
    ) -> SelectorState:
        """Everything as it is now."""
        regrets = self._prior.regrets()
        arms, arms_of = self._kept_arms
        drafters = dict(self._kept)
        for column, (name, tally) in enumerate(zip(names, tallies, strict=True)):
            drafters[name] = DrafterState(
                gamma=tally.gamma.state,
                starts=tally.starts.state,
                scored=tally.scored,
                rounds=tally.rounds,
                drafted=tally.drafted,
                accepted=tally.accepted,
                draft_ms=self._cost.draft_points(column),
                regret={route: float(row[column]) for route, row in regrets.items()},
                prompts=packed(self._predictor.coefficients[column]),
                arms=arms_of.get(name) if self._arms is None else self._arms.drafter(column),
            )
        verify_ms, loads = self._cost.verify_points()
        return SelectorState(
            policy=policy,
            drafters=drafters,
            positions=self._prior.positions(),
            verify_ms=verify_ms,
            loads=loads,
            plain_rounds=plain_rounds,
            arms=arms if self._arms is None else self._arms.state(),
        )
