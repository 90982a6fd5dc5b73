"""The drafter kinds there are, one line each. Kinds are imported when built, so a light one stays light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.actors.drafter import Drafter
from paceline.actors.drafter_options import (
    EarlyExitOptions,
    HeadOptions,
    LmOptions,
    NgramOptions,
    RetrievalOptions,
    SuffixOptions,
    parse_options,
)
from paceline.actors.errors import ConfigError
from paceline.actors.head_config import HeadConfig
from paceline.actors.model_facts import Quantization


@dataclass(frozen=True, slots=True)
class DrafterContext:
    """What a kind may need to know of the cluster it is built for."""

    target_path: Path
    vocab_size: int
    device: str = "cpu"
    dtype: str = "bfloat16"
    quantization: Quantization = "none"
    threads: int = 1
    seed: int = 0


def _ngram(options: Any, context: DrafterContext) -> Drafter:
    from paceline.actors.ngram import Ngram

    return Ngram(options, context.vocab_size)


def _suffix(options: Any, context: DrafterContext) -> Drafter:
    from paceline.actors.suffix import Suffix

    return Suffix(options, context.vocab_size, context.seed)


def _early_exit(options: Any, context: DrafterContext) -> Drafter:
    from paceline.actors.early_exit import build_early_exit

    return build_early_exit(options, context)


def _lm(options: Any, context: DrafterContext) -> Drafter:
    from paceline.actors.lm import build_lm

    return build_lm(options, context)


def _head(options: Any, context: DrafterContext) -> Drafter:
    from paceline.actors.head import build_head

    return build_head(options, context)


def _retrieval(options: Any, context: DrafterContext) -> Drafter:
    from paceline.actors.retrieval import Retrieval

    return Retrieval(options, context.vocab_size, context.seed)


_KINDS: dict[str, tuple[type[Any], Callable[[Any, DrafterContext], Drafter]]] = {
    "ngram": (NgramOptions, _ngram),
    "suffix": (SuffixOptions, _suffix),
    "early_exit": (EarlyExitOptions, _early_exit),
    "lm": (LmOptions, _lm),
    "head": (HeadOptions, _head),
    "retrieval": (RetrievalOptions, _retrieval),
}
# Of kinds that read the target's features: the layers, by their options.
_FEATURES: dict[str, Callable[[Any], tuple[int, ...]]] = {
    "head": lambda options: HeadConfig.read(Path(options.model).expanduser()).feature_layers,
}
# Their work is milliseconds of arithmetic, the others' is microseconds.
MODEL_KINDS = frozenset({"early_exit", "lm", "head"})


def check_options(kind: str, options: Mapping[str, Any]) -> Any:
    """Parse a kind's options without building it.

    Raises:
        ConfigError: the kind is unknown, or an option is not one of its own.
    """
    if kind not in _KINDS:
        raise ConfigError(f"kind: {kind!r} is not a drafter kind; there are {', '.join(_KINDS)}")
    return parse_options(kind, _KINDS[kind][0], options)


def option_shapes() -> dict[str, type[Any]]:
    """The dataclass of each kind's options, by kind."""
    return {kind: shape for kind, (shape, _) in _KINDS.items()}


def features_needed(kind: str, options: Mapping[str, Any]) -> tuple[int, ...]:
    """The target's layers whose features a drafter will ask for, ascending; without building it.

    Raises:
        ConfigError: the kind is unknown, or an option is not one of its own.
        ModelSourceError: the drafter's own description cannot be read.
    """
    parsed = check_options(kind, options)
    return _FEATURES[kind](parsed) if kind in _FEATURES else ()


def build_drafter(kind: str, options: Mapping[str, Any], context: DrafterContext) -> Drafter:
    """Build a drafter, loading what it needs.

    Raises:
        ConfigError: the kind or an option is wrong, or the model's vocabulary is not the target's.
        ModelSourceError: a model cannot be loaded.
    """
    parsed = check_options(kind, options)
    return _KINDS[kind][1](parsed, context)
