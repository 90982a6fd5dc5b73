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
    running: dict[int, None] = field(default_factory=dict)  # its sequences

    def began(self, seq: int, everyone: bool) -> None:
        """A sequence began, or is announced again here; with `everyone`, all sequences' weights change with the
        load."""
        self.running[seq] = None
        self.changed |= self.running if everyone else {seq: None}

    def ended(self, seq: int, everyone: bool = False) -> None:
        """A sequence ended, or went to another stream."""
        self.running.pop(seq, None)
        self.changed.pop(seq, None)
        if everyone:
            self.changed |= self.running
