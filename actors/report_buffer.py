"""What a target has to tell the selector, kept until there is a stream to tell it on.

Running sequences are remembered whole, so that each new stream begins by announcing all of them: a selector that
restarted knows nothing, and one that did not takes an announcement it has heard for what it is. Rounds are bounded, the
oldest go first. `weights_link` calls it, under its lock.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

from paceline.actors.messages import DraftTiming, RoundContext, SequenceOpened, SequenceRound, TargetReport

MAX_ROUNDS = 256


class ReportBuffer:
    """Reports of one target that wait to be sent, in order.

    `dropped` counts rounds that the selector will never hear of.

    Args:
        target: The target's name.
        max_rounds: Most rounds that wait.
    """

    def __init__(self, target: str, max_rounds: int = MAX_ROUNDS) -> None:
        self._target = target
        self._max_rounds = max_rounds
        self._live: dict[int, SequenceOpened] = {}
        self._unsent: Counter[int] = Counter()
        self._committed: dict[int, int] = {}
        self._streaming = False
        self._news: list[SequenceOpened] = []  # began under the present stream, which has not announced them yet
        self._told: set[int] = set()  # sequences that the present stream has announced, and not ended
        self._rounds: deque[TargetReport] = deque()
        self._closed: list[int] = []
        self.dropped = 0

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._rounds or self._closed or self._news)

    @property
    def unsent(self) -> int:
        """Tokens of the sequence of which most were committed since news was last taken."""
        return max(self._unsent.values(), default=0)

    @property
    def running(self) -> int:
        """Sequences that have begun and not ended."""
        return len(self._live)

    def live(self, seq: int) -> bool:
        """Whether the sequence is running."""
        return seq in self._live

    def opened(self, sequence: SequenceOpened) -> None:
        """A sequence began."""
        self._live[sequence.seq] = sequence
        if self._streaming:  # the next stream begins with all that run then
            self._news.append(sequence)
        self._committed[sequence.seq] = sequence.prompt_tokens

    def played(
        self,
        rounds: Sequence[SequenceRound],
        drafts: Sequence[DraftTiming],
        verify_ms: float,
        verify_tokens: int,
        context: RoundContext = RoundContext(),
    ) -> None:
        """A round was played."""
        for played in rounds:
            if played.seq in self._live:
                self._unsent[played.seq] += played.committed - self._committed[played.seq]
                self._committed[played.seq] = played.committed
        self._rounds.append(
            TargetReport(
                self._target,
                rounds=list(rounds),
                drafts=list(drafts),
                verify_ms=verify_ms,
                verify_tokens=verify_tokens,
                context=context,
            )
        )
        if len(self._rounds) > self._max_rounds:
            self._rounds.popleft()
            self.dropped += 1

    def closed(self, seq: int) -> None:
        """A sequence ended. Also one that ran for a moment is told of, its beginning and its end together."""
        self._live.pop(seq, None)
        self._committed.pop(seq, None)
        if seq in self._told or any(opened.seq == seq for opened in self._news):
            self._closed.append(seq)

    def new_stream(self) -> TargetReport:
        """What a stream begins with: all running sequences, each as if its prompt were all that is committed now, since
        the scores of positions before may be lost."""
        self._streaming = True
        self._news.clear()
        self._closed.clear()
        self._told = set(self._live)
        opened = [replace(o, prompt_tokens=self._committed[seq]) for seq, o in self._live.items()]
        return TargetReport(self._target, opened=opened)

    def lost_stream(self) -> None:
        """No stream is there: nothing has been told, and ends need not be."""
        self._streaming = False
        self._news.clear()
        self._told.clear()
        self._closed.clear()

    def take(self) -> list[TargetReport]:
        """All that waits: openings first, then rounds, then ends."""
        reports = []
        if self._news:
            reports.append(TargetReport(self._target, opened=self._news))
            self._told.update(opened.seq for opened in self._news)
            self._news = []
        reports += self._rounds
        self._rounds.clear()
        self._unsent.clear()
        if self._closed:
            reports.append(TargetReport(self._target, closed=self._closed))
            self._told.difference_update(self._closed)
            self._closed = []
        return reports
