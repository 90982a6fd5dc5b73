"""Which drafters the operator wants: those of the configuration, with what was added, drained and removed since.

Plain data. `fleet` changes it and keeps the actors in being; `roster_store` keeps it; the selector goes by it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from paceline.cluster.config import DrafterConfig


class RosterEntry(BaseModel):
    """One drafter. `number` is 0 for those of the configuration, and grows with each that is added."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: DrafterConfig
    number: int = 0
    draining: bool = False


class Roster(BaseModel):
    """The drafters, in the order in which they came; `added` counts all that ever were."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entries: tuple[RosterEntry, ...] = ()
    added: int = 0

    @classmethod
    def of(cls, drafters: tuple[DrafterConfig, ...]) -> Roster:
        """As a configuration has it."""
        return cls(entries=tuple(RosterEntry(config=drafter) for drafter in drafters))

    @property
    def names(self) -> tuple[str, ...]:
        """Of all drafters."""
        return tuple(entry.config.name for entry in self.entries)

    @property
    def draining(self) -> dict[str, bool]:
        """Drafter -> whether it drains: what the selector is told."""
        return {entry.config.name: entry.draining for entry in self.entries}

    def find(self, name: str) -> RosterEntry | None:
        """The drafter of that name."""
        return next((entry for entry in self.entries if entry.config.name == name), None)

    def with_added(self, entry: RosterEntry) -> Roster:
        """With one drafter more."""
        return Roster(entries=(*self.entries, entry), added=max(self.added, entry.number))

    def with_draining(self, name: str) -> Roster:
        """With a drafter that takes no new sequences."""
        entries = (
            entry.model_copy(update={"draining": True}) if entry.config.name == name else entry
            for entry in self.entries
        )
        return Roster(entries=tuple(entries), added=self.added)

    def without(self, name: str) -> Roster:
        """With one drafter less."""
        kept = tuple(entry for entry in self.entries if entry.config.name != name)
        return Roster(entries=kept, added=self.added)
