"""One drafter's replica as its target sees it: the line, the ledger of its sessions, its latency, and its conduct.

Whatever the drafter does, or fails to do, ends here as a count, a lost draft or a quarantine; nothing is raised.
A `replica_group` has one per member.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from paceline.actors.draft_check import check_draft
from paceline.actors.draft_latency import DraftLatency
from paceline.actors.drafter_link import Link, Received
from paceline.actors.errors import DraftError, LinkDown, ProtocolError
from paceline.actors.feature_reader import FeatureReader
from paceline.actors.latency_histogram import LatencyHistogram
from paceline.actors.messages import (
    Commit,
    Draft,
    DrafterBatch,
    DrafterReply,
    DraftTiming,
    Failure,
    Member,
    Open,
    Propose,
)
from paceline.actors.ports import Tracked
from paceline.actors.quarantine import LONGEST_S, Quarantine
from paceline.actors.session_ledger import SessionLedger
from paceline.actors.tracer import span

CAPACITY_SLEEP_S = 5.0
OVERSIZE_SLEEP_S = 60.0
# A message with more news than this takes its time for the news, and says nothing about drafting.
ORDINARY_NEWS_TOKENS = 32

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Inquiry:
    """A Propose that has no answer yet."""

    round: int
    asked: dict[int, Propose]
    point_mass: set[int]
    length: int  # of the longest draft
    sent_s: float
    due_s: float
    ordinary: bool  # no prompt has to be prefilled first: the latency is worth learning
    overdue: bool = False


class DrafterPeer:
    """A drafter that may be asked for drafts. One inquiry at a time is under way."""

    def __init__(
        self,
        member: Member,
        link: Link,
        counts: Counter[str],
        waits: LatencyHistogram,
        *,
        vocab_size: int,
        deadline_s: float,
        features: FeatureReader,
        clock: Callable[[], float],
    ) -> None:
        self.member = member
        self._link = link
        self._counts = counts
        self._waits = waits
        self._vocab_size = vocab_size
        self._clock = clock
        self._ledger = SessionLedger(clock)
        self._latency = DraftLatency(deadline_s)
        self._quarantine = Quarantine(clock)
        self._inquiry: _Inquiry | None = None
        self._generation = link.generation
        self._prefilling = False  # an Open went out after the last answer
        self._unsent_closes: list[int] = []
        self._features = features
        self._missing = features.missing(member.feature_layers)
        if self._missing:
            counts["unmet_features"] += 1
            log.error(
                "drafter %s is not used: it reads features of layers %s, and this target keeps none of %s",
                member.drafter,
                list(member.feature_layers),
                self._missing,
            )

    @property
    def connected(self) -> bool:
        """Whether its line is up, it is not quarantined, and the target has the features that it reads."""
        return self._link.up and not self._quarantine.active and not self._missing

    @property
    def draft_ms(self) -> float | None:
        """Its usual latency; None while too few answers were timed."""
        latency_s = self._latency.usual_s
        return None if latency_s is None else latency_s * 1e3

    @property
    def usable(self) -> bool:
        """Whether it may be asked now: connected, and nothing overdue."""
        return self.connected and self._inquiry is None

    def serves(self, sequence: Tracked) -> bool:
        """Whether a sequence may use it at all now, and it has not lately refused it.

        One that reads features can follow a sequence once the target has run all of its tokens but the last.
        """
        allowed = not sequence.drafters or self.member.drafter in sequence.drafters
        if self.member.feature_layers and sequence.cache.length < len(sequence.tokens) - 1:
            return False
        return allowed and self._ledger.serves(sequence.seq)

    def serves_seq(self, seq: int) -> bool:
        """Whether it has not lately refused a sequence."""
        return self._ledger.serves(seq)

    def refresh(self) -> None:
        """Take in what came meanwhile, without waiting."""
        if self._generation != self._link.generation:
            self._generation = self._link.generation
            self._ledger.lose_all()
            self._unsent_closes.clear()
            self._drop_inquiry()
        while (received := self._receive(0.0)) is not None:
            self._take(received)

    # ------------------------------------------------------------ telling

    def tell(self, sequences: Iterable[Tracked]) -> None:
        """Send all news of these sequences in one message, if it can be asked now at all."""
        if self.usable:
            self._send_news([news for s in sequences if self.serves(s) and (news := self._news(s)) is not None])

    def lags(self, sequence: Tracked, tokens: int) -> bool:
        """Whether it should serve a sequence and has no session of it, or is at least `tokens` behind."""
        return self.serves(sequence) and self._ledger.lags(sequence, tokens)

    def end(self, seq: int) -> None:
        """Close a sequence's session, if it may have one."""
        if self._ledger.forget(seq):
            self._unsent_closes.append(seq)
            self._send_news([])

    def close(self) -> None:
        """Give the drafter up."""
        self._drop_inquiry()
        self._counts.update(self.traffic())
        self._link.close()

    def traffic(self) -> Counter[str]:
        """What went over its present link."""
        traffic = self._link.traffic
        return Counter(
            bytes_sent=traffic.bytes_sent,
            bytes_received=traffic.bytes_received,
            connects=traffic.connects,
            breaks=traffic.breaks,
            refused=traffic.refused,
        )

    # ------------------------------------------------------------ asking

    def ask(self, round_number: int, wanted: Sequence[tuple[Tracked, int]]) -> bool:
        """Ask for drafts of (sequence, length), with all news of these sequences in the same message.

        Returns:
            Whether there is an answer to `collect`.
        """
        serving = [(s, length) for s, length in wanted if length > 0 and self.serves(s)]
        if not self.usable or not serving:
            self._counts["not_asked"] += 1
            return False
        news = [n for s, _ in serving if (n := self._news(s)) is not None]
        proposes = [Propose(s.seq, len(s.tokens), length) for s, length in serving]
        longest = max(length for _, length in serving)
        now_s = self._clock()
        try:
            with span("ask", drafter=self.member.drafter, ask=round_number):
                self._send(news, proposes, round_number)
        except ProtocolError:
            self._send_news(news)  # in parts; this round goes without
            return False
        except LinkDown:
            return False
        ordinary = not self._prefilling and all(self._ledger.warm(p.seq) for p in proposes)
        ordinary = ordinary and sum(len(n.tokens) for n in news) <= ORDINARY_NEWS_TOKENS * len(proposes)
        patience_s = self._latency.patience_s(longest) if ordinary else self._latency.deadline_s
        self._counts["asked"] += 1
        self._inquiry = _Inquiry(
            round_number,
            {p.seq: p for p in proposes},
            {s.seq for s, _ in serving if s.sampling.point_mass},
            longest,
            now_s,
            now_s + patience_s,
            ordinary,
        )
        return True

    def collect(self) -> tuple[list[Draft], DraftTiming | None]:
        """Wait for the answer until its deadline; returns the good drafts, and how long they took."""
        while (inquiry := self._inquiry) is not None:
            received = self._receive(max(0.0, inquiry.due_s - self._clock()))
            if received is None:
                self._waits.observe(self._clock() - inquiry.sent_s)
                if self._inquiry is inquiry:
                    self._miss(inquiry)
                break
            drafts = self._take(received)
            if received.reply.round == inquiry.round:
                self._waits.observe(received.at_s - inquiry.sent_s)
                # An answer without drafts is a refusal: how fast it came says nothing about drafting.
                return drafts, self._timing(inquiry, received.at_s) if received.reply.drafts else None
        return [], None

    # ------------------------------------------------------------ within

    def _news(self, sequence: Tracked) -> Open | Commit | None:
        """What it must hear to hold all of a sequence, with the features that it reads; None where it does."""
        news = self._ledger.news(sequence)
        if news is None or not self.member.feature_layers:
            return news
        last = len(sequence.tokens) - 1  # of the tokens; its row is of the position before it
        first = 0 if isinstance(news, Open) else news.start - 1
        rows = max(first, last - self.member.feature_window), last
        return replace(news, features=self._features.rows(sequence, *rows, self.member.feature_layers))

    def _timing(self, inquiry: _Inquiry, at_s: float) -> DraftTiming:
        return DraftTiming(self.member.drafter, len(inquiry.asked), inquiry.length, (at_s - inquiry.sent_s) * 1e3)

    def _miss(self, inquiry: _Inquiry) -> None:
        if not self._link.up or self._link.generation != self._generation:
            self._drop_inquiry()
            return
        inquiry.overdue = True
        self._counts["late"] += 1
        if inquiry.ordinary:
            self._note_quarantine(self._quarantine.strike(), "its answers are late")

    def _drop_inquiry(self) -> None:
        self._counts["lost"] += self._inquiry is not None
        self._inquiry = None

    def _receive(self, timeout_s: float) -> Received | None:
        try:
            return self._link.receive(timeout_s)
        except ProtocolError as error:
            # Which message it answered cannot be known: nothing is certain about its sessions any more.
            self._counts["invalid_message"] += 1
            self._note_quarantine(self._quarantine.punish(), str(error))
            self._ledger.lose_all()
            self._drop_inquiry()
            return None

    def _take(self, received: Received) -> list[Draft]:
        """Work one reply in; returns the drafts that may be verified, if they were awaited."""
        reply = received.reply
        for resync in reply.resyncs:
            self._counts["resync"] += 1
            self._ledger.lose(resync.seq)
        faulty = self._note_failures(reply.failures)
        inquiry = self._inquiry
        if inquiry is None or inquiry.round != reply.round:
            self._counts["stale"] += len(reply.drafts)
            return []
        self._inquiry = None
        self._prefilling = False
        for draft in reply.drafts:
            self._ledger.drafted(draft.seq)
        if inquiry.ordinary and not faulty:
            self._latency.observe(received.at_s - inquiry.sent_s, inquiry.length)
        if inquiry.overdue:
            self._counts["stale"] += len(reply.drafts)
            return []
        self._counts["answered"] += 1
        drafts = self._checked(reply, inquiry)
        if not faulty and len(drafts) == len(reply.drafts):
            self._quarantine.good()
        return [draft for draft in drafts if draft.tokens]

    def _checked(self, reply: DrafterReply, inquiry: _Inquiry) -> list[Draft]:
        good: list[Draft] = []
        open_asks = dict(inquiry.asked)
        for draft in reply.drafts:
            try:
                asked = open_asks.pop(draft.seq, None)
                if asked is None:
                    raise DraftError(f"draft of sequence {draft.seq}: not asked for, or sent twice", "unasked")
                checked = check_draft(draft, asked, self._vocab_size)
            except DraftError as error:
                self._counts[f"invalid_{error.reason}"] += 1
                self._ledger.lose(draft.seq)
                self._note_quarantine(self._quarantine.punish(), str(error))
                continue
            if checked.q is not None and draft.seq in inquiry.point_mass:
                # Verified by exact match: a law has no part in it, and must not reach the arithmetic.
                self._counts["needless_q"] += 1
                checked = Draft(checked.seq, checked.start, checked.tokens)
            good.append(checked)
        return good

    def _note_failures(self, failures: Sequence[Failure]) -> bool:
        """Returns whether the drafter is to blame for any of them."""
        to_blame = ""
        for failure in failures:
            self._counts[f"failure_{failure.code.lower()}"] += 1
            for seq in failure.seqs or self._ledger.sequences():
                if failure.code == "CAPACITY":
                    self._ledger.sleep(seq, CAPACITY_SLEEP_S)
                else:
                    self._ledger.lose(seq)
            if failure.code != "CAPACITY":
                to_blame = f"{failure.code}: {failure.message}"
            if failure.code == "VERSION":
                self._note_quarantine(self._quarantine.punish(LONGEST_S), to_blame)
        if to_blame:
            self._note_quarantine(self._quarantine.strike(), to_blame)
        return bool(to_blame)

    def _note_quarantine(self, length_s: float, why: str) -> None:
        if length_s:
            self._counts["quarantined"] += 1
            log.warning("drafter %s is left alone for %.0f s: %s", self.member.drafter, length_s, why)

    def _send_news(self, news: list[Open | Commit]) -> None:
        """Send news and waiting closes; in parts where they are too much for one message."""
        if not news and not self._unsent_closes:
            return
        try:
            self._send(news, [], 0)
        except LinkDown:
            return
        except ProtocolError:
            if len(news) > 1:
                for item in news:
                    self._send_news([item])
                return
            for item in news:
                self._counts["oversize"] += 1
                if isinstance(item, Commit):
                    self._ledger.lose(item.seq)  # an Open carries no laws and is smaller
                else:
                    self._ledger.sleep(item.seq, OVERSIZE_SLEEP_S)

    def _send(self, news: Sequence[Open | Commit], proposes: list[Propose], round_number: int) -> None:
        opens = [item for item in news if isinstance(item, Open)]
        commits = [item for item in news if isinstance(item, Commit)]
        self._link.send(DrafterBatch(round_number, opens, commits, proposes, list(self._unsent_closes)))
        self._unsent_closes.clear()
        self._prefilling = self._prefilling or bool(opens)
        for item in news:
            self._ledger.told(item)
            if item.features is not None:
                self._counts["feature_bytes"] += item.features.nbytes
