"""One learner for drafter, draft length and off: arms are (drafter, length), and plain decoding.

Acceptance is what has to be learned, and full information teaches it for all arms at once: the same gammas tell what
every drafter would have brought at every length. Cost is known (`arm_cost`), and changes at once when the load does.
The loss is linear in both,

    loss = ((K + 1 - EAL) + min(rho cost, K + 1)) / (2 (K + 1)),

so the learners book the part in EAL only and add the part in cost, at the load of the moment, whenever weights are made
(`learner`). A batch that grows from one sequence to eight thus moves weight to short drafts or to plain decoding with
the next update, not after the 33 positions that a learner remembers; and since drafters go on being scored while
nobody drafts, it comes back in the same way.

Drafters are drawn by weight; each is played with the one length that is best for it so far. `learning` keeps one where
`speculation.draft_length` is `learned`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.cluster.arm_cost import ArmCost, going_rate
from paceline.cluster.arm_ladder import ArmLadder
from paceline.cluster.config import SelectorConfig
from paceline.cluster.draft_truth import DraftTruth
from paceline.cluster.gamma_ring import Forecast, Released
from paceline.cluster.learned_policy import LearnedPolicy
from paceline.cluster.learner import Bools, Floats, Pending, Rows, summed
from paceline.cluster.policy import FULL_INFORMATION
from paceline.cluster.shared_prior import SharedPrior

RATE_START = 8.0  # rounds that the cluster's EAL counts for in a new sequence
HOPE = 0.7  # acceptance of a drafter of which nothing is known
HOPE_POSITIONS = 4.0  # that this counts for


class ArmLearning:
    """Learners over arms, by sequence.

    Args:
        config: The learners' settings, and the default policy.
        ladder: Lengths.
    """

    def __init__(self, config: SelectorConfig, ladder: ArmLadder) -> None:
        rows, lengths = config.max_sequences, len(ladder)
        self._config = config
        self._ladder = ladder
        self._most = ladder.rungs[-1] + 1
        self.cost = ArmCost(rows, ladder.lengths)
        self.truth = DraftTruth(ladder.rungs[-1])
        self._known: Floats = np.zeros((rows, 1, lengths))  # rho cost / 2 (K + 1), of every arm now
        self._known_new: Floats = np.zeros((1, 1, lengths))  # the same of a sequence that begins
        self._sum: Floats = np.zeros((rows, 0, lengths))
        self._count: Floats = np.zeros((rows, 0))
        self._soon: Floats = np.zeros((rows, 0, lengths))  # of positions that are not released: mean EAL,
        self._soon_count: Floats = np.zeros((rows, 0))  # how many, and what is left of what was before them
        self._fade: Floats = np.ones(rows)
        self._crowd_sum: Floats = np.zeros((0, lengths))
        self._crowd_count: Floats = np.zeros(0)
        self.prior = SharedPrior(config.prior_memory, lengths, lambda rows: self._known_new[np.zeros_like(rows)])
        self._policies: dict[str, LearnedPolicy] = {}
        self._of_row: list[LearnedPolicy | None] = [None] * rows
        self._columns = 1  # plain decoding is the first
        self.prior.join()
        self.prior.remember(0, {"": (np.zeros(lengths), self._even(HOPE_POSITIONS), HOPE_POSITIONS)})
        self._policy(config.policy if config.policy in FULL_INFORMATION else next(iter(FULL_INFORMATION)))

    def _even(self, amount: float) -> Floats:
        return np.full(len(self._ladder), amount / len(self._ladder))

    def join(self) -> None:
        """A new drafter takes the next column. What is hoped of it lets it begin with drafts of a fair length."""
        lengths = len(self._ladder)
        self.cost.join()
        self.truth.join()
        self._columns += 1
        wide = np.zeros((len(self._count), 1, lengths))
        self._known, self._sum = np.concatenate([self._known, wide], axis=1), np.concatenate([self._sum, wide], axis=1)
        self._known_new = np.concatenate([self._known_new, wide[:1]], axis=1)
        self._soon = np.concatenate([self._soon, np.full_like(wide, np.nan)], axis=1)
        self._count = np.hstack([self._count, wide[:, :, 0]])
        self._soon_count = np.hstack([self._soon_count, wide[:, :, 0]])
        self._crowd_sum, self._crowd_count = np.vstack([self._crowd_sum, wide[0]]), np.append(self._crowd_count, 0.0)
        self.prior.join()
        hope = (1.0 - HOPE ** (self._ladder.lengths + 1.0)) / (1.0 - HOPE) - 1.0
        regret = HOPE_POSITIONS * hope / (2 * self._most)
        self.prior.remember(self._columns - 1, {"": (regret, np.zeros(lengths), HOPE_POSITIONS)})
        for policy in self._policies.values():
            policy.join("")

    def acceptance(self, column: int) -> tuple[Floats, float]:
        """A drafter's EALs over the cluster: discounted sums [lengths], and of how many positions."""
        return self._crowd_sum[column].copy(), float(self._crowd_count[column])

    def accept(self, column: int, sums: Floats, positions: float) -> None:
        """Go on from another life's EALs."""
        self._crowd_sum[column], self._crowd_count[column] = sums, positions

    def takes(self, policy: str) -> bool:
        """Whether sequences of this policy are learned about here; empty is the cluster's policy."""
        return (policy or self._config.policy) in FULL_INFORMATION

    def open(self, row: int, route: str, policy: str) -> None:
        """A new sequence takes the row."""
        self.cost.open(row)
        count = np.minimum(self._crowd_count, RATE_START)
        self._count[row] = count
        self._sum[row] = self._crowd_sum * (count / np.maximum(self._crowd_count, 1e-9))[:, None]
        self._known[row] = self._known_new[0]
        self._soon[row], self._soon_count[row], self._fade[row] = np.nan, 0.0, 1.0
        taken = self._of_row[row] = self._policy(policy or self._config.policy) if self.takes(policy) else None
        if taken is not None:
            taken.open(row, route)

    def advise(self, row: int, advantages: Floats, share: float) -> None:
        """See `Policy`; plain decoding has no advantage."""
        policy = self._of_row[row]
        if policy is not None:
            policy.advise(row, np.concatenate([[0.0], advantages]), share)

    def learn(self, rows: Rows, routes: Sequence[str], released: Released, allowed: Bools) -> None:
        """Positions were released, one entry each.

        Args:
            rows: Whose they are, [positions].
            routes: The same sequences' routes.
            released: They.
            allowed: Drafters that the sequences may use at all, [positions, drafters].
        """
        eal, shares = released.eal, released.shares
        heard = shares[:, None] * ~np.isnan(eal[:, :, 0])
        known = np.where(heard[..., None] > 0, shares[:, None, None] * eal, 0.0)
        distinct, place = np.unique(rows, return_inverse=True)
        counts = summed(heard, place, len(distinct))
        keep = self._config.discount**counts
        self._sum[distinct] = keep[..., None] * self._sum[distinct] + summed(known, place, len(distinct))
        self._count[distinct] = keep * self._count[distinct] + counts
        counts = heard.sum(axis=0)
        keep = (1.0 - 1.0 / self._config.prior_memory) ** counts
        self._crowd_sum = keep[:, None] * self._crowd_sum + known.sum(axis=0)
        self._crowd_count = keep * self._crowd_count + counts
        losses = self._losses(eal)
        with_plain = self._ladder.with_plain(allowed)
        for policy, mine in self._by_policy(rows):
            policy.learn(rows[mine], losses[mine], with_plain[mine], shares[mine])
        self.prior.learn(routes, losses, shares)

    def hear(self, rows: Rows, forecasts: Sequence[Forecast]) -> None:
        """Take what is known of sequences' positions that are not released."""
        for row, forecast in zip(rows.tolist(), forecasts, strict=True):
            self._soon[row], self._soon_count[row], self._fade[row] = forecast.eal, forecast.counts, forecast.fade

    def price(self, rows: Rows, available: Bools, others: int) -> None:
        """Take the costs of this moment for sequences that run together, and for one that would begin now.

        Args:
            rows: All sequences of one target, [rows].
            available: Drafters that they may use now, [rows, drafters].
            others: Sequences that decode plainly beside them.
        """
        askers = max(len(rows), 1)
        prices = self.cost.prices(askers + others, askers)
        if prices is None or self._config.loss == "eal" or not len(available.T):
            return
        crowd = self._crowd_sum / np.maximum(self._crowd_count, 1e-9)[:, None]
        if len(rows):
            more, wait, asked = self.cost.extra(prices, rows)
            eal = np.where(available[..., None], self._mean(rows), -np.inf)
        else:
            more, wait, asked = self.cost.extra(prices, None)
            eal = crowd[None]
        tokens = self._ladder.arms(eal, np.ones(len(eal)))
        rate, share = going_rate(tokens, more, wait, asked, prices.plain_ms, others)
        if len(rows):
            self._known[rows, 1:] = self._part(rate * (more + share * wait))
        more, wait, _ = self.cost.extra(prices, None)
        self._known_new[:, 1:] = self._part(rate * (more + share * wait))

    def weights(self, rows: Rows, available: Bools) -> tuple[Floats, Rows]:
        """Weights and draft lengths of some sequences, both [rows, drafters]; what weights leave to 1 is plain
        decoding's. Sequences that are not learned about here have lengths 0.

        Args:
            rows: [rows].
            available: Drafters that they may use now, [rows, drafters].
        """
        weights, lengths = np.zeros(available.shape), np.zeros(available.shape, dtype=np.intp)
        with_plain = self._ladder.with_plain(available)
        counts = self._soon_count[rows]
        counts = np.hstack([counts.max(axis=1, keepdims=True, initial=0.0), counts])
        losses = self._losses(self._soon[rows])
        for policy, mine in self._by_policy(rows):
            pending = Pending(losses[mine], counts[mine], self._fade[rows[mine]])
            given, option = policy.outlook(rows[mine], with_plain[mine], pending)
            weights[mine], lengths[mine] = given[:, 1:], self._ladder.lengths[option[:, 1:]]
        return weights, lengths

    def begin(self, available: Bools) -> tuple[Floats, Rows]:
        """Weights and lengths, [drafters], of a sequence that has none of its own yet."""
        with_plain = self._ladder.with_plain(available)
        weights, option = self.prior.outlook(with_plain)
        if not self._config.prior_weight:
            weights = available / max(int(available.sum()), 1)
            return weights, self._ladder.lengths[option[1:]]
        return weights[1:], self._ladder.lengths[option[1:]]

    def _mean(self, rows: Rows) -> Floats:
        """Mean EAL of sequences, [rows, drafters, lengths]; 0 where nothing is known."""
        fade, soon = self._fade[rows][:, None], self._soon_count[rows]
        total = fade[..., None] * self._sum[rows] + np.where(soon > 0, soon, 0.0)[..., None] * np.nan_to_num(
            self._soon[rows]
        )
        result: Floats = total / np.maximum(fade * self._count[rows] + soon, 1e-9)[..., None]
        return result

    def _losses(self, eal: Floats) -> Floats:
        """The part in EAL of all arms' losses, [rows, 1 + drafters, lengths], of [rows, drafters, lengths]."""
        heard = ~np.isnan(eal[:, :, 0]).all(axis=1) if eal.shape[1] else np.zeros(len(eal), dtype=np.bool_)
        result: Floats = (self._most - self._ladder.arms(eal, np.where(heard, 1.0, np.nan))) / (2 * self._most)
        return result

    def _part(self, tokens: Floats) -> Floats:
        result: Floats = np.minimum(tokens, self._most) / (2 * self._most)
        return result

    def _by_policy(self, rows: Rows) -> list[tuple[LearnedPolicy, Bools]]:
        """Each policy that some of the rows follow, and which do."""
        of = [self._of_row[row] for row in rows.tolist()]
        return [(p, np.array([mine is p for mine in of])) for p in self._policies.values() if p in of]

    def _policy(self, name: str) -> LearnedPolicy:
        if name not in self._policies:
            config = self._config
            learner = FULL_INFORMATION[name](
                config.max_sequences, config.discount, len(self._ladder), lambda rows: self._known[rows]
            )
            policy = self._policies[name] = LearnedPolicy(learner, config.discount, self.prior, config.prior_weight)
            for _ in range(self._columns):
                policy.join("")
        return self._policies[name]
