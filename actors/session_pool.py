"""All drafters of one target: who can be asked, and a round's drafts by their deadline.

The `DrafterPool` behind the decoding loop. It follows the members that the selector knows, and keeps the promise that a
drafter can only cost speed: a round waits for each drafter until that drafter's own deadline, all of them in parallel,
and what is late, lost or false is counted and left out. Made by `target_replica`; tests give it links of their own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from paceline.actors.drafter_link import Link
from paceline.actors.drafter_peer import DrafterPeer
from paceline.actors.feature_reader import FeatureReader
from paceline.actors.latency_histogram import DRAFT_BOUNDS_S, HistogramCount, LatencyHistogram
from paceline.actors.messages import Draft, DraftTiming, Member
from paceline.actors.ports import Drafts, Tracked
from paceline.actors.replica_group import ReplicaGroup


class SessionPool:
    """See `ports.DrafterPool`. The engine's thread calls everything but `counters` and `waits`, which any thread may.

    Args:
        members: The drafters there are now. As long as it returns the same object, nothing is looked at.
        connect: Makes the link to a member, without waiting for it to be up.
        vocab_size: The target's; drafts with other ids are refused.
        catch_up_tokens: Tokens that a drafter which is not asked may lag behind.
        deadline_s: Most that a round waits for any draft.
        feature_layers: Whose features the target's caches hold; drafters that read others are not used.
        clock: Seconds; the links must stamp replies with the same one.
    """

    def __init__(
        self,
        members: Callable[[], Sequence[Member]],
        connect: Callable[[Member], Link],
        *,
        vocab_size: int,
        catch_up_tokens: int,
        deadline_s: float,
        feature_layers: Sequence[int] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._members = members
        self._connect = connect
        self._vocab_size = vocab_size
        self._catch_up_tokens = catch_up_tokens
        self._deadline_s = deadline_s
        self._features = FeatureReader(feature_layers)
        self._clock = clock
        self._rounds = count(1)
        self._seen: Sequence[Member] | None = None
        self._groups: dict[str, ReplicaGroup] = {}
        self._counts: dict[str, Counter[str]] = {}  # by drafter, those that left included
        self._waits: dict[str, LatencyHistogram] = {}  # likewise

    def usable(self) -> Sequence[str]:
        """Drafters that may be asked now."""
        self._refresh()
        return [name for name, group in self._groups.items() if group.usable]

    def connected(self) -> list[str]:
        """Drafters whose line is up and whose conduct is good, also while they draft. Any thread may ask."""
        return [name for name, group in list(self._groups.items()) if group.connected]

    def replicas(self, drafter: str) -> dict[int, DrafterPeer]:
        """A drafter's replicas by number; none where it is not known."""
        group = self._groups.get(drafter)
        return {} if group is None else group.peers

    def draft_ms(self, drafter: str) -> float | None:
        """How long a drafter usually takes to answer; None while too few of its answers were timed."""
        group = self._groups.get(drafter)
        return None if group is None else group.draft_ms

    def serves(self, drafter: str, seq: int) -> bool:
        """Whether a drafter may be asked for a sequence: it is known, has not lately refused it, and takes new ones
        where it does not hold it."""
        group = self._groups.get(drafter)
        return group is not None and group.serves(seq)

    def open(self, sequence: Tracked) -> None:
        """Announce a sequence to every drafter it may use that can hear it now; the others hear of it later."""
        self._refresh()
        for group in self._groups.values():
            group.tell([sequence])

    def propose(self, asks: Mapping[str, Sequence[tuple[Tracked, int]]]) -> Drafts:
        """Ask for drafts and wait for them; see `ports.DrafterPool`."""
        self._refresh()
        asked: list[ReplicaGroup] = []
        for name, wanted in asks.items():
            group = self._groups.get(name)
            if group is not None and group.ask(next(self._rounds), wanted):
                asked.append(group)
        by_seq: dict[int, Draft] = {}
        timings: list[DraftTiming] = []
        for group in asked:
            drafts, took = group.collect()
            by_seq.update((draft.seq, draft) for draft in drafts)
            if took is not None:
                timings.append(took)
        return Drafts(by_seq, timings)

    def commit(self, sequences: Sequence[Tracked]) -> None:
        """Bring up to date each drafter that lags too far on any sequence, on all of them in one message."""
        self._features.forget()
        for group in self._groups.values():
            group.refresh()
            group.catch_up(sequences, self._catch_up_tokens)

    def close(self, seq: int) -> None:
        """Free a sequence's sessions everywhere."""
        self._features.forget()
        for group in self._groups.values():
            group.end(seq)

    def counters(self) -> dict[str, dict[str, int]]:
        """Everything counted, by drafter; numbers only ever grow. Names are those of `drafter_peer`."""
        groups = dict(self._groups)
        return {
            # Copied at one stroke: the engine's thread may add a name meanwhile.
            name: dict(Counter(dict(counts)) + groups[name].traffic() if name in groups else counts)
            for name, counts in list(self._counts.items())
        }

    def waits(self) -> dict[str, HistogramCount]:
        """How long drafts were waited for, by drafter: from Propose sent to Draft received, or given up."""
        return {name: histogram.count for name, histogram in list(self._waits.items())}

    def shutdown(self) -> None:
        """Give all links up."""
        for group in self._groups.values():
            group.close()
        self._groups.clear()

    def _refresh(self) -> None:
        members = self._members()
        if members is not self._seen:
            self._seen = members
            self._follow(members)
        for group in self._groups.values():
            group.refresh()

    def _follow(self, members: Sequence[Member]) -> None:
        """Let each drafter follow its replicas; drop drafters of which none is left."""
        now: dict[str, list[Member]] = {name: [] for name in self._groups}
        for member in members:
            now.setdefault(member.drafter, []).append(member)
        for name, replicas in now.items():
            group = self._groups.get(name) or ReplicaGroup(name, self._peer)
            group.follow(replicas)
            if group:
                self._groups[name] = group
            else:
                self._groups.pop(name, None)

    def _peer(self, member: Member) -> DrafterPeer:
        return DrafterPeer(
            member,
            self._connect(member),
            self._counts.setdefault(member.drafter, Counter()),
            self._waits.setdefault(member.drafter, LatencyHistogram(DRAFT_BOUNDS_S)),
            vocab_size=self._vocab_size,
            deadline_s=self._deadline_s,
            features=self._features,
            clock=self._clock,
        )
