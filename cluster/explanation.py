"""What one request's rounds were, as `/v1/paceline/requests` tells it: plain data, read by `explain` and `record`.

`request_log` makes it in the selector's process, `explain_api` serves it, `client` reads it back.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ExplainedRound:
    """One round of one sequence. Times are milliseconds, None where not measured.

    Attributes:
        number: Counts from 0 in its sequence.
        start: Position of its first committed token, counted from the start of the prompt.
        committed: Tokens after it, so that it committed `committed - start`.
        drafter: The arm's drafter; empty is plain decoding.
        length: The arm's draft length.
        drafted: Tokens that were verified; 0 where the draft was late, broken or empty, or none was wanted.
        accepted: Those that were kept.
        carried: The draft was at hand from the round before.
        weights: By drafter, as the target held them when it chose; None where it had none of this selector's.
        lengths: By drafter, the draft length that went with its weight, where the selector set lengths: what weights
            leave to 1 was then plain decoding's. Elsewhere empty, and the target set them.
        gammas: By drafter, the acceptance at each committed position; None where it was not scored (yet). They come
            later than the round.
        draft_ms: How long the drafter took to answer; None where it was not asked, or did not.
        wait_ms: How long the round waited for all of its drafts.
        verify_ms: Forward and verification; None where prompts were run in it.
        round_ms: From the choice to the verdict.
        verify_tokens: Positions in the round's forward, over all of its sequences.
        sequences: Sequences that the target decoded in it.
        token_ids: What was committed, where `selector.explain_text` is on.
        text: The same as text.
    """

    number: int
    start: int
    committed: int
    drafter: str
    length: int
    drafted: int
    accepted: int
    carried: bool
    weights: dict[str, float] | None
    gammas: dict[str, list[float | None]]
    draft_ms: float | None
    wait_ms: float
    verify_ms: float | None
    round_ms: float
    verify_tokens: int
    sequences: int
    lengths: dict[str, int] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)
    text: str | None = None


@dataclass(frozen=True, slots=True)
class ExplainedSequence:
    """One sequence of a request: a choice, or what was left of one when its target replica was lost.

    Attributes:
        index: Of the choice.
        seq: The sequence's id in traces and logs.
        target: The target replica that decoded it.
        route: Whose statistics it shares.
        drafters: The only ones it was allowed; empty means all.
        prompt_tokens: Of the prompt, and of what was there already when the selector first heard of it.
        finished: Whether it has ended.
        age_s: Since it began.
        rounds: The first ones.
        rounds_left_out: Later ones, beyond `selector.explain_rounds`.
        rounds_lost: Rounds that the selector never heard of: holes in `rounds`.
    """

    index: int
    seq: int
    target: str
    route: str
    drafters: list[str]
    prompt_tokens: int
    finished: bool
    age_s: float
    rounds: list[ExplainedRound]
    rounds_left_out: int
    rounds_lost: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """One request: a sequence per choice, in their order. `number` counts the requests of a selector's life."""

    id: str
    number: int
    finished: bool
    choices: list[ExplainedSequence]


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """A request on one line. `tokens` are those of the rounds that are known; `rounds` are by drafter, `plain` too."""

    id: str
    number: int
    finished: bool
    age_s: float
    choices: int
    tokens: int
    rounds: dict[str, int]


@dataclass(frozen=True, slots=True)
class RequestList:
    """The newest requests, newest first. `kept` is how many can be asked for, of at most `most`; `seen` how many there
    were.

    `life` changes whenever the selector restarts, and numbers begin anew.
    """

    requests: list[RequestSummary]
    kept: int
    most: int
    seen: int
    life: str
