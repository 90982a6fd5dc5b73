"""A target's stream, as the selector keeps it: what that target has not been told yet."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class TargetConnection:
    """What a target has not been told yet."""

    target: str
    changed: dict[int, None] = field(default_factory=dict)  # sequences, in order
    dropped: dict[int, None] = field(default_factory=dict)  # sequences that lost their learner
    members: bool = True  # not told of the present members
