"""A generation as the engine takes it, and what it streams back: one chunk per round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paceline.actors.sampling import LogitsProcessing, Sampling

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Generation:
    """One sequence to generate. A request with n choices is n of these.

    Attributes:
        request_id: Unique while it runs; `abort` takes it. Choice i of request R is `R-i`.
        prompt: Token ids; at least one.
        max_tokens: Most tokens to generate, at least 1; prompt and answer together fit the target's context.
        stop_ids: Token ids that end the text; the one that does is the last id streamed.
        sampling: How tokens are drawn.
        processing: What is changed of the logits before; None changes nothing, and costs nothing.
        logprobs: Likeliest tokens whose log-probabilities come with each token's own; None for none at all.
        answered: Tokens at the prompt's end that are the answer's own: it was begun elsewhere, and goes on here.
        drafters: The only drafters that may be used; empty means all.
        speculate: False decodes plainly.
        max_draft: Most tokens to draft in a round; None takes the cluster's setting.
        policy: Who chooses among the drafters; empty means the cluster's policy.
        route: Statistics are shared by requests of one route.
        streamed: Whether each round's tokens are wanted at once; else they may be handed over several rounds at a time.
        show_weights: Whether each chunk tells the weights by which its drafter was drawn.
        sketch: The prompt's, for the selector (`prompt_sketch`); empty where none is wanted.
        caller: Name of the actor that reads it, which may die without saying so; empty where nobody can.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    stop_ids: frozenset[int]
    sampling: Sampling = Sampling()
    processing: LogitsProcessing | None = None
    logprobs: int | None = None
    answered: int = 0
    drafters: tuple[str, ...] = ()
    speculate: bool = True
    max_draft: int | None = None
    policy: str = ""
    route: str = ""
    streamed: bool = True
    sketch: bytes = b""
    caller: str = ""
    show_weights: bool = False


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A token's log-probability, and the likeliest tokens at its position, in falling order.

    All of the target's own law, the log-softmax of its logits: before temperature, top-k, top-p and any processing.
    """

    logprob: float
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one round added to one sequence. `finish_reason` is set on the last chunk and only there.

    `drafter` is empty for a plain round; `drafted` counts tokens that were verified and `accepted` those kept, so
    `token_ids` holds `accepted + 1` ids unless the text ended inside them. `stop` ends with the stop id itself.
    `cached` counts the prompt tokens whose keys and values were there before the sequence began.
    `weights` are those by which the drafter was drawn, where the generation asks for them. `logprobs` has an item for
    each of `token_ids` where they were asked for, and else none.
    """

    token_ids: list[int]
    finish_reason: FinishReason | None = None
    drafter: str = ""
    drafted: int = 0
    accepted: int = 0
    cached: int = 0
    weights: dict[str, float] | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
