"""Everything the selector learns with: policies over drafters, one learner over arms, times, and what prompts foretell.

Who chooses a sequence's draft length decides who learns about it. Where the selector does (`speculation.draft_length:
learned`), sequences whose policy hears of all drafters are `arm_learning`'s. All others, bandits above all, choose a
drafter only (`policy_mix`), and the target its length. `Selector` holds one and tells it what happens, by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paceline.actors.messages import DraftTiming, SequenceOpened, SequenceRound, TargetReport
from paceline.cluster.arm_ladder import ArmLadder
from paceline.cluster.arm_learning import ArmLearning
from paceline.cluster.arm_memory import ArmMemory
from paceline.cluster.config import SelectorConfig, SpeculationConfig
from paceline.cluster.gamma_ring import GammaRings, PlayedDraft, Released
from paceline.cluster.learner import Bools, Floats, Pending, Rows
from paceline.cluster.policy import build_policy
from paceline.cluster.policy_base import Played
from paceline.cluster.prompt_predictor import PromptPrior
from paceline.cluster.round_cost import ROUND, RoundCost, RoundLoss
from paceline.cluster.selector_memory import SelectorMemory


@dataclass(frozen=True, slots=True)
class Choice:
    """What targets are told: weights by drafter, and the length of each one's drafts; 0 leaves it to the target. What
    is missing from weights to 1 is plain decoding's, where there are lengths. Both [.., drafters]."""

    weights: Floats
    lengths: Rows


class Learning:
    """Learners, by row.

    Args:
        config: The policy and its settings.
        speculation: The longest draft, who sets lengths, and the permitted lag.
    """

    def __init__(self, config: SelectorConfig, speculation: SpeculationConfig) -> None:
        self._most = speculation.max_draft
        self._discount = config.discount
        self.policy = build_policy(config, self._most)
        self.cost = RoundCost()
        self._loss = RoundLoss(config.loss, self.cost)
        self.prompts = PromptPrior(self, config.max_sequences, config.prompt_weight)
        self._foretells = config.prompt_weight > 0
        ladder = ArmLadder(self._most)
        self._arms = ArmLearning(config, ladder) if speculation.draft_length == "learned" else None
        lengths = ladder.rungs if self._arms else (self._most,)
        self.rings = GammaRings(self._most, speculation.catch_up_tokens, lengths)
        self._joint: Bools = np.zeros(config.max_sequences, dtype=np.bool_)  # rows that `_arms` learns about
        self._routes: dict[int, str] = {}
        memory = ArmMemory(self._arms, ladder) if self._arms else None
        self.memory = SelectorMemory(self.policy.shared, self.cost, self.prompts.predictor, memory)

    @property
    def joint(self) -> bool:
        """Whether costs of the moment count, so that every sequence's weights change with the load."""
        return self._arms is not None

    def join(self, drafter: str) -> None:
        """A new drafter takes the next column."""
        self.rings.join()
        self.policy.join(drafter)
        self.cost.join()
        self.prompts.join()
        if self._arms is not None:
            self._arms.join()

    def open(self, row: int, opened: SequenceOpened, policy: str) -> None:
        """A new sequence takes the row."""
        self._joint[row] = self._arms is not None and self._arms.takes(policy)
        self._routes[row] = opened.route
        if self._arms is not None:
            self._arms.open(row, opened.route, policy)
        self.policy.open(row, opened.route, policy)
        self.prompts.open(row, opened.sketch)
        self.rings.open(row, opened.prompt_tokens)

    def close(self, row: int, sketch: bytes) -> None:
        """The row's sequence ended."""
        del self._routes[row]
        self.policy.close(row)
        self.prompts.close(row, sketch)

    def advise(self, row: int, advantages: Floats, share: float) -> None:
        """See `Policy`; what prompts foretell is in rounds."""
        advantages = ROUND * advantages
        if self._joint[row] and self._arms is not None:
            self._arms.advise(row, advantages, share)
        else:
            self.policy.advise(row, advantages, share)

    def measured(self, timings: Sequence[tuple[int, DraftTiming]], report: TargetReport) -> None:
        """Note one round's times: (column, timing) of each drafter that drafted, and the target's."""
        self.cost.measured(timings, report.verify_ms)
        if self._arms is not None:
            self._arms.cost.measured(timings, report)

    def asked(self, row: int, column: int, played: SequenceRound, token_time: int) -> None:
        """A round in which a drafter was asked, or its draft at hand; `token_time` is of before it."""
        if self._arms is None or not played.length:
            return
        self._arms.cost.played(row, column, not played.carried, min(played.drafted / played.length, 1.0))
        start = played.committed - played.accepted - 1
        # To have nothing more to say counts as a miss at that depth, unless only what was left was played.
        offered = played.drafted if played.carried else min(played.drafted + 1, played.length)
        if start >= token_time:  # else rounds before it were lost
            self.rings.played(row, PlayedDraft(column, start, min(played.accepted + 1, offered), played.accepted))

    def advance(self, rows: Rows, committed: Rows) -> Released:
        """Move sequences on to so many tokens each, [rows], and release what is due."""
        if self._arms is None:
            return self.rings.advance(rows, committed)
        self._arms.truth.add(self.rings.judged(rows, committed))
        return self.rings.advance(rows, committed, self._arms.truth.ratios)

    def rounds(self, rows: Rows, played: Played) -> None:
        """Rounds ended; see `Policy`."""
        self.policy.played(rows, played)

    def learn(self, rows: Rows, starts: Floats, allowed: Bools) -> None:
        """Positions were released, whose they are [positions], with what their rings told, [positions, drafters,
        lengths]; `allowed` is [positions, drafters]."""
        if self._arms is not None:
            self._arms.learn(rows, [self._routes[row] for row in rows.tolist()], starts, allowed)
        if self._arms is None or self._foretells:
            losses = self._loss.losses(starts[:, :, -1])
            self.prompts.add(rows, losses / ROUND)
            if self._arms is None:
                self.policy.learn(rows, losses, allowed)

    def price(self, rows: Rows, available: Bools, others: int, new: Bools) -> None:
        """Take the costs of this moment: `rows` are all sequences of one target that are known, `available`
        [rows, drafters], so many `others` decode there plainly, and one that begins may use `new` [drafters]."""
        if self._arms is not None:
            self._arms.price(rows, available, others, new)

    def hear(self, rows: Rows) -> None:
        """Take what is known of sequences' positions that are not released."""
        if self._arms is not None:
            self._arms.hear(rows, self.rings.pending(rows, self._discount))

    def choice(self, rows: Rows, available: Bools) -> Choice:
        """Weights and lengths of some sequences; `available` is [rows, drafters]."""
        joint = self._joint[rows]
        weights, lengths = np.zeros(available.shape), np.zeros(available.shape, dtype=np.intp)
        if self._arms is not None and joint.any():
            weights[joint], lengths[joint] = self._arms.weights(rows[joint], available[joint])
        if not joint.all():
            rest = ~joint
            known = self.rings.pending(rows[rest], self._discount)
            pending = Pending(self._loss.losses(known.starts[:, :, -1]), known.counts, known.fade)
            weights[rest] = self.policy.weights(rows[rest], available[rest], pending)
        return Choice(weights, lengths)

    def begin(self, available: Bools) -> Choice:
        """Weights and lengths, [drafters], of a sequence that has none of its own yet."""
        if self._arms is not None and self._arms.takes(""):
            return Choice(*self._arms.begin(available))
        return Choice(self.policy.prior(available), np.zeros(len(available), dtype=np.intp))
