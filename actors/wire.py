"""The drafter protocol as bytes: messages between a target and its drafters, to protobuf and back.

Decoding is strict: whatever a peer sends either becomes the plain data of `messages`, complete and in range, or raises
a `ProtocolError` that names the field. Nothing later has to check shapes again. The link and the server call it; the
selector's messages have `selector_wire`, which shares the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from paceline.actors.errors import ProtocolError
from paceline.actors.messages import (
    PROTOCOL_VERSION,
    Commit,
    Draft,
    DrafterBatch,
    DrafterReply,
    Failure,
    Features,
    Laws,
    Open,
    Propose,
    Resync,
)
from paceline.actors.sampling import Sampling
from paceline.protos import paceline_pb2 as pb

# Token ids are int32 in every tensor, so nothing beyond it can be an id or a position.
MAX_INT32 = 2**31 - 1
MAX_DRAFT_TOKENS = 1024
MAX_FAILURE_CHARACTERS = 500

M = TypeVar("M", bound=Message)

# numpy has no bfloat16, whose bits travel as uint16.
_WIRE_DTYPES = {"int32": pb.Tensor.INT32, "float32": pb.Tensor.FLOAT32, "uint16": pb.Tensor.BFLOAT16}
_FAILURE_CODES = {
    "VERSION": pb.Failure.VERSION,
    "INVALID": pb.Failure.INVALID,
    "CAPACITY": pb.Failure.CAPACITY,
    "INTERNAL": pb.Failure.INTERNAL,
}


# ---------------------------------------------------------------- tensors


def encode_tensor(array: npt.NDArray[Any]) -> pb.Tensor:
    """Write an int32 or float32 array, or the uint16 bits of bfloat16, of any shape.

    Raises:
        ProtocolError: another dtype.
    """
    if array.dtype.name not in _WIRE_DTYPES:
        raise ProtocolError(f"tensor: expected int32, float32 or uint16 to send, got {array.dtype.name}")
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return pb.Tensor(dtype=_WIRE_DTYPES[array.dtype.name], shape=array.shape, data=little_endian.tobytes())


def decode_tensor(message: pb.Tensor, field: str, dtype: str, rank: int) -> npt.NDArray[Any]:
    """Read an array into memory of its own.

    Args:
        message: What the peer sent.
        field: Its name, for errors.
        dtype: "int32", "float32", or "uint16" for the bits of bfloat16.
        rank: Number of dimensions.

    Raises:
        ProtocolError: dtype, rank, or the length of the data is not what it should be.
    """
    if message.dtype != _WIRE_DTYPES[dtype]:
        raise ProtocolError(f"{field}.dtype: expected {dtype}, got code {message.dtype}")
    shape = tuple(message.shape)
    if len(shape) != rank:
        raise ProtocolError(f"{field}.shape: expected {rank} dimensions, got {list(shape)[:8]}")
    size = np.dtype(dtype).itemsize
    if math.prod(shape) * size != len(message.data):
        raise ProtocolError(f"{field}.data: expected {size} bytes for each of {list(shape)}, got {len(message.data)}")
    little_endian = np.frombuffer(message.data, dtype=np.dtype(dtype).newbyteorder("<")).reshape(shape)
    return little_endian.astype(dtype)


def _encode_laws(laws: Laws | None) -> pb.Laws | None:
    return None if laws is None else pb.Laws(ids=encode_tensor(laws.ids), probs=encode_tensor(laws.probs))


def _decode_laws(owner: Any, name: str, field: str, tokens: Sequence[int]) -> Laws | None:
    """The laws at `owner.name`, one row per token; None where absent."""
    if not owner.HasField(name):
        return None
    message = getattr(owner, name)
    ids = decode_tensor(message.ids, f"{field}.ids", "int32", 2)
    probs = decode_tensor(message.probs, f"{field}.probs", "float32", 2)
    if ids.shape != probs.shape:
        raise ProtocolError(f"{field}: ids have shape {list(ids.shape)} and probs {list(probs.shape)}")
    if ids.shape[0] != len(tokens):
        raise ProtocolError(f"{field}: expected a row for each of {len(tokens)} tokens, got {ids.shape[0]}")
    if ids.shape[0] and not ids.shape[1]:
        raise ProtocolError(f"{field}: expected at least one id per row, got none")
    return Laws(ids, probs)


def _encode_features(features: Features | None) -> pb.Tensor | None:
    return None if features is None else encode_tensor(features)


def _decode_features(owner: pb.Open | pb.Commit, field: str, most: int) -> Features | None:
    """The features of at most so many tokens, [rows, layers * width]; None where absent."""
    if not owner.HasField("features"):
        return None
    features = decode_tensor(owner.features, field, "uint16", 2)
    if len(features) > most:
        raise ProtocolError(f"{field}.shape: expected at most {most} rows for these tokens, got {len(features)}")
    if not features.shape[1]:
        raise ProtocolError(f"{field}.shape: expected at least one value per row, got {list(features.shape)}")
    return features


# ---------------------------------------------------------------- target -> drafter


def encode_batch(batch: DrafterBatch) -> bytes:
    """Write a message to a drafter."""
    message = pb.ToDrafter(
        version=PROTOCOL_VERSION,
        round=batch.round,
        opens=[_encode_open(o) for o in batch.opens],
        commits=[_encode_commit(c) for c in batch.commits],
        proposes=[pb.Propose(seq=p.seq, start=p.start, length=p.length) for p in batch.proposes],
        closes=[pb.Close(seq=seq) for seq in batch.closes],
    )
    return message.SerializeToString()


def parse_batch(data: bytes) -> pb.ToDrafter:
    """Read the bytes of a message to a drafter; `version` and `round` are then there even where the rest is refused.

    Raises:
        ProtocolError: the bytes are not such a message.
    """
    return _parse(pb.ToDrafter(), data, "ToDrafter")


def decode_batch(message: pb.ToDrafter) -> DrafterBatch:
    """Check a message to a drafter.

    Raises:
        ProtocolError: it breaks the contract; the text names the field.
    """
    _check_version(message.version)
    return DrafterBatch(
        round=message.round,
        opens=[_decode_open(o, f"opens[{i}]") for i, o in enumerate(message.opens)],
        commits=[_decode_commit(c, f"commits[{i}]") for i, c in enumerate(message.commits)],
        proposes=[_decode_propose(p, f"proposes[{i}]") for i, p in enumerate(message.proposes)],
        closes=[c.seq for c in message.closes],
    )


def _encode_open(item: Open) -> pb.Open:
    sampling, features = _encode_sampling(item.sampling), _encode_features(item.features)
    return pb.Open(seq=item.seq, tokens=item.tokens, sampling=sampling, features=features)


def _encode_commit(item: Commit) -> pb.Commit:
    p, features = _encode_laws(item.p), _encode_features(item.features)
    return pb.Commit(seq=item.seq, start=item.start, tokens=item.tokens, p=p, features=features)


def _encode_sampling(sampling: Sampling) -> pb.Sampling:
    return pb.Sampling(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        point_mass=sampling.point_mass,
    )


def _decode_sampling(message: pb.Sampling, field: str) -> Sampling:
    """The seed itself stays with the target: where drafts are to be point masses, any seed (here 0) says so."""
    if not 0.0 <= message.temperature < math.inf:
        raise ProtocolError(f"{field}.temperature: expected a finite number of at least 0, got {message.temperature}")
    if not 0.0 < message.top_p <= 1.0:
        raise ProtocolError(f"{field}.top_p: expected more than 0 and at most 1, got {message.top_p}")
    if message.top_k > MAX_INT32:
        raise ProtocolError(f"{field}.top_k: expected less than 2**31, got {message.top_k}")
    greedy = message.temperature == 0.0
    if greedy and not message.point_mass:
        raise ProtocolError(f"{field}.point_mass: expected true where the temperature is 0, got false")
    seed = 0 if message.point_mass and not greedy else None
    return Sampling(temperature=message.temperature, top_k=message.top_k, top_p=message.top_p, seed=seed)


def _decode_open(message: pb.Open, field: str) -> Open:
    tokens = _decode_tokens(message.tokens, f"{field}.tokens")
    if not tokens:
        raise ProtocolError(f"{field}.tokens: expected at least one token, got none")
    if not message.HasField("sampling"):
        raise ProtocolError(f"{field}.sampling: expected to be set, got nothing")
    features = _decode_features(message, f"{field}.features", len(tokens) - 1)
    return Open(message.seq, tokens, _decode_sampling(message.sampling, f"{field}.sampling"), features)


def _decode_commit(message: pb.Commit, field: str) -> Commit:
    tokens = _decode_tokens(message.tokens, f"{field}.tokens")
    start = _decode_start(message.start, f"{field}.start")
    p = _decode_laws(message, "p", f"{field}.p", tokens)
    return Commit(message.seq, start, tokens, p, _decode_features(message, f"{field}.features", len(tokens)))


def _decode_propose(message: pb.Propose, field: str) -> Propose:
    if not 1 <= message.length <= MAX_DRAFT_TOKENS:
        raise ProtocolError(f"{field}.length: expected 1 to {MAX_DRAFT_TOKENS}, got {message.length}")
    return Propose(message.seq, _decode_start(message.start, f"{field}.start"), message.length)


# ---------------------------------------------------------------- drafter -> target


def encode_reply(reply: DrafterReply) -> bytes:
    """Write a drafter's reply.

    Raises:
        ProtocolError: a failure's code is not one of the contract's.
    """
    message = pb.FromDrafter(
        version=PROTOCOL_VERSION,
        round=reply.round,
        drafts=[pb.Draft(seq=d.seq, start=d.start, tokens=d.tokens, q=_encode_laws(d.q)) for d in reply.drafts],
        resyncs=[pb.Resync(seq=r.seq, held=r.held) for r in reply.resyncs],
        failures=[_encode_failure(f) for f in reply.failures],
        busy_ms=reply.busy_ms,
    )
    return message.SerializeToString()


def decode_reply(data: bytes) -> DrafterReply:
    """Read and check a drafter's reply.

    Raises:
        ProtocolError: it breaks the contract; the text names the field.
    """
    message = _parse(pb.FromDrafter(), data, "FromDrafter")
    _check_version(message.version)
    if not 0.0 <= message.busy_ms < math.inf:
        raise ProtocolError(f"busy_ms: expected a finite number of at least 0, got {message.busy_ms}")
    return DrafterReply(
        round=message.round,
        drafts=[_decode_draft(d, f"drafts[{i}]") for i, d in enumerate(message.drafts)],
        resyncs=[Resync(r.seq, _decode_start(r.held, f"resyncs[{i}].held")) for i, r in enumerate(message.resyncs)],
        failures=[_decode_failure(f, f"failures[{i}]") for i, f in enumerate(message.failures)],
        busy_ms=message.busy_ms,
    )


def _decode_draft(message: pb.Draft, field: str) -> Draft:
    tokens = _decode_tokens(message.tokens, f"{field}.tokens")
    if len(tokens) > MAX_DRAFT_TOKENS:
        raise ProtocolError(f"{field}.tokens: expected at most {MAX_DRAFT_TOKENS}, got {len(tokens)}")
    start = _decode_start(message.start, f"{field}.start")
    return Draft(message.seq, start, tokens, _decode_laws(message, "q", f"{field}.q", tokens))


def _encode_failure(failure: Failure) -> pb.Failure:
    if failure.code not in _FAILURE_CODES:
        raise ProtocolError(f"failure.code: expected VERSION, INVALID, CAPACITY or INTERNAL, got {failure.code!r}")
    return pb.Failure(
        code=_FAILURE_CODES[failure.code],
        message=failure.message[:MAX_FAILURE_CHARACTERS],
        seqs=failure.seqs,
    )


def _decode_failure(message: pb.Failure, field: str) -> Failure:
    if message.code not in _FAILURE_CODES.values():
        raise ProtocolError(f"{field}.code: expected VERSION, INVALID, CAPACITY or INTERNAL, got code {message.code}")
    code = pb.Failure.Code.Name(message.code)
    return Failure(code, message.message[:MAX_FAILURE_CHARACTERS], list(message.seqs))


# ---------------------------------------------------------------- shared checks


def _parse(message: M, data: bytes, name: str) -> M:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ProtocolError(f"{name}: the bytes are no such message ({error})") from None
    return message


def _check_version(version: int) -> None:
    if version != PROTOCOL_VERSION:
        raise ProtocolError(f"version: expected {PROTOCOL_VERSION}, got {version}")


def _decode_start(position: int, field: str) -> int:
    if position > MAX_INT32:
        raise ProtocolError(f"{field}: expected less than 2**31, got {position}")
    return position


def _decode_tokens(message: Sequence[int], field: str) -> list[int]:
    tokens = list(message)
    if tokens and max(tokens) > MAX_INT32:
        raise ProtocolError(f"{field}: expected ids below 2**31, got {max(tokens)}")
    return tokens
