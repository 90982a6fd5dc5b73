"""The bounds of the engine and of its memory, and what its model keeps, as a configuration sets them.

`target_replica` asks.
"""

from __future__ import annotations

import logging
import sys

from paceline.actors.drafter_registry import features_needed
from paceline.actors.engine import EngineLimits
from paceline.actors.errors import ModelSourceError
from paceline.cluster.config import ClusterConfig

logger = logging.getLogger(__name__)


def engine_limits(settings: ClusterConfig, max_positions: int) -> EngineLimits:
    """What a configuration allows the engine of a model with so many positions."""
    target, speculation = settings.target, settings.speculation
    return EngineLimits(
        max_sequences=target.max_sequences,
        max_tokens_in_flight=target.max_tokens_in_flight,
        max_queue=target.max_queue,
        max_context=min(target.max_context or max_positions, max_positions),
        max_draft=speculation.max_draft,
        draft_length=speculation.draft_length,
        max_prefill=target.max_prefill_tokens,
        evaluation_share=speculation.evaluation_share,
        report_tokens=settings.selector.explain_text,
    )


def kv_tokens(settings: ClusterConfig) -> int | None:
    """Positions of keys and values that the target may hold: of running sequences, and of earlier texts.

    None, which is no bound but the engine's own, where nothing is kept of earlier texts.
    """
    kept = settings.target.prefix_cache_tokens
    return engine_limits(settings, sys.maxsize).kv_tokens + kept if kept else None


def feature_layers(settings: ClusterConfig) -> tuple[int, ...]:
    """The target's layers whose features some drafter asks for, or is to be able to, ascending.

    A drafter whose own description cannot be read is left out, and will not be used: it may cost speed, never the
    target.

    Raises:
        ConfigError: a drafter's options are not its kind's.
    """
    layers: set[int] = set(settings.target.feature_layers)
    for drafter in settings.drafters:
        try:
            layers.update(features_needed(drafter.kind, drafter.options))
        except ModelSourceError as error:
            logger.error("drafter %s: the target keeps no features for it: %s", drafter.name, error)
    return tuple(sorted(layers))
