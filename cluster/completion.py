"""Runs one request: chunks of ids from the backend become text, cut at stop strings, counted, written as a reply.

`api` makes one `Completion` per request and asks it for the whole reply or for the events of a stream; both read the
same deltas, so a stream's text is the whole reply's text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, cast

from paceline.actors.errors import EngineError
from paceline.actors.generation import Chunk, Generation
from paceline.cluster.activity import Activity
from paceline.cluster.backend import Generates
from paceline.cluster.interleave import interleave
from paceline.cluster.openai_replies import Choice, Delta, FinalReason, ReplyWriter, RoundDetail, Usage
from paceline.cluster.request_plan import Plan
from paceline.cluster.speculation_report import SpeculationReport
from paceline.cluster.stop_strings import StopStrings
from paceline.cluster.text_stream import TextStream
from paceline.cluster.token_pieces import TokenPieces


class Completion:
    """One request under way. Use `whole` or `events`, once.

    Args:
        backend: The cluster.
        decode: Text of a list of ids, without special tokens.
        plan: What to generate.
        writer: Writes the reply.
        activity: Is told of every round.
    """

    def __init__(
        self,
        backend: Generates,
        decode: Callable[[list[int]], str],
        plan: Plan,
        writer: ReplyWriter,
        activity: Activity,
    ) -> None:
        self._backend = backend
        self._decode = decode
        self._plan = plan
        self._writer = writer
        self._activity = activity
        self._report = SpeculationReport()
        self._completion_tokens = 0
        self._cached_tokens: dict[int, int] = {}  # by choice

    async def whole(self) -> dict[str, Any]:
        """The reply in one piece.

        Raises:
            PacelineError: as `Backend.generate`.
        """
        choices = [Choice() for _ in self._plan.generations]
        async with aclosing(self._deltas()) as deltas:
            async for delta in deltas:
                choice = choices[delta.index]
                choice.text += delta.text
                choice.token_ids += delta.token_ids
                choice.logprobs += delta.logprobs
                choice.finish_reason = delta.finish_reason
        return self._writer.whole(choices, self._usage(), self._metrics())

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        """The events of a stream; the last one carries the metrics.

        Raises:
            PacelineError: as `Backend.generate`.
        """
        open_choices = len(self._plan.generations)
        async with aclosing(self._deltas()) as deltas:
            async for delta in deltas:
                open_choices -= delta.finish_reason is not None
                event = self._writer.event(delta)
                if not open_choices and not self._plan.include_usage:
                    event["metrics"] = self._metrics()
                yield event
        if self._plan.include_usage:
            yield self._writer.usage_event(self._usage()) | {"metrics": self._metrics()}

    async def _deltas(self) -> AsyncGenerator[Delta]:
        sources = [self._choice(index, generation) for index, generation in enumerate(self._plan.generations)]
        async with aclosing(interleave(sources)) as deltas:
            async for delta in deltas:
                self._completion_tokens += len(delta.token_ids)
                yield delta

    async def _choice(self, index: int, generation: Generation) -> AsyncGenerator[Delta]:
        reader = _ChoiceReader(index, generation.stop_ids, self._decode, self._plan)
        last: Delta | None = None
        # The protocol promises an iterator; those that can be closed early are generators.
        chunks = cast("AsyncGenerator[Chunk]", self._backend.generate(generation))
        with self._activity.watch(generation) as watched:
            async with aclosing(chunks):
                async for chunk in chunks:
                    self._report.add(chunk)
                    if self._is_first_of_its_prompt(index):
                        self._cached_tokens[index] = min(chunk.cached, len(generation.prompt))  # not a resumed answer's
                    delta = reader.read(chunk)
                    watched.round(chunk, len(delta.token_ids))
                    if delta.finish_reason is not None:
                        watched.ended(delta.finish_reason)
                        last = delta
                        break
                    yield delta
        if last is None:
            raise EngineError(f"{generation.request_id}: the generation ended without a reason")
        yield last  # after the sequence was freed, so that whoever sees the end finds the target free

    def _usage(self) -> Usage:
        return Usage(self._plan.prompt_tokens, self._completion_tokens, sum(self._cached_tokens.values()))

    def _is_first_of_its_prompt(self, index: int) -> bool:
        """A prompt counts once, however many choices run it."""
        generations = self._plan.generations
        return index == 0 or generations[index].prompt != generations[index - 1].prompt

    def _metrics(self) -> dict[str, Any]:
        return {"speculative_decoding": self._report.as_dict()}


class _ChoiceReader:
    """Turns one choice's chunks into deltas."""

    def __init__(self, index: int, stop_ids: frozenset[int], decode: Callable[[list[int]], str], plan: Plan) -> None:
        self._index = index
        self._stop_ids = stop_ids
        self._text = TextStream(decode)
        self._cut = StopStrings(plan.stops)
        self._unstoppable = plan.min_tokens  # ids still to come whose text is not looked through
        self._pieces = TokenPieces() if plan.detail else None
        # With stops or pieces, ids are read one by one to know which one completes a stop or a character.
        self._step = 1 if plan.stops or plan.detail else None
        self._read = 0  # tokens before the next chunk

    def read(self, chunk: Chunk) -> Delta:
        """The chunk's delta.

        Raises:
            EngineError: the cluster gave the generation up.
        """
        if chunk.finish_reason == "abort":
            raise EngineError("the generation was aborted by the cluster")
        ids = chunk.token_ids
        ended = chunk.finish_reason == "stop" and bool(ids) and ids[-1] in self._stop_ids
        shown = ids[:-1] if ended else ids
        text, read = "", 0
        step = self._step or max(len(shown), 1)
        while read < len(shown) and not self._cut.matched:
            text += self._passed(read, self._text.push(shown[read : read + step]))
            self._unstoppable -= step
            read += step
        reason: FinalReason | None = chunk.finish_reason
        if reason is not None and not self._cut.matched:
            text += self._passed(len(shown) - 1, self._text.flush(), last=True)
        elif self._cut.matched:
            ids = ids[:read]
        if self._cut.matched:
            reason = "stop"
        detail = None
        if self._pieces is not None:
            detail = RoundDetail(self._read, ids, self._pieces.take(), chunk.weights)
        self._read += len(ids)
        logprobs = chunk.logprobs[: len(ids)]
        return Delta(self._index, text, ids, reason, chunk.drafter, chunk.drafted, chunk.accepted, detail, logprobs)

    def _passed(self, place: int, decoded: str, *, last: bool = False) -> str:
        """What is certain once the chunk's token at `place` was decoded."""
        released = decoded if self._unstoppable > 0 else self._cut.push(decoded)
        if last:
            released += self._cut.flush()
        if self._pieces is not None:
            self._pieces.add(self._read + place, len(decoded), released)
        return released
