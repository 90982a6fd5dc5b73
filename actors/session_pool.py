"""All drafters of one target: who can be asked, who was told what, and a round's drafts by their deadline.

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
        self._peers: dict[str, DrafterPeer] = {}
        self._counts: dict[str, Counter[str]] = {}  # by drafter, those that left included
        self._waits: dict[str, LatencyHistogram] = {}  # likewise

    def usable(self) -> Sequence[str]:
        """Drafters that may be asked now."""
        self._refresh()
        return [name for name, peer in self._peers.items() if peer.usable]

    def connected(self) -> list[str]:
        """Drafters whose line is up and whose conduct is good, also while they draft. Any thread may ask."""
        return [name for name, peer in list(self._peers.items()) if peer.connected]

    def draft_ms(self, drafter: str) -> float | None:
        """How long a drafter usually takes to answer; None while too few of its answers were timed."""
        peer = self._peers.get(drafter)
        return None if peer is None else peer.draft_ms

    def serves(self, drafter: str, seq: int) -> bool:
        """Whether a drafter may be asked for a sequence: it is known, and has not lately refused it."""
        peer = self._peers.get(drafter)
        return peer is not None and peer.serves_seq(seq)

    def open(self, sequence: Tracked) -> None:
        """Announce a sequence to every drafter it may use that can hear it now; the others hear of it later."""
        self._refresh()
        for peer in self._peers.values():
            peer.tell([sequence])

    def propose(self, asks: Mapping[str, Sequence[tuple[Tracked, int]]]) -> Drafts:
        """Ask for drafts and wait for them; see `ports.DrafterPool`."""
        self._refresh()
        asked: list[DrafterPeer] = []
        for name, wanted in asks.items():
            peer = self._peers.get(name)
            if peer is not None and peer.ask(next(self._rounds), wanted):
                asked.append(peer)
        by_seq: dict[int, Draft] = {}
        timings: list[DraftTiming] = []
        for peer in asked:
            drafts, timing = peer.collect()
            by_seq.update((draft.seq, draft) for draft in drafts)
            if timing is not None:
                timings.append(timing)
        return Drafts(by_seq, timings)

    def commit(self, sequences: Sequence[Tracked]) -> None:
        """Bring up to date each drafter that lags too far on any sequence, on all of them in one message."""
        self._features.forget()
        for peer in self._peers.values():
            peer.refresh()
            if any(peer.lags(sequence, self._catch_up_tokens) for sequence in sequences):
                peer.tell(sequences)

    def close(self, seq: int) -> None:
        """Free a sequence's sessions everywhere."""
        self._features.forget()
        for peer in self._peers.values():
            peer.end(seq)

    def counters(self) -> dict[str, dict[str, int]]:
        """Everything counted, by drafter; numbers only ever grow. Names are those of `drafter_peer`."""
        counted = {name: dict(counts) for name, counts in list(self._counts.items())}
        counted.update({name: dict(peer.counts()) for name, peer in list(self._peers.items())})
        return counted

    def waits(self) -> dict[str, HistogramCount]:
        """How long drafts were waited for, by drafter: from Propose sent to Draft received, or given up."""
        return {name: histogram.count for name, histogram in list(self._waits.items())}

    def shutdown(self) -> None:
        """Give all links up."""
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()

    def _refresh(self) -> None:
        members = self._members()
        if members is not self._seen:
            self._seen = members
            self._follow(members)
        for peer in self._peers.values():
            peer.refresh()

    def _follow(self, members: Sequence[Member]) -> None:
        """Drop peers that left, moved or read other features now, connect to those that came.

        One that the selector takes for down may still hear us, and its link knows better: only new ones have to be up.
        """
        now = {member.drafter: member for member in members}
        for name, peer in list(self._peers.items()):
            if name not in now or _line(now[name]) != _line(peer.member):
                peer.close()
                del self._peers[name]
        for name, member in now.items():
            if name not in self._peers and member.up:
                counts = self._counts.setdefault(name, Counter())
                self._peers[name] = DrafterPeer(
                    member,
                    self._connect(member),
                    counts,
                    self._waits.setdefault(name, LatencyHistogram(DRAFT_BOUNDS_S)),
                    vocab_size=self._vocab_size,
                    deadline_s=self._deadline_s,
                    features=self._features,
                    clock=self._clock,
                )


def _line(member: Member) -> tuple[object, ...]:
    """What a peer is made for: a drafter of which any of it changed was started anew."""
    return member.address, member.feature_layers, member.feature_window
