"""`paceline explain ID`: what was chosen for a request, round by round, why, and what each drafter would have done."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline.cluster.client import Client
from paceline.cluster.explanation import ExplainedRound, ExplainedSequence, RequestList
from paceline.cluster.speculation_report import PLAIN

SHOWN_WEIGHTS = 3
NEWEST = 20
PIPED_WIDTH = 200  # where there is no terminal whose width would count


def explain(url: str, request: str | None, console: Console | None = None) -> int:
    """Print one request, or the newest ones where none is named. Returns 0, or 1 where none is kept.

    Args:
        url: Where the endpoint is.
        request: The id of a reply.
        console: Where to print; default standard output.

    Raises:
        PacelineError: nothing answers, or not paceline, or nothing is kept of such a request.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    with Client(url) as client:
        if request is None:
            newest = client.requests(NEWEST)
            if not newest.requests:
                console.print(f"no request is kept; {newest.seen} were seen since the selector's last start")
                return 1
            console.print(request_table(newest))
            return 0
        found = client.explain(request)
    for choice in found.choices:
        console.print(heading(choice), markup=False, highlight=False, soft_wrap=True)
        console.print(round_table(choice))
    return 0


def request_table(newest: RequestList) -> Table:
    """A line per request, newest first."""
    table = _table(("request", "left"), ("state", "left"), ("age s", "right"), ("choices", "right"))
    for column in ("tokens", "rounds"):
        table.add_column(column, justify="right")
    table.add_column("rounds by drafter")
    for item in newest.requests:
        shares = ", ".join(f"{name} {count}" for name, count in item.rounds.items())
        state = "ended" if item.finished else "runs"
        rounds = sum(item.rounds.values())
        table.add_row(item.id, state, f"{item.age_s:.1f}", str(item.choices), str(item.tokens), str(rounds), shares)
    return table


def heading(choice: ExplainedSequence) -> str:
    """What a choice's table does not say."""
    tokens = choice.rounds[-1].committed - choice.prompt_tokens if choice.rounds else 0
    parts = [
        f"choice {choice.index} ({'ended' if choice.finished else 'runs'}) on {choice.target}",
        f"{choice.prompt_tokens} prompt tokens, {tokens} in {len(choice.rounds)} rounds",
    ]
    if choice.drafters:
        # Named by the request, or all fast drafters and a sample of the slow ones: the selector is not told which.
        parts.append(f"followed by {', '.join(choice.drafters)} alone")
    if choice.rounds_left_out:
        parts.append(f"{choice.rounds_left_out} later rounds are not kept")
    if choice.rounds_lost:
        parts.append(f"{choice.rounds_lost} holes: rounds that the selector never heard of")
    return "; ".join(parts)


def round_table(choice: ExplainedSequence) -> Table:
    """A line per round.

    `arm` is what was chosen, and `why` the largest weights at that moment; `drafted` and `kept` what came of it. A
    drafter's own column holds its acceptance at each position that the round committed, in tenths, which came later:
    `*` is a token that it would have got right for sure, 0 one that it would have missed, `.` one it did not score.
    """
    drafters = sorted({name for entry in choice.rounds for name in entry.gammas})
    table = _table(("round", "right"), ("arm", "left"))
    table.add_column("why")
    for column in ("drafted", "kept", "wait ms", "verify ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for drafter in drafters:
        table.add_column(drafter, no_wrap=True)
    spelled = any(entry.text is not None for entry in choice.rounds)
    if spelled:
        table.add_column("text")
    for entry in choice.rounds:
        verify = "prompt" if entry.verify_ms is None else f"{entry.verify_ms:.1f}"
        row = [str(entry.number), arm(entry), why(entry), str(entry.drafted), str(entry.accepted)]
        row += [f"{entry.wait_ms:.1f}", verify]
        row += [
            _acceptances(entry.gammas.get(drafter, [None] * (entry.committed - entry.start))) for drafter in drafters
        ]
        table.add_row(*row, *([escape(repr(entry.text or ""))] if spelled else []))
    return table


def arm(entry: ExplainedRound) -> str:
    """The drafter and draft length that were wanted, and what went otherwise."""
    if not entry.drafter:
        return PLAIN
    wanted = f"{entry.drafter} {entry.length}"
    if not entry.drafted:
        return f"{wanted}, no draft"
    return f"{wanted}, at hand" if entry.carried else wanted


def why(entry: ExplainedRound) -> str:
    """The largest weights at the choice, with the lengths that the selector had set."""
    if entry.weights is None:
        return "no weights yet"
    shares = {
        f"{name} {entry.lengths[name]}" if name in entry.lengths else name: w for name, w in entry.weights.items()
    }
    if entry.lengths:
        shares[PLAIN] = round(1.0 - sum(shares.values()), 2)
    largest = sorted(shares.items(), key=lambda item: -item[1])[:SHOWN_WEIGHTS]
    return ", ".join(f"{name} {weight:.2f}" for name, weight in largest if weight > 0) or "no drafter is up"


def _acceptances(gammas: list[float | None]) -> str:
    return "".join("." if gamma is None else "*" if gamma >= 1.0 else str(int(10 * gamma)) for gamma in gammas)


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True)
    return table
