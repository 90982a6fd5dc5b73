"""How close does the selector's learner come to the best drafter, when nothing but learning matters?

Greedy chains (every gamma is 0 or 1), K = 7, one drafter accepted at 0.88 per token, the others near 0.62, no prior:
the learner starts each run from nothing. With `--switch`, the best drafter changes half-way. The rings, delays and
learners are the selector's own; all runs are one batch of learners. Prints a table of tokens per round and ends with
one JSON line.

    python benchmarks/sim_selector.py [--runs 40] [--seed 0] [--drafters 7] [--switch]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys

import numpy as np
import numpy.typing as npt

from paceline.cluster.gamma_ring import GammaRing
from paceline.cluster.normalhedge import NormalHedge

MAX_DRAFT = 7
BEST, OTHERS = 0.88, 0.62
COLUMNS = [
    ("fixed drafter 0", "fixed", 1.0),
    ("NormalHedge", "normalhedge", 1.0),
    ("discount 0.98", "normalhedge", 0.98),
    ("discount 0.97", "normalhedge", 0.97),
    ("uniform", "uniform", 1.0),
]
Floats = npt.NDArray[np.float64]
Hits = npt.NDArray[np.float32]


def draw_hits(tokens: int, drafters: int, switch: bool, rng: np.random.Generator) -> Hits:
    """Whether each drafter guesses each position, [positions, drafters]; drafter 0 is best, 1 after a switch."""
    rates = np.tile(np.clip(rng.normal(OTHERS, 0.03, drafters), 0.5, 0.7), (tokens + 2 * MAX_DRAFT, 1))
    half = tokens // 2 if switch else len(rates)
    rates[:half, 0] = BEST
    rates[half:, 1] = BEST
    return (rng.random(rates.shape) < rates).astype(np.float32)


class Run:
    """One request: its text, its ring, and how far it has come."""

    def __init__(self, tokens: int, drafters: int, switch: bool, seed: list[int]) -> None:
        self.rng = np.random.default_rng(seed)
        self.hits = draw_hits(tokens, drafters, switch, self.rng)  # the same for every learner
        self.ring = GammaRing(0, MAX_DRAFT, 0, drafters)
        self.tokens = tokens
        self.committed = self.rounds = 0

    def round(self, weights: Floats) -> Floats:
        """Play a round by these weights, [drafters]; returns the EALs that it releases, [released, drafters]."""
        drafter = self.rng.choice(len(weights), p=weights)
        accepted = int(np.cumprod(self.hits[self.committed : self.committed + MAX_DRAFT, drafter]).sum())
        end = self.committed + accepted + 1
        for column in range(len(weights)):
            self.ring.put(column, self.committed, self.hits[self.committed : end, column])
        self.committed, self.rounds = end, self.rounds + 1
        return self.ring.advance(end)


def simulate(
    law: str, discount: float, tokens: int, drafters: int = 7, switch: bool = False, runs: int = 40, seed: int = 0
) -> float:
    """Mean tokens per round over runs; the same seed gives every learner the same text."""
    hedge = NormalHedge(runs, discount)
    for _ in range(drafters):
        hedge.join()
    requests = [Run(tokens, drafters, switch, [seed, run]) for run in range(runs)]
    everyone = np.ones((runs, drafters), dtype=np.bool_)
    constant = {"fixed": np.eye(drafters)[[0] * runs], "uniform": everyone / drafters}
    while playing := [row for row, request in enumerate(requests) if request.committed < tokens]:
        weights = constant[law] if law in constant else hedge.weights(np.arange(runs), everyone)
        released = {row: requests[row].round(weights[row]) for row in playing}
        for step in range(max(map(len, released.values()))):
            rows = [row for row, eal in released.items() if len(eal) > step]
            hedge.learn(np.array(rows), 1.0 - np.array([released[row][step] for row in rows]) / (MAX_DRAFT + 1))
    return float(np.mean([request.committed / request.rounds for request in requests]))


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drafters", type=int, default=7)
    parser.add_argument("--switch", action="store_true", help="the best drafter changes half-way")
    args = parser.parse_args()
    print("| |" + "".join(f" {title} |" for title, _, _ in COLUMNS))
    print("|---|" + "---|" * len(COLUMNS))
    table: dict[str, dict[str, float]] = {}
    for tokens in (128, 512):
        name = f"N={args.drafters}, {tokens} tokens"
        table[name] = {
            title: round(simulate(law, discount, tokens, args.drafters, args.switch, args.runs, args.seed), 3)
            for title, law, discount in COLUMNS
        }
        print(f"| {name} |" + "".join(f" {value:.2f} |" for value in table[name].values()))
    result = {
        "benchmark": "sim_selector",
        "argv": sys.argv[1:],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "tokens_per_round": table,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
