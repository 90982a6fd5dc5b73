"""What interleaved rows come to: tokens per round and per second by arm, shares of each other, oracles, and how sure.

Tokens per round are 1 + accepted tokens per round, the bonus token included; the round that runs the prompt, in which
nobody can draft, is left out. Standard errors are over prompts, by bootstrap with all arms on the same drawn prompts;
the spread is over repetitions. `bench_effect` and `bench_router` call it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from kept_rows import Row

Floats = npt.NDArray[np.float64]
Rates = Callable[[Floats, int | None], Floats]

DRAWS = 2000
PER_ROUND, PER_SECOND = "tokens per round", "tokens per second"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure over all repetitions.

    Attributes:
        value: Tokens per round: over all repetitions together. Tokens per second: the median of the repetitions.
        error: Standard error, over prompts; NaN where there is only one.
        low, high: Least and most of the repetitions.
    """

    value: float
    error: float
    low: float
    high: float

    def rounded(self) -> dict[str, float | None]:
        """For JSON, which has no NaN."""
        figures = {name: float(getattr(self, name)) for name in ("value", "error", "low", "high")}
        return {name: None if np.isnan(figure) else round(figure, 4) for name, figure in figures.items()}


class ArmFigures:
    """Figures of one temperature.

    Args:
        rows: As `interleaved_arms` keeps them; those of others are left out.
        arms: Names.
        domains: Of each prompt, [prompts]; later ones are left out.
        repeats: How many.
        temperature: Which.

    Raises:
        SystemExit: a row is missing.
    """

    def __init__(
        self, rows: Sequence[Row], arms: Sequence[str], domains: Sequence[str], repeats: int, temperature: float
    ) -> None:
        self.arms = list(arms)
        self.domains = np.array(domains)
        self._gained: dict[str, Floats] = {name: np.full((repeats, len(domains)), np.nan) for name in arms}
        self._rounds, self._tokens, self._seconds = ({n: a.copy() for n, a in self._gained.items()} for _ in range(3))
        for row in rows:
            at = row["repeat"], row["prompt"]
            asked = row["arm"] in self._gained and row["temperature"] == temperature
            if asked and row["repeat"] < repeats and row["prompt"] < len(domains) and "explanation" not in row:
                rounds = row["rounds"] - 1  # an answer of one token has none that counts
                self._gained[row["arm"]][at] = rounds + row["accepted"]
                self._rounds[row["arm"]][at] = rounds
                self._tokens[row["arm"]][at] = row["tokens"]
                self._seconds[row["arm"]][at] = row["seconds"]
        if missing := [name for name in arms if np.isnan(self._tokens[name]).any()]:
            raise SystemExit(f"temperature {temperature:g}: not measured: {', '.join(missing)}")

    def add_oracle(self, name: str, among: Sequence[str], by: str, *, foreseen: bool = False) -> None:
        """A further arm: on each prompt, the one of `among` that did best there.

        Chosen and measured on the same answers, it is flattered by luck, where answers differ by luck. `foreseen`
        chooses for each repetition by what the others brought: an honest figure, and a worse one than could be had.
        """
        gained, spent = self._parts(by)
        rates = np.stack([_sums(gained[arm], foreseen) for arm in among])
        rates /= np.maximum(np.stack([_sums(spent[arm], foreseen) for arm in among]), 1e-9)
        self._add(name, among, rates.argmax(axis=0))

    def add_choice(self, name: str, chosen: Sequence[str]) -> None:
        """A further arm: on each prompt, the arm that was chosen for it."""
        among = list(dict.fromkeys(chosen))
        choice = np.array([among.index(arm) for arm in chosen])
        self._add(name, among, np.broadcast_to(choice, (len(self._gained[among[0]]), len(choice))))

    def _add(self, name: str, among: Sequence[str], choice: npt.NDArray[np.int64]) -> None:
        """`choice` is [repeats, prompts], numbers in `among`."""
        self.arms.append(name)
        for held in (self._gained, self._rounds, self._tokens, self._seconds):
            held[name] = np.take_along_axis(np.stack([held[arm] for arm in among]), choice[None], axis=0)[0]

    def best(self, among: Sequence[str], by: str) -> str:
        """The arm that is best over everything: known afterwards only."""
        return max(among, key=lambda name: self.rate(name, by).value)

    def rate(self, arm: str, by: str, domain: str | None = None) -> Estimate:
        """Tokens per round or per second."""
        return self._estimate(arm, None, by, domain)

    def ratio(self, arm: str, other: str, by: str, domain: str | None = None) -> Estimate:
        """An arm's rate as a multiple of another's, within each repetition and each draw of prompts."""
        return self._estimate(arm, other, by, domain)

    def _estimate(self, arm: str, other: str | None, by: str, domain: str | None) -> Estimate:
        gained, spent = self._parts(by)
        mine = np.full(len(self.domains), True) if domain is None else self.domains == domain

        def rates(weights: Floats, repeat: int | None) -> Floats:
            """[draws]; `weights` [draws, prompts] count how often each prompt is taken."""
            rows = slice(None) if repeat is None else slice(repeat, repeat + 1)
            parts = [
                (weights @ gained[name][rows].sum(axis=0)) / np.maximum(weights @ spent[name][rows].sum(axis=0), 1e-9)
                for name in (arm, *([other] if other else []))
            ]
            result: Floats = parts[0] / parts[1] if other else parts[0]
            return result

        whole = mine[None].astype(np.float64)
        each = [float(rates(whole, repeat)[0]) for repeat in range(len(gained[arm]))]
        value = float(rates(whole, None)[0]) if by == PER_ROUND else statistics.median(each)
        return Estimate(value, self._error(rates, mine), min(each), max(each))

    def _error(self, rates: Rates, mine: npt.NDArray[np.bool_]) -> float:
        own = np.flatnonzero(mine)
        if len(own) < 2:
            return float("nan")
        taken = own[np.random.default_rng(0).integers(len(own), size=(DRAWS, len(own)))]  # the same for all arms
        weights = np.zeros((DRAWS, len(mine)))
        np.add.at(weights, (np.arange(DRAWS)[:, None], taken), 1.0)
        return float(np.std(rates(weights, None)))

    def _parts(self, by: str) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """What is divided by what."""
        return (self._gained, self._rounds) if by == PER_ROUND else (self._tokens, self._seconds)


def _sums(values: Floats, others: bool) -> Floats:
    """Each repetition's own values, or the sum of all others'; [repeats, prompts]."""
    result: Floats = values.sum(axis=0) - values if others else values
    return result
