"""Drafters as an operator sees and changes them: the data, the Protocol, and the checks before one is added.

`fleet` does it behind Ray, `drafters_api` serves it over HTTP, `drafters_command` shows it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from paceline.actors.drafter_registry import check_options, features_needed
from paceline.actors.errors import ConfigError, Conflict, ModelSourceError, RequestError
from paceline.actors.messages import DrafterStatistics
from paceline.cluster.config import RESERVED_NAMES, DrafterConfig

DrafterCondition = Literal["up", "starting", "down", "draining", "drained"]
_FOLDER_KINDS = ("head", "retrieval")  # whose `model` is a folder, and never a hub id
_LOCAL_MARKS = ("/", ".", "~")


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One process of a drafter."""

    node: str
    device: str
    state: str  # up, down, starting
    pid: int
    address: str
    sessions: int
    capacity: int
    detail: str = ""  # what is wrong, where something is


@dataclass(frozen=True, slots=True)
class DrafterView:
    """One drafter. `state` is `up` where a replica is; `drained` once it takes nothing new and holds nothing."""

    name: str
    kind: str
    device: str
    options: dict[str, Any]
    state: DrafterCondition
    replicas: list[ReplicaView] = field(default_factory=list)
    statistics: DrafterStatistics | None = None  # None while the selector has not heard of it


class DrafterControl(Protocol):
    """What an operator can do with a running cluster's drafters."""

    async def drafter_names(self) -> tuple[str, ...]:
        """The drafters that a request may name."""
        ...

    async def drafters(self) -> list[DrafterView]:
        """All of them, now.

        Raises:
            NotReady: whoever keeps them does not answer.
        """
        ...

    async def add_drafter(self, document: dict[str, Any], wait_s: float) -> None:
        """Add one, as `DrafterConfig` describes it, and wait until it has registered with the selector.

        Where it fails, nothing of it is left.

        Raises:
            RequestError: a field is wrong, or the target cannot give what it needs.
            Conflict: its name is taken, or the resources are.
            NotReady: it did not register in time.
            PacelineError: its process failed.
        """
        ...

    async def drain_drafter(self, name: str) -> None:
        """Give it no new sequences; those that it holds keep it until they end.

        Raises:
            UnknownDrafter: there is none of that name.
            Conflict: it is being changed at this moment.
        """
        ...

    async def remove_drafter(self, name: str) -> None:
        """Take it away now: sequences that it served go on with the others, and its name is free.

        Raises:
            UnknownDrafter: there is none of that name.
            Conflict: it is being changed at this moment.
        """
        ...


def check_drafter(document: Mapping[str, Any], taken: Collection[str], layers: Collection[int]) -> DrafterConfig:
    """See that a drafter can be added to a running cluster.

    Args:
        document: As `DrafterConfig`; folders are this machine's.
        taken: Names that are in use.
        layers: Whose features the running target keeps.

    Raises:
        RequestError: a field is wrong, or the target cannot give what it needs; `param` is the field.
        Conflict: its name is taken.
    """
    try:
        drafter = DrafterConfig.model_validate(dict(document))
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        place = [str(part) for part in item["loc"]]
        words = item["msg"].removeprefix("Value error, ")
        if isinstance(item["input"], dict) and item["type"] == "value_error":
            field, _, words = words.partition(": ")  # what looks at several fields names the wrong one itself
            place.append(field)
        elif not isinstance(item["input"], dict):
            words += f" (got {item['input']!r:.80})"
        param = ".".join(place)
        raise RequestError(f"{param}: {words}", param) from None
    if drafter.name in RESERVED_NAMES:
        raise RequestError(f"name: {drafter.name!r} is one of paceline's own ({', '.join(RESERVED_NAMES)})", "name")
    if drafter.name in taken:
        raise Conflict(f"name: there is a drafter {drafter.name!r} already", "name")
    try:
        check_options(drafter.kind, drafter.options)
    except ConfigError as error:
        raise RequestError(str(error), str(error).partition(":")[0]) from None
    _check_folder(drafter)
    _check_features(drafter, layers)
    return drafter


def _check_folder(drafter: DrafterConfig) -> None:
    model = str(drafter.options.get("model", ""))
    local = drafter.kind in _FOLDER_KINDS or (drafter.kind == "lm" and model.startswith(_LOCAL_MARKS))
    if local and not (Path(model).is_absolute() and Path(model).is_dir()):
        raise RequestError(
            f"options.model: {model!r:.200} is not a folder of the server; expected the absolute path of one",
            "options.model",
        )


def _check_features(drafter: DrafterConfig, layers: Collection[int]) -> None:
    try:
        needed = features_needed(drafter.kind, drafter.options)
    except ModelSourceError as error:
        raise RequestError(f"options.model: {error}", "options.model") from None
    missing = [layer for layer in needed if layer not in layers]
    if missing:
        raise RequestError(
            f"options.model: it reads the target's features of layers {list(needed)}, of which the running target "
            f"keeps none of {missing}; name them in target.feature_layers when the cluster is started",
            "options.model",
        )
