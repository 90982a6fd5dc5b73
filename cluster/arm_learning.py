"""One learner for drafter, draft length and off: arms are (drafter, length), and plain decoding.

Acceptance is what has to be learned, and full information teaches it for all arms at once: the same gammas tell how
many rounds every drafter would have needed at every length. What a round costs is known (`arm_cost`), and changes at
once when the load does. The loss is the time that the arm alone would take,

    loss(t) = 3 u(t) (tau + x) / tau,

u(t) being the chance that a round of the arm's own begins at position t (`round_chain`), x the time by which it makes a
round longer than plain decoding, and tau what a round without it is worth to the sequence: alone, the time of a plain
round. The learners book u only, and the rest is its price, at the load of the moment, whenever weights are made
(`learner`). A batch that grows from one sequence to eight thus moves weight to short drafts or to plain decoding with
the next update, not after the 33 positions that a learner remembers; and since drafters go on being scored while
nobody drafts, it comes back in the same way.

With others in the batch, tau follows from the rate rho of tokens per millisecond that all make together: the arm that
maximises tokens - rho x is right for all (`going_rate`), so that with v the best of these, 1 = u (v + rho x) for the
best arm and less for no arm; tau is v / rho.

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
from paceline.cluster.gamma_ring import Forecast
from paceline.cluster.learned_policy import LearnedPolicy
from paceline.cluster.learner import Bools, Floats, Pending, Rows, grouped, summed
from paceline.cluster.policy import FULL_INFORMATION
from paceline.cluster.round_cost import ROUND
from paceline.cluster.shared_prior import Known, SharedPrior

RATE_START = 8.0  # positions that the cluster's rounds count for in a new sequence
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
        self.cost = ArmCost(rows, ladder.lengths)
        self.truth = DraftTruth(ladder.rungs[-1])
        self._price: Floats = np.full((rows, 1, lengths), ROUND)  # of every arm's rounds, now
        self._price_new: Floats = np.full((1, 1, lengths), ROUND)  # the same of a sequence that begins
        self._sum: Floats = np.zeros((rows, 0, lengths))  # rounds by arm, and the positions of which that is
        self._count: Floats = np.zeros((rows, 0))
        self._soon: Floats = np.zeros((rows, 0, lengths))  # of positions that are not released: mean u,
        self._soon_count: Floats = np.zeros((rows, 0))  # how many, and what is left of what was before them
        self._fade: Floats = np.ones(rows)
        self._crowd_sum: Floats = np.zeros((0, lengths))
        self._crowd_count: Floats = np.zeros(0)
        self.prior = SharedPrior(config.prior_memory, lengths, lambda rows: self._price_new[np.zeros_like(rows)])
        self._policies: dict[str, LearnedPolicy] = {}
        self._of_row: list[LearnedPolicy | None] = [None] * rows
        self._columns = 1  # plain decoding is the first
        self.prior.join()
        rounds = np.full(lengths, HOPE_POSITIONS)  # plain decoding was played, a round for each token
        cost = ROUND * HOPE_POSITIONS
        self.prior.remember(0, {"": Known(rounds, rounds, cost, cost)})
        self._policy(config.policy if config.policy in FULL_INFORMATION else next(iter(FULL_INFORMATION)))

    def join(self) -> None:
        """A new drafter takes the next column. What is hoped of it lets it begin with drafts of a fair length."""
        lengths = len(self._ladder)
        self.cost.join()
        self.truth.join()
        self._columns += 1
        wide = np.zeros((len(self._count), 1, lengths))
        self._sum = np.concatenate([self._sum, wide], axis=1)
        self._price = np.concatenate([self._price, np.full_like(wide, ROUND)], axis=1)
        self._price_new = np.concatenate([self._price_new, np.full_like(wide[:1], ROUND)], axis=1)
        self._soon = np.concatenate([self._soon, np.full_like(wide, np.nan)], axis=1)
        self._count = np.hstack([self._count, wide[:, :, 0]])
        self._soon_count = np.hstack([self._soon_count, wide[:, :, 0]])
        self._crowd_sum, self._crowd_count = np.vstack([self._crowd_sum, wide[0]]), np.append(self._crowd_count, 0.0)
        self.prior.join()
        tokens = (1.0 - HOPE ** (self._ladder.lengths + 1.0)) / (1.0 - HOPE)  # of a round
        rounds = np.asarray(HOPE_POSITIONS / tokens, dtype=np.float64)
        hoped = Known(rounds, np.zeros(lengths), 0.0, ROUND * HOPE_POSITIONS)
        self.prior.remember(self._columns - 1, {"": hoped})
        for policy in self._policies.values():
            policy.join("")

    def acceptance(self, column: int) -> tuple[Floats, float]:
        """A drafter's own rounds over the cluster: discounted sums [lengths], and of how many positions."""
        return self._crowd_sum[column].copy(), float(self._crowd_count[column])

    def accept(self, column: int, sums: Floats, positions: float) -> None:
        """Go on from another life's rounds."""
        self._crowd_sum[column], self._crowd_count[column] = sums, positions

    def price_of(self, column: int) -> Floats:
        """What a round of a drafter's costs a sequence that begins, [lengths]."""
        result: Floats = self._price_new[0, column + 1].copy()
        return result

    def restore_price(self, column: int, price: Floats) -> None:
        """Go on from another life's, until the next update has this one's; where rounds count alike, they do."""
        if self._config.loss == "time":
            self._price_new[0, column + 1] = price

    def takes(self, policy: str) -> bool:
        """Whether sequences of this policy are learned about here; empty is the cluster's policy."""
        return (policy or self._config.policy) in FULL_INFORMATION

    def open(self, row: int, route: str, policy: str) -> None:
        """A new sequence takes the row."""
        self.cost.open(row)
        count = np.minimum(self._crowd_count, RATE_START)
        self._count[row] = count
        self._sum[row] = self._crowd_sum * (count / np.maximum(self._crowd_count, 1e-9))[:, None]
        self._price[row] = self._price_new[0]
        self._soon[row], self._soon_count[row], self._fade[row] = np.nan, 0.0, 1.0
        taken = self._of_row[row] = self._policy(policy or self._config.policy) if self.takes(policy) else None
        if taken is not None:
            taken.open(row, route)

    def advise(self, row: int, advantages: Floats, share: float) -> None:
        """See `Policy`; plain decoding has no advantage."""
        policy = self._of_row[row]
        if policy is not None:
            policy.advise(row, np.concatenate([[0.0], advantages]), share)

    def learn(self, rows: Rows, routes: Sequence[str], starts: Floats, allowed: Bools) -> None:
        """Positions were released, one entry each.

        Args:
            rows: Whose they are, [positions].
            routes: The same sequences' routes.
            starts: As `GammaRings.advance` tells them, [positions, drafters, lengths].
            allowed: Drafters that the sequences may use at all, [positions, drafters].
        """
        heard = ~np.isnan(starts[:, :, 0])
        known = np.where(heard[..., None], starts, 0.0)
        distinct, _, place = grouped(rows)
        counts = summed(heard.astype(np.float64), place, len(distinct))
        keep = self._config.discount**counts
        self._sum[distinct] = keep[..., None] * self._sum[distinct] + summed(known, place, len(distinct))
        self._count[distinct] = keep * self._count[distinct] + counts
        counts = heard.sum(axis=0)
        keep = (1.0 - 1.0 / self._config.prior_memory) ** counts
        self._crowd_sum = keep[:, None] * self._crowd_sum + known.sum(axis=0)
        self._crowd_count = keep * self._crowd_count + counts
        losses = self._losses(starts)
        with_plain = self._ladder.with_plain(allowed)
        for policy, mine in self._by_policy(rows):
            policy.learn(rows[mine], losses[mine], with_plain[mine])
        self.prior.learn(routes, losses)

    def hear(self, rows: Rows, known: Forecast) -> None:
        """Take what is known of sequences' positions that are not released."""
        self._soon[rows], self._soon_count[rows], self._fade[rows] = known.starts, known.counts, known.fade

    def price(self, rows: Rows, available: Bools, others: int, new: Bools) -> None:
        """Take the costs of this moment for sequences that run together, and for one that would begin now.

        Args:
            rows: All sequences of one target, [rows].
            available: Drafters that they may use now, [rows, drafters].
            others: Sequences that decode plainly beside them.
            new: Drafters that a sequence which begins may use, [drafters].
        """
        askers = max(len(rows), 1)
        prices = self.cost.prices(askers + others, askers)
        if prices is None or self._config.loss == "eal" or not len(available.T):
            return
        crowd = np.where(new[None, :, None], self._bounded(_tokens(self._crowd_sum, self._crowd_count)[None]), -np.inf)
        if len(rows):
            more, wait, asked = self.cost.extra(prices, rows)
            tokens = np.where(available[..., None], self._tokens(rows), -np.inf)
        else:
            more, wait, asked = self.cost.extra(prices, None)
            tokens = crowd
        rate, share = going_rate(
            self._ladder.arms(tokens, np.ones(len(tokens))), more, wait, asked, prices.plain_ms, others
        )
        if len(rows):
            self._price[rows] = self._priced(tokens, more + share * wait, rate)
        more, wait, _ = self.cost.extra(prices, None)
        self._price_new = self._priced(crowd, more + share * wait, rate)

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

    def _tokens(self, rows: Rows) -> Floats:
        """Tokens of a round, [rows, drafters, lengths]; 0 where nothing is known."""
        fade, soon = self._fade[rows][:, None], self._soon_count[rows]
        rounds = fade[..., None] * self._sum[rows] + soon[..., None] * np.nan_to_num(self._soon[rows])
        return self._bounded(_tokens(rounds, fade * self._count[rows] + soon))

    def _bounded(self, tokens: Floats) -> Floats:
        """Positions fade and rounds begin at some of them, so that their ratio may pass what a round can bring."""
        result: Floats = np.where(tokens > 0, np.clip(tokens, 1.0, self._ladder.lengths + 1.0), 0.0)
        return result

    def _priced(self, tokens: Floats, extra_ms: Floats, rate: float) -> Floats:
        """What a round of each arm costs, [rows, 1 + drafters, lengths], from what it brings and takes beyond plain
        decoding, both [rows, drafters, lengths], where a millisecond is worth `rate` tokens."""
        none = np.zeros(len(tokens))
        value = self._ladder.arms(tokens - rate * extra_ms, none + 1.0).max(axis=(1, 2))[:, None, None]
        result: Floats = ROUND * (1.0 + rate * self._ladder.arms(extra_ms, none) / value)
        return result

    def _losses(self, starts: Floats) -> Floats:
        """All arms' losses without their prices, [rows, 1 + drafters, lengths], of [rows, drafters, lengths]."""
        heard = ~np.isnan(starts[:, :, 0]).all(axis=1)
        return self._ladder.arms(starts, np.where(heard, 1.0, np.nan))

    def _by_policy(self, rows: Rows) -> list[tuple[LearnedPolicy, Bools]]:
        """Each policy that some of the rows follow, and which do."""
        of = [self._of_row[row] for row in rows.tolist()]
        return [(p, np.array([mine is p for mine in of])) for p in self._policies.values() if p in of]

    def _policy(self, name: str) -> LearnedPolicy:
        if name not in self._policies:
            config = self._config
            learner = FULL_INFORMATION[name](
                config.max_sequences, config.discount, len(self._ladder), lambda rows: self._price[rows]
            )
            policy = self._policies[name] = LearnedPolicy(learner, config.discount, self.prior, config.prior_weight)
            for _ in range(self._columns):
                policy.join("")
        return self._policies[name]


def _tokens(rounds: Floats, positions: Floats) -> Floats:
    """Tokens of a round [.., lengths], from rounds [.., lengths] and the positions of which they are [..]; 0 where
    nothing is known."""
    known = positions[..., None] > 1e-6
    result: Floats = np.where(known, positions[..., None] / np.where(known, np.maximum(rounds, 1e-9), 1.0), 0.0)
    return result
