"""One drafter as its target sees it: its replicas, and which of them each sequence lives on.

To the round and to the selector a drafter is one, however many processes it has. A sequence stays on the replica that
holds its cache; a new one goes to the least loaded that has room; where a replica dies, is left alone or refuses, its
sequences move to another, which is told all of them (an Open, as anything that it lacks). A drafter that drains, or has
no room anywhere, takes no new sequences and keeps those it has. `session_pool` has one group per drafter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from paceline.actors.drafter_peer import DrafterPeer
from paceline.actors.messages import Draft, DraftTiming, Member
from paceline.actors.ports import Tracked

Asks = Sequence[tuple[Tracked, int]]


class ReplicaGroup:
    """The replicas of one drafter.

    Args:
        drafter: Its name.
        make_peer: Connects to a replica that came.
    """

    def __init__(self, drafter: str, make_peer: Callable[[Member], DrafterPeer]) -> None:
        self._drafter = drafter
        self._make_peer = make_peer
        self._peers: dict[int, DrafterPeer] = {}
        self._home: dict[int, int] = {}  # sequence -> replica
        self._asked: list[DrafterPeer] = []

    def __bool__(self) -> bool:
        return bool(self._peers)

    @property
    def peers(self) -> dict[int, DrafterPeer]:
        """Its replicas by number."""
        return dict(self._peers)

    @property
    def usable(self) -> bool:
        """Whether a replica may be asked now."""
        return any(peer.usable for peer in list(self._peers.values()))

    @property
    def connected(self) -> bool:
        """Whether a replica's line is up and its conduct is good. Any thread may ask."""
        return any(peer.connected for peer in list(self._peers.values()))

    @property
    def draft_ms(self) -> float | None:
        """The slowest replica's usual latency, since a round waits for it; None while too few answers were timed."""
        return max((ms for peer in self._peers.values() if (ms := peer.draft_ms) is not None), default=None)

    def follow(self, members: Sequence[Member]) -> None:
        """Drop replicas that left, moved or read other features now, connect to those that came.

        One that the selector takes for down may still hear us, and its link knows better: only new ones have to be up.
        """
        now = {member.replica: member for member in members}
        for number, peer in list(self._peers.items()):
            if number in now and _line(now[number]) == _line(peer.member):
                peer.member = now[number]
            else:
                peer.close()
                del self._peers[number]
        for number, member in now.items():
            if number not in self._peers and member.up:
                self._peers[number] = self._make_peer(member)

    def refresh(self) -> None:
        """Take in what came meanwhile, without waiting."""
        for peer in self._peers.values():
            peer.refresh()

    def serves(self, seq: int) -> bool:
        """Whether a sequence may be drafted for now: by the replica that it lives on, or by one that would take it."""
        peer = self._place(seq)
        return peer is not None and peer.usable and peer.serves_seq(seq)

    def tell(self, sequences: Sequence[Tracked]) -> None:
        """Send each replica all news of its own sequences; new ones are given a replica."""
        for peer, own in self._by_peer(sequences):
            peer.tell(own)

    def catch_up(self, sequences: Sequence[Tracked], tokens: int) -> None:
        """Tell each replica that lags by `tokens` or more on one of its sequences all news of all of them."""
        for peer, own in self._by_peer(sequences):
            if any(peer.lags(sequence, tokens) for sequence in own):
                peer.tell(own)

    def ask(self, round_number: int, wanted: Asks) -> bool:
        """Ask for drafts of (sequence, length), each of its own replica; whether there is anything to `collect`."""
        lengths = {sequence.seq: length for sequence, length in wanted}
        parts = self._by_peer([sequence for sequence, _ in wanted])
        asks = [(peer, [(sequence, lengths[sequence.seq]) for sequence in own]) for peer, own in parts]
        self._asked = [peer for peer, own in asks if peer.ask(round_number, own)]
        return bool(self._asked)

    def collect(self) -> tuple[list[Draft], DraftTiming | None]:
        """Wait for the answers, each until its own deadline; the good drafts, and what the slowest replica took for all
        of them: to a round they are one drafter."""
        answers = [peer.collect() for peer in self._asked]
        self._asked = []
        drafts = [draft for found, _ in answers for draft in found]
        timings = [timing for _, timing in answers if timing is not None]
        if not timings:
            return drafts, None
        return drafts, DraftTiming(
            timings[0].drafter,
            sum(timing.sequences for timing in timings),
            max(timing.length for timing in timings),
            max(timing.draft_ms for timing in timings),
        )

    def end(self, seq: int) -> None:
        """Free a sequence's sessions."""
        self._home.pop(seq, None)
        for peer in self._peers.values():  # also where it lived before
            peer.end(seq)

    def close(self) -> None:
        """Give the drafter up."""
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()

    def traffic(self) -> Counter[str]:
        """What went over its links."""
        return sum((peer.traffic() for peer in list(self._peers.values())), Counter())

    # ------------------------------------------------------------ inside

    def _by_peer(self, sequences: Sequence[Tracked]) -> list[tuple[DrafterPeer, list[Tracked]]]:
        """The sequences that the drafter may serve, by the replica that they live on; new ones are settled here."""
        parts: dict[int, list[Tracked]] = {}
        for sequence in sequences:
            if sequence.drafters and self._drafter not in sequence.drafters:
                continue  # looked at first: most sequences are followed by few drafters
            peer = self._place(sequence.seq)
            if peer is None or not peer.serves(sequence):
                continue
            number = peer.member.replica
            old = self._peers.get(self._home.get(sequence.seq, number))
            if old is not None and old is not peer:
                old.end(sequence.seq)
            self._home[sequence.seq] = number
            parts.setdefault(number, []).append(sequence)
        return [(self._peers[number], own) for number, own in parts.items()]

    def _place(self, seq: int) -> DrafterPeer | None:
        """The replica that a sequence lives on, or would: that of its home while it is connected and has not refused.

        None where there is no home, and no replica takes new sequences.
        """
        home = self._peers.get(self._home.get(seq, -1))
        if home is not None and home.connected and home.serves_seq(seq):
            return home
        new = seq not in self._home
        taking = [
            peer
            for peer in self._peers.values()
            if peer is not home and peer.connected and peer.serves_seq(seq) and not _closed(peer.member, new)
        ]
        if not taking:
            return home
        load = Counter(self._home.values())
        # Alike ones by turns, lest several targets all begin with the same.
        return min(taking, key=lambda peer: (_share(peer.member, load), (peer.member.replica - seq) % len(self._peers)))


def _closed(member: Member, new: bool) -> bool:
    """Whether a replica takes no sequences: it is full, or it drains and they are new to the drafter."""
    return member.full or (new and member.draining)


def _share(member: Member, load: Counter[int]) -> float:
    """How much of a replica this target's sequences take, or how many they are where its capacity is not known."""
    return load[member.replica] / (member.capacity or 1)


def _line(member: Member) -> tuple[object, ...]:
    """What a peer is made for: a replica of which any of it changed was started anew."""
    return member.address, member.feature_layers, member.feature_window
