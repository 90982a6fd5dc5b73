"""What could have been had, known only afterwards: the best fixed drafter, the best one per request, the best rounds.

They exist offline only. All take their times from the same fit as the policies, so that shares of them compare choices
and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.cluster.replay.fitted_times import FittedTimes
from paceline.cluster.replay.player import Outcome
from paceline.cluster.replay.trajectory import Trajectory


def request_oracle(fixed: Sequence[Outcome]) -> Outcome:
    """For every request the fixed drafter, or plain decoding, that was fastest on it."""
    oracle = Outcome("request oracle")
    for index in range(len(fixed[0].ms)):
        best = min(fixed, key=lambda outcome: outcome.ms[index])
        oracle.rounds.append(best.rounds[index])
        oracle.tokens.append(best.tokens[index])
        oracle.ms.append(best.ms[index])
        oracle.by_drafter[best.name] += best.rounds[index]
    return oracle


def round_oracle(
    trajectories: Sequence[Trajectory], drafters: Sequence[str], times: FittedTimes, max_draft: int
) -> Outcome:
    """For every round the drafter and the length that make the whole sequence fastest, found from its end backwards.

    With T(i, k) the time of a round and a_i(t) what drafter i would have had accepted from t on, the least time from t
    to the end is V(t) = min over i, k <= a_i(t) of T(i, k) + V(t + k + 1); drafting more than is accepted only costs.
    """
    oracle = Outcome("round oracle")
    costs = np.array(  # [drafters, lengths]; length 0 is plain decoding
        [[times.round_ms(drafter, length) for length in range(max_draft + 1)] for drafter in range(len(drafters))]
    ).reshape(len(drafters), max_draft + 1)
    plain_ms = times.round_ms(None, 0)
    for trajectory in trajectories:
        end = len(trajectory)
        value = np.zeros(end + 1)
        step = np.ones(end, dtype=np.int64)
        for position in range(end - 1, -1, -1):
            value[position] = plain_ms + value[position + 1]
            for drafter in range(len(drafters)) if position else ():
                accepted, _ = trajectory.accepted(position, drafter, min(max_draft, end - position - 1))
                if accepted:
                    lengths = np.arange(1, accepted + 1)
                    totals = costs[drafter, lengths] + value[position + lengths + 1]
                    best = int(totals.argmin())
                    if totals[best] < value[position]:
                        value[position], step[position] = totals[best], best + 2
        rounds = position = 0
        while position < end:
            position += int(step[position])
            rounds += 1
        oracle.rounds.append(rounds)
        oracle.tokens.append(end)
        oracle.ms.append(float(value[0]))
    return oracle
