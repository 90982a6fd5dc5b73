"""A target's stream, as the selector keeps it: what that target has not been told yet."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from paceline.actors.messages import TargetReport


@dataclass(slots=True)
class TargetConnection:
    """What a target has not been told yet."""

    target: str
    changed: dict[int, None] = field(default_factory=dict)  # sequences, in order
    dropped: dict[int, None] = field(default_factory=dict)  # sequences that lost their learner
    members: bool = True  # not told of the present members
    idle: bool = False  # not told what sequences start from where none runs
    running: dict[int, None] = field(default_factory=dict)  # its sequences
    others: int = 0  # sequences that decoded beside them in its newest round: plain requests are not announced

    def reported(self, report: TargetReport, known: Container[int]) -> None:
        """A round was played, or something else is told."""
        if report.verify_ms > 0:
            self.others = max(report.decoding - sum(played.seq in known for played in report.rounds), 0)

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
            self.idle = not self.running
