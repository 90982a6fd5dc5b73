"""A target under load, simulated: the cluster's own selector, learners and rules over invented texts and stated times.

One target decodes c sequences at a time, each as soon as another ends, until all requests are done. What is real:
`Selector` with all that it learns, `choose_arms` with the target's rules, carried drafts. What is invented: texts, what
drafters make of them, and time, which is counted and not measured. News travels as in the cluster: reports are gathered
for 0.1 s, updates go out at least 0.1 s apart, scores come with the next report.

**Times**, milliseconds. A forward of p positions takes what was measured of the embedded model on 2 CPU cores over 300
positions (docs/decisions.md) at 1, 4 and 8 positions, and goes on with the slope of the last two:

| | 1 | 4 | 8 | each more |
|---|---|---|---|---|
| bf16 | 14.9 | 16.1 | 19.1 | 0.75 |
| int4 | 5.0 | 7.0 | 12.4 | 1.35 |

A round takes 0.5 more, and 0.05 for each sequence. Every time is multiplied by a draw from 0.95 to 1.05; one round in
200 stalls for 30. Waiting for a draft of k tokens of m sequences takes 1.2 + 0.02 k of `copy`, 2.5 + (2.2 + 0.1 m) k of
a head.

**Texts** have 48 to 192 tokens and one of four domains. `copy` (an n-gram) guesses 0.95 of the tokens of passages that
repeat something, which are 30 tokens long on average, and elsewhere has a guess for one token in four, right one time
in four; how much of a text is such passages depends on its domain: 0.7, 0.3, 0.1, 0.02. Two heads guess 0.75 and 0.55
of a domain's tokens, each in two of them the better one, and of deeper tokens 0.93 of that for each step deeper, since
they build on their own guesses, which their scores do not show.

`bench_arms` and `tests/test_arms.py` call it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from paceline.actors.arm_choice import Arm, ask_length, carried_tokens, choose_arms
from paceline.actors.carried_draft import CarriedDraft, carry, first_tokens
from paceline.actors.draft_length import DraftLength
from paceline.actors.engine_counts import EngineCounts
from paceline.actors.held_weights import HeldWeights
from paceline.actors.learned_length import LearnedLength
from paceline.actors.messages import (
    Draft,
    DraftTiming,
    Heartbeat,
    RoundContext,
    Score,
    SequenceOpened,
    SequenceRound,
    TargetReport,
)
from paceline.actors.round_setup import Setup
from paceline.actors.sampling import Sampling
from paceline.cluster.config import SelectorConfig, SpeculationConfig
from paceline.cluster.selector import Selector

MOST = 15
DRAFTERS = ("copy", "head-a", "head-b")
REPEATED = (0.7, 0.3, 0.1, 0.02)  # of a text, by domain
HEADS = ((0.75, 0.55), (0.55, 0.75), (0.75, 0.55), (0.55, 0.75))  # by domain
PASSAGE = 30.0
DEEPER = 0.93
FORWARDS = {"bf16": ((1, 14.9), (4, 16.1), (8, 19.1)), "int4": ((1, 5.0), (4, 7.0), (8, 12.4))}
WARM_UP = 0.2  # of all tokens, which are not counted
GATHER_MS = UPDATE_MS = 100.0


@dataclass(frozen=True)
class Text:
    """What drafters make of one text, [positions, drafters]."""

    hits: npt.NDArray[np.bool_]  # each position from true context
    chained: npt.NDArray[np.float64]  # [positions]: a draw for deeper tokens
    offers: npt.NDArray[np.bool_]  # whether there is a guess at all

    def __len__(self) -> int:
        return len(self.hits)

    def draft(self, drafter: int, start: int, length: int) -> list[int]:
        """Tokens: 1 is right; from the first wrong one on all are wrong."""
        tokens: list[int] = []
        right = True
        for depth, at in enumerate(range(start, min(start + length, len(self)))):
            if not self.offers[at, drafter]:
                break
            kept = drafter == 0 or self.chained[at] < DEEPER**depth
            right = right and bool(self.hits[at, drafter]) and kept
            tokens.append(int(right))
        return tokens


def draw_texts(count: int, seed: int) -> list[Text]:
    """Seeded texts of all domains in turn."""
    chance = np.random.default_rng([seed, 17])
    texts = []
    for number in range(count):
        domain, tokens = number % len(REPEATED), int(chance.integers(48, 193))
        share = REPEATED[domain]
        leave, enter = 1.0 / PASSAGE, share / (1.0 - share) / PASSAGE
        repeating = np.zeros(tokens, dtype=np.bool_)
        inside = chance.random() < share
        for at in range(tokens):
            repeating[at] = inside
            inside = chance.random() >= leave if inside else chance.random() < enter
        guess = repeating | (chance.random(tokens) < 0.25)
        right = chance.random(tokens) < np.where(repeating, 0.95, 0.25)
        heads = chance.random((tokens, 2)) < np.array(HEADS[domain])
        hits = np.column_stack([guess & right, heads])
        offers = np.column_stack([guess, np.ones((tokens, 2), dtype=np.bool_)])
        texts.append(Text(hits, chance.random(tokens), offers))
    return texts


def forward_ms(kind: str, positions: int) -> float:
    """See the module's docstring."""
    amounts, times = zip(*FORWARDS[kind], strict=True)
    slope = (times[-1] - times[-2]) / (amounts[-1] - amounts[-2])
    return float(np.interp(positions, amounts, times)) + slope * max(positions - amounts[-1], 0)


def wait_ms(drafter: str, sequences: int, length: int) -> float:
    """See the module's docstring."""
    return 1.2 + 0.02 * length if drafter == "copy" else 2.5 + (2.2 + 0.1 * sequences) * length


@dataclass(eq=False)
class Running:
    """A sequence as `choose_arms` sees one."""

    seq: int
    text: Text
    at: int = 0
    carried: CarriedDraft | None = None
    drafters: tuple[str, ...] = ()
    generation: Any = field(default_factory=lambda: SimpleNamespace(drafters=(), speculate=True))
    sampling: Sampling = field(default_factory=Sampling)
    scored: int = 0

    @property
    def remaining(self) -> int:
        return len(self.text) - self.at

    def draft_limit(self, max_draft: int) -> int:
        return max(0, min(max_draft, self.remaining - 1)) if self.at else 0


class _Pool:
    def serves(self, drafter: str, seq: int) -> bool:
        return True

    def draft_ms(self, drafter: str) -> float:
        return wait_ms(drafter, 1, 4)


class _Board:
    """Held weights, and the selector behind a wire with delays."""

    def __init__(self, selector: Selector, drafting: bool) -> None:
        self._selector = selector
        self._drafting = drafting
        self._held = HeldWeights(None, 1.0, lambda: 0.0)
        self._connection = selector.connect("target")
        self._news: list[TargetReport] = []
        self._scores: list[tuple[str, Score]] = []
        self._report_at = self._update_at = 0.0
        self._live: set[int] = set()

    def weights(self, seq: int) -> Mapping[str, float]:
        return self._held.weights(seq) if self._drafting else {}

    def lengths(self, seq: int) -> Mapping[str, int]:
        return self._held.lengths(seq)

    def opened(self, seq: int) -> None:
        self._live.add(seq)
        self._news.append(TargetReport("target", opened=[SequenceOpened(seq, 1)]))
        self._report_at = 0.0

    def closed(self, seq: int) -> None:
        self._live.discard(seq)
        self._held.closed(seq)
        self._news.append(TargetReport("target", closed=[seq]))

    def told(self, report: TargetReport, scores: Sequence[tuple[str, Score]]) -> None:
        self._news.append(report)
        self._scores += scores

    def travel(self, now_ms: float) -> None:
        """Whatever is due arrives."""
        if self._news and now_ms >= self._report_at:
            for drafter, score in self._scores:
                self._selector.scores(drafter, [score])
            self._selector.report(self._connection, *self._news)
            self._news, self._scores, self._report_at = [], [], now_ms + GATHER_MS
        if now_ms >= self._update_at and (update := self._selector.update(self._connection)) is not None:
            self._held.apply(update, lambda seq: seq in self._live)
            self._update_at = now_ms + UPDATE_MS


@dataclass
class Outcome:
    """Of one run, from `began` on: tokens and milliseconds before are those of times that nobody knew yet."""

    tokens: int = 0
    ms: float = 0.0
    began: tuple[int, float] = (0, 0.0)
    lengths: Counter[int] = field(default_factory=Counter)  # of arms, by sequence-rounds
    drafters: Counter[str] = field(default_factory=Counter)

    @property
    def per_s(self) -> float:
        """Tokens a second."""
        return 1e3 * (self.tokens - self.began[0]) / (self.ms - self.began[1])


def run(
    texts: Sequence[Text],
    concurrency: int,
    kind: str,
    setter: str,
    *,
    fixed: int = MOST,
    seed: int = 0,
    **selector: Any,
) -> Outcome:
    """Decode all texts.

    Args:
        texts: Requests, in order.
        concurrency: Sequences at a time.
        kind: Of forward.
        setter: `plain`, or as `speculation.draft_length`; `longest` drafts `fixed` tokens.
        fixed: The longest draft of the target.
        seed: Of draws by weight and of times.
        selector: Settings of the selector.
    """
    chance = Random(seed)
    named = "longest" if setter == "plain" else setter
    speculation = SpeculationConfig.model_validate({"max_draft": MOST, "draft_length": named})
    core = Selector(SelectorConfig(explain_requests=0, **selector), speculation, 1.0, lambda: 0.0)
    for name in DRAFTERS:
        core.register(Heartbeat(name, "simulated", "sim:1"))
    board = _Board(core, setter != "plain")
    rule = None if named == "longest" else DraftLength()
    setup = cast(
        Setup,
        SimpleNamespace(
            board=board, pool=_Pool(), lengths=rule, learned=LearnedLength(), max_draft=fixed, chance=chance,
            counts=EngineCounts(),
        ),
    )  # fmt: skip
    warm_up = WARM_UP * sum(map(len, texts))
    outcome, waiting, running = Outcome(), list(enumerate(texts, 1))[::-1], list[Running]()
    while waiting or running:
        while waiting and len(running) < concurrency:
            running.append(Running(*waiting.pop()))
            board.opened(running[-1].seq)
        board.travel(outcome.ms)
        _round(running, setup, board, kind, outcome, chance)
        if not outcome.began[0] and outcome.tokens >= warm_up:
            outcome.began = outcome.tokens, outcome.ms
            outcome.lengths.clear()
            outcome.drafters.clear()
        for sequence in [item for item in running if not item.remaining]:
            running.remove(sequence)
            board.closed(sequence.seq)
            if rule is not None:
                rule.closed(sequence.seq)
    return outcome


def _round(running: list[Running], setup: Setup, board: _Board, kind: str, outcome: Outcome, chance: Random) -> None:
    """As `round.speculative_round`, without a model."""
    arms: dict[int, Arm] = choose_arms(cast(Any, running), setup, DRAFTERS)
    whole: dict[int, Draft] = {}
    asks: dict[str, list[tuple[Running, int]]] = {}
    for item in running:
        if (arm := arms.get(item.seq)) is not None:
            if item.carried is not None and arm.length <= carried_tokens(cast(Any, item), arm.drafter):
                whole[item.seq] = item.carried.draft
            else:
                asks.setdefault(arm.drafter, []).append((item, ask_length(cast(Any, item), arm, setup.pool)))
    timings = []
    for drafter, those in asks.items():
        took = wait_ms(drafter, len(those), max(length for _, length in those)) * chance.uniform(0.95, 1.05)
        timings.append(DraftTiming(drafter, len(those), max(arms[item.seq].length for item, _ in those), took))
        for item, length in those:
            tokens = item.text.draft(DRAFTERS.index(drafter), item.at, length)
            if tokens:
                whole[item.seq] = Draft(item.seq, item.at, tokens)
    asked = {item.seq for those in asks.values() for item, _ in those}
    drafts = {seq: first_tokens(draft, arms[seq].length) for seq, draft in whole.items()}
    positions = len(running) + sum(len(draft.tokens) for draft in drafts.values())
    prompts = any(not item.at for item in running)
    verify = forward_ms(kind, positions) * chance.uniform(0.95, 1.05) + (30.0 if chance.random() < 0.005 else 0.0)
    waited = max((timing.draft_ms for timing in timings), default=0.0)
    round_ms = waited + verify + 0.5 + 0.05 * len(running)
    outcome.ms += round_ms
    rounds, scores, gained = [], list[tuple[str, Score]](), 0
    for item in running:
        arm, draft = arms.get(item.seq), drafts.get(item.seq)
        tokens = draft.tokens if draft else []
        accepted = min(next((i for i, token in enumerate(tokens) if not token), len(tokens)), item.remaining - 1)
        item.at += accepted + 1
        gained += accepted + 1
        item.carried = carry(arm.drafter, whole[item.seq], [1] * (accepted + 1)) if arm and draft else None
        outcome.lengths[arm.length if arm else 0] += 1
        outcome.drafters[arm.drafter if arm else "plain"] += 1
        carried = bool(tokens) and item.seq not in asked
        name, length = (arm.drafter, arm.length) if arm else ("", 0)
        rounds.append(SequenceRound(item.seq, item.at + 1, name, len(tokens), accepted, length, carried))
        if arm and setup.lengths is not None:
            setup.lengths.drafted(item.seq, arm.drafter, len(tokens), accepted, item.seq in asked)
        for column, drafter in enumerate(DRAFTERS):
            gammas = item.text.hits[item.scored : item.at, column].astype(np.float32)
            scores.append((drafter, Score(item.seq, item.scored + 1, gammas)))
        item.scored = item.at
    outcome.tokens += gained
    told_ms = 0.0 if prompts else verify
    if setup.lengths is not None and not prompts:
        setup.lengths.timed(timings, verify, positions, gained, round_ms)
    context = RoundContext(waited, round_ms, 0)
    report = TargetReport(
        "target", rounds=rounds, drafts=timings, verify_ms=told_ms, verify_tokens=positions, context=context
    )
    board.told(report, scores)
