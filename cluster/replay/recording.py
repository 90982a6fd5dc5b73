"""Recordings of real traffic as Parquet: the schema, the writer and the reader.

Schema, version 2. One row per round, in the order of the rounds within a sequence; sequences are not interleaved.

| column | type | |
|---|---|---|
| request | string | the reply's id |
| index | int16 | the choice |
| seq | uint64 | the sequence: a choice that lost its target replica goes on as another one |
| route | string | whose statistics it shares, as a hash that only compares within one recording; empty: nobody's |
| allowed | list of string | the only drafters it might use; empty: all |
| prompt_tokens | int32 | |
| round | int32 | counts from 0 |
| start, committed | int32 | positions that the round committed: start .. committed - 1, from the start of the prompt |
| drafter | string | the arm's drafter; empty: plain decoding |
| length | int16 | the arm's draft length |
| drafted, accepted | int16 | what came of it; drafted 0: the drafter had nothing to offer |
| carried | bool | the draft was at hand from the round before |
| weights | map of string to float | by drafter, at the choice; null: none known |
| lengths | map of string to int | by drafter, what goes with its weight; empty: the target set it; new in version 2 |
| gammas | map of string to list of float | by drafter, at each position that the round committed; null: not scored |
| draft_ms | float | the drafter's answer; null: it was not asked, or did not answer |
| wait_ms | float | until all drafts of the round were there |
| verify_ms | float | forward and verification; null: prompts were run in it |
| round_ms | float | from the choice to the verdict |
| verify_tokens | int32 | positions in that forward |
| sequences | int16 | that decoded in it |

Nothing in it is text, and no text can be had from it. The file's metadata has `paceline_recording_version` and
`paceline_recording` (JSON: model, policy, and requests that were lost). Gammas give the expected accepted length of any
drafter for any length (`gamma_ring`), so nothing of that is stored.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from paceline.actors.errors import ConfigError
from paceline.cluster.explanation import ExplainedRound, ExplainedSequence, Explanation

VERSION = 2
_VERSION_KEY = b"paceline_recording_version"
_ABOUT_KEY = b"paceline_recording"
SCHEMA = pa.schema(
    [
        ("request", pa.string()),
        ("index", pa.int16()),
        ("seq", pa.uint64()),
        ("route", pa.string()),
        ("allowed", pa.list_(pa.string())),
        ("prompt_tokens", pa.int32()),
        ("round", pa.int32()),
        ("start", pa.int32()),
        ("committed", pa.int32()),
        ("drafter", pa.string()),
        ("length", pa.int16()),
        ("drafted", pa.int16()),
        ("accepted", pa.int16()),
        ("carried", pa.bool_()),
        ("weights", pa.map_(pa.string(), pa.float32())),
        ("lengths", pa.map_(pa.string(), pa.int16())),
        ("gammas", pa.map_(pa.string(), pa.list_(pa.float32()))),
        ("draft_ms", pa.float32()),
        ("wait_ms", pa.float32()),
        ("verify_ms", pa.float32()),
        ("round_ms", pa.float32()),
        ("verify_tokens", pa.int32()),
        ("sequences", pa.int16()),
    ]
)


class RecordingWriter:
    """Writes one file; use as a context manager. The file takes its name when it is whole, also after an error.

    `requests` and `rounds` count what was written.

    Args:
        path: The file.
        about: What the metadata says; read when the file is closed.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self._path = path
        self._fresh = path.with_name(path.name + ".part")
        self._about = about
        self._key = secrets.token_bytes(16)  # forgotten with the writer: a route's hash cannot be tried out later
        self.requests = 0
        self.rounds = 0
        try:
            self._writer = pq.ParquetWriter(self._fresh, SCHEMA, compression="zstd")
        except OSError as error:
            raise ConfigError(f"--output: {path}: cannot be written ({error})") from error

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        about = json.dumps(self._about)
        self._writer.add_key_value_metadata({_VERSION_KEY: str(VERSION).encode(), _ABOUT_KEY: about.encode()})
        self._writer.close()
        self._fresh.replace(self._path)

    def write(self, request: Explanation) -> None:
        """Append a request's rounds as a row group."""
        rows = [self._row(request.id, choice, entry) for choice in request.choices for entry in choice.rounds]
        if rows:
            self._writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            self.requests += 1
            self.rounds += len(rows)

    def _row(self, request: str, choice: ExplainedSequence, entry: ExplainedRound) -> dict[str, Any]:
        route = hashlib.blake2b(choice.route.encode(), digest_size=8, key=self._key).hexdigest() if choice.route else ""
        return {
            "request": request,
            "index": choice.index,
            "seq": choice.seq,
            "route": route,
            "allowed": choice.drafters,
            "prompt_tokens": choice.prompt_tokens,
            "round": entry.number,
            "start": entry.start,
            "committed": entry.committed,
            "drafter": entry.drafter,
            "length": entry.length,
            "drafted": entry.drafted,
            "accepted": entry.accepted,
            "carried": entry.carried,
            "weights": None if entry.weights is None else list(entry.weights.items()),
            "lengths": list(entry.lengths.items()),
            "gammas": list(entry.gammas.items()),
            "draft_ms": entry.draft_ms,
            "wait_ms": entry.wait_ms,
            "verify_ms": entry.verify_ms,
            "round_ms": entry.round_ms,
            "verify_tokens": entry.verify_tokens,
            "sequences": entry.sequences,
        }


@dataclass(frozen=True, slots=True)
class RecordedRound:
    """One row; the schema says what its fields are."""

    start: int
    committed: int
    drafter: str
    length: int
    drafted: int
    accepted: int
    carried: bool
    weights: dict[str, float] | None
    gammas: dict[str, list[float | None]]
    draft_ms: float | None
    wait_ms: float
    verify_ms: float | None
    round_ms: float
    verify_tokens: int
    sequences: int
    lengths: dict[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """How many it committed."""
        return self.committed - self.start


@dataclass(frozen=True, slots=True)
class RecordedSequence:
    """One sequence's rounds, without holes: those after the first hole are left out."""

    request: str
    index: int
    route: str
    allowed: tuple[str, ...]
    prompt_tokens: int
    rounds: tuple[RecordedRound, ...]
    left_out: int


def read_recording(path: Path) -> tuple[list[RecordedSequence], dict[str, Any]]:
    """All sequences that have a round, in the order in which they were written, and what the metadata says.

    Raises:
        ConfigError: the file cannot be read, is no recording, or is one of another version.
    """
    try:
        table, metadata = pq.read_table(path), pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]:.200})") from error
    version = metadata.get(_VERSION_KEY, b"").decode()
    if version not in {"1", str(VERSION)}:
        found = f"is a recording of version {version}" if version else "is no recording of paceline's"
        raise ConfigError(f"{path}: {found}; expected version 1 or {VERSION}")
    expected = pa.schema([column for column in SCHEMA if column.name != "lengths"]) if version == "1" else SCHEMA
    if not table.schema.remove_metadata().equals(expected):
        raise ConfigError(f"{path}: its columns are not those of a recording of version {version}")
    rows = table.to_pylist(maps_as_pydicts="strict")
    grouped = (list(group) for _, group in groupby(rows, lambda row: row["seq"]))
    return [_sequence(group) for group in grouped], json.loads(metadata[_ABOUT_KEY])


def _sequence(rows: list[dict[str, Any]]) -> RecordedSequence:
    first = rows[0]
    rounds = tuple(_whole(rows))
    return RecordedSequence(
        request=first["request"],
        index=first["index"],
        route=first["route"],
        allowed=tuple(first["allowed"]),
        prompt_tokens=first["prompt_tokens"],
        rounds=rounds,
        left_out=len(rows) - len(rounds),
    )


def _whole(rows: list[dict[str, Any]]) -> Iterator[RecordedRound]:
    position = rows[0]["prompt_tokens"]
    names = RecordedRound.__dataclass_fields__.keys()
    for row in rows:
        if row["start"] != position:
            return
        position = row["committed"]
        yield RecordedRound(**{name: row[name] for name in names if name in row})
