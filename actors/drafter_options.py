"""What each drafter kind lets a configuration set, with bounds: plain data, checked without importing any kind.

An option that is not here is refused by name. `drafter_registry` parses; the kinds take the parsed object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from paceline.actors.errors import ConfigError
from paceline.actors.model_facts import QUANTIZATIONS

Options = TypeVar("Options")


def _option(default: Any, least: float | None = None, most: float | None = None) -> Any:
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True, slots=True)
class NgramOptions:
    """`ngram`: lengths of the n-grams looked up, longest first."""

    max_ngram: int = _option(4, 1, 32)
    min_ngram: int = _option(2, 1, 32)

    def __post_init__(self) -> None:
        if self.min_ngram > self.max_ngram:
            raise ConfigError(f"min_ngram: {self.min_ngram} is more than max_ngram ({self.max_ngram})")


@dataclass(frozen=True, slots=True)
class SuffixOptions:
    """`suffix`: `memory_tokens` of earlier outputs are kept (0: none); matches shorter than `min_match` draft nothing.

    A draft ends where even its likeliest next token would make it less probable than `min_probability`.
    """

    memory_tokens: int = _option(65_536, 0, 10_000_000)
    min_match: int = _option(2, 1, 64)
    min_probability: float = _option(0.05, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class EarlyExitOptions:
    """`early_exit`: the target's first `layers` layers. `width`: ids per sampled law. See `LmOptions`."""

    layers: int = _option(8, 1, 1024)
    width: int = _option(32, 1, 1024)
    min_confidence: float = _option(0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class LmOptions:
    """`lm`: the model in `model` (a folder or hub id), in `dtype` (default: the target's) and `quantization`.

    `width`: ids kept per sampled law. A draft ends where even its likeliest next token would make it less probable, by
    the drafter's own reckoning, than `min_confidence` (0 never ends it).
    """

    model: str = _option("")
    dtype: str = _option("")
    quantization: str = _option("none")
    width: int = _option(32, 1, 1024)
    min_confidence: float = _option(0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("model: is needed: a folder or hub id of a causal LM with the target's vocabulary")
        if self.quantization not in QUANTIZATIONS:
            raise ConfigError(f"quantization: expected {', '.join(QUANTIZATIONS)}, got {self.quantization!r}")


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """`head`: a draft head in the folder `model`, trained for this target. The others as in `LmOptions`."""

    model: str = _option("")
    width: int = _option(32, 1, 1024)
    min_confidence: float = _option(0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("model: is needed: a folder that `paceline train` wrote")


@dataclass(frozen=True, slots=True)
class RetrievalOptions:
    """`retrieval`: the table of n-grams in the folder `model`; contexts shorter than `min_match` draft nothing.

    A draft ends where even its likeliest next token would make it less probable than `min_probability`.
    """

    model: str = _option("")
    min_match: int = _option(1, 1, 8)
    min_probability: float = _option(0.05, 0.0, 1.0)

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("model: is needed: a folder that `paceline datastore` wrote")


def parse_options(kind: str, shape: type[Options], given: Mapping[str, Any]) -> Options:
    """Check a configuration's options of one kind.

    Raises:
        ConfigError: an option is unknown, of the wrong type, or out of bounds.
    """
    known: dict[str, Field[Any]] = {item.name: item for item in fields(shape)}  # type: ignore[arg-type]
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"options.{name}: drafter kind {kind!r} has no such option; it has {', '.join(known)}")
        _check(f"options.{name}", value, known[name])
    try:
        return shape(**given)
    except ConfigError as error:
        raise ConfigError(f"options.{error}") from None


def _check(name: str, value: Any, item: Field[Any]) -> None:
    wanted = type(item.default)
    fits = isinstance(value, int | float) if wanted is float else isinstance(value, wanted)
    if not fits or isinstance(value, bool):
        raise ConfigError(f"{name}: expected {wanted.__name__}, got {value!r}")
    least, most = item.metadata["least"], item.metadata["most"]
    if least is not None and not least <= value <= most:
        raise ConfigError(f"{name}: expected {least} to {most}, got {value!r}")
