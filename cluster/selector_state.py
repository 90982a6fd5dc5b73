"""What the selector knows beyond single sequences, as a document that outlives it: what it is, and how a file holds it.

Everything lies under a drafter's name, since columns are those of one life. The file is written whole beside its place
and then moved there, so that a crash leaves the last one; only its owner can read it, since routes are the clients'
own words (`user`). `state_keeper` reads and writes it, `selector_memory` makes and takes it.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from paceline.actors.errors import ConfigError
from paceline.actors.prompt_sketch import BITS
from paceline.cluster.learner import Floats

FORMAT = "paceline selector state"
VERSION = 3
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Points = list[tuple[float, float]]  # work, milliseconds


class NewerState(ConfigError):  # noqa: N818 - named by what is there
    """The file was written by a later version of paceline."""


class BrokenState(ConfigError):  # noqa: N818
    """The file holds no state, or a damaged one."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def packed(coefficients: Floats) -> str:
    """Coefficients [features] as base64 of float32, little-endian."""
    return base64.b64encode(coefficients.astype("<f4").tobytes()).decode() if coefficients.any() else ""


def unpacked(text: str) -> Floats:
    """What `packed` made.

    Raises:
        ValueError: it is something else.
    """
    raw = base64.b64decode(text, validate=True)
    if len(raw) != 4 * (BITS + 1):
        raise ValueError(f"expected {BITS + 1} coefficients, got {len(raw) / 4:g}")
    coefficients = np.frombuffer(raw, dtype="<f4").astype(np.float64)
    if not np.isfinite(coefficients).all():
        raise ValueError("expected finite coefficients")
    return coefficients


def _coefficients(text: str) -> str:
    if text:
        unpacked(text)
    return text


class ArmPrior(_Document):
    """What a prior knows of one drafter with each length, or of plain decoding (`learner.Start`): rounds that it would
    have needed alone, those in which it was played and what they cost, and what all plays cost while it was awake."""

    alone: list[float]
    played: list[Amount]
    paid: Amount
    met: Amount


def _check_priors(priors: dict[str, ArmPrior], lengths: list[int]) -> None:
    """See that each prior is of all lengths.

    Raises:
        ValueError: one is not.
    """
    for route, prior in priors.items():
        if {len(prior.alone), len(prior.played)} != {len(lengths)}:
            raise ValueError(f"expected the prior of route {route!r} to be of {len(lengths)} lengths")


class DrafterArms(_Document):
    """One drafter, where the selector sets lengths.

    `lengths` are those that `prior`, `price` and `rounds_alone` are of: a drafter that has not come for long may have
    others than the rest. `prior` is by route, the cluster's under ""; `price` is what a round costs a sequence that
    begins; `rounds_alone` are discounted sums by length, of so many `positions`; `truth` is how often each depth was
    right and how often it was foretold to be; `wait_ms` by how many sequences asked, and then by tokens; `rounds` are
    counts of rounds, of those that asked, and of shares brought.
    """

    lengths: list[Count]
    prior: dict[str, ArmPrior]
    price: list[Amount]
    rounds_alone: list[Amount]
    positions: Amount
    truth: list[tuple[Amount, Amount]]
    wait_ms: dict[Count, Points]
    rounds: tuple[Amount, Amount, Amount]

    @model_validator(mode="after")
    def _of_all_lengths(self) -> DrafterArms:
        if {len(self.price), len(self.rounds_alone)} != {len(self.lengths)}:
            raise ValueError(f"expected a price and rounds for each of {len(self.lengths)} lengths")
        _check_priors(self.prior, self.lengths)
        return self


class ArmsState(_Document):
    """The rest of what is known where the selector sets lengths: these, plain decoding's prior, what each prior is
    worth, the target's forward by positions, and what a round takes beside it by sequences."""

    lengths: list[Count]
    plain: dict[str, ArmPrior]
    positions: dict[str, Amount]
    forward_ms: Points
    rest_ms: Points

    @model_validator(mode="after")
    def _of_all_lengths(self) -> ArmsState:
        _check_priors(self.plain, self.lengths)
        return self


class DrafterState(_Document):
    """One drafter. Means are discounted sums and counts, `starts` that of the positions at which a round of its own
    would have begun; `regret` is the priors', by route, the cluster's under "".

    `prompts` are the prompt predictor's coefficients (`packed`); empty where they are all 0.
    """

    gamma: tuple[Amount, Amount]
    starts: tuple[Amount, Amount]
    scored: Count
    rounds: Count
    drafted: Count
    accepted: Count
    draft_ms: Points
    regret: dict[str, float]
    prompts: Annotated[str, AfterValidator(_coefficients)] = ""
    arms: DrafterArms | None = None


class SelectorState(_Document):
    """All of it. `positions` are what each prior is worth, by route, the longest unused first; "" is the cluster."""

    format: Literal["paceline selector state"] = "paceline selector state"
    version: Literal[3] = 3
    policy: str
    drafters: dict[str, DrafterState]
    positions: dict[str, Amount]
    verify_ms: Points
    loads: list[Count]
    plain_rounds: Count
    arms: ArmsState | None = None


def read_state(path: Path) -> SelectorState | None:
    """What a file holds; None where there is none.

    Raises:
        NewerState: a later version wrote it.
        BrokenState: it cannot be read, or holds something else.
    """
    try:
        document: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BrokenState(f"{path}: cannot be read as a selector's state ({error})") from error
    version = document.get("version") if isinstance(document, dict) and document.get("format") == FORMAT else None
    if isinstance(version, int) and version > VERSION:
        raise NewerState(f"{path}: version {version}; this version of paceline reads up to {VERSION}")
    try:
        return SelectorState.model_validate(_of_means(document) if version in (1, 2) else document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BrokenState(f"{path}: is no selector's state ({field}: {first['msg']})") from error


def _of_means(document: dict[str, Any]) -> dict[str, Any]:
    """A document of version 1 or 2 as one of this. What those learned stands on expected lengths, averaged over
    positions, which is no number of rounds: it is left out, and what was measured and counted kept."""
    drafters = document.get("drafters")
    if isinstance(drafters, dict):
        unlearned: dict[str, Any] = {"starts": (0.0, 0.0), "regret": {}, "prompts": ""}
        drafters = {
            name: {field: value for field, value in item.items() if field != "eal"}
            | unlearned
            | {"arms": _measured(item.get("arms"))}
            if isinstance(item, dict)
            else item
            for name, item in drafters.items()
        }
    arms = document.get("arms")
    if isinstance(arms, dict):
        arms = {"lengths": [], "plain": {}, "positions": {}, "forward_ms": arms.get("forward_ms"), "rest_ms": []}
    return document | {"version": VERSION, "arms": arms, "drafters": drafters, "positions": {}}


def _measured(arms: Any) -> Any:
    """Of a drafter's arms, what was measured and counted; it is of no lengths."""
    if not isinstance(arms, dict):
        return None
    kept = {field: arms[field] for field in ("truth", "wait_ms", "rounds") if field in arms}
    return kept | {"lengths": [], "prior": {}, "price": [], "rounds_alone": [], "positions": 0.0}


def write_state(path: Path, state: SelectorState) -> None:
    """Put a state in place of whatever is there, as a whole.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(state.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
