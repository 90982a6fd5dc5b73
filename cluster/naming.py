"""The names under which a cluster's actors are found.

Each carries a digest of its settings: an actor left by an earlier configuration is never taken for the new one's.
"""

from __future__ import annotations

import hashlib

from paceline.cluster.config import ClusterConfig
from paceline.cluster.roster import RosterEntry


def namespace(app_name: str) -> str:
    """The Ray namespace of one Serve application's actors."""
    return f"paceline-{app_name}"


def selector_name(config: ClusterConfig) -> str:
    """The selector actor's name."""
    settings = (config.selector, config.speculation, config.network, [drafter.name for drafter in config.drafters])
    return f"selector-{_digest(settings)}"


def drafter_name(config: ClusterConfig, entry: RosterEntry, replica: int) -> str:
    """A drafter replica's name. One added anew under an old name is another actor, whatever its settings."""
    target, drafter = config.target, entry.config
    settings = (drafter, entry.number, target.model, target.dtype, config.network, selector_name(config))
    return f"drafter-{drafter.name}-{replica}-{_digest(settings)}"


def _digest(settings: object) -> str:
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:10]
