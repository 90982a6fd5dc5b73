"""The drafter protocol: everything survives the trip, and nothing that breaks the contract gets past decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.actors import wire
from paceline.actors.errors import ProtocolError
from paceline.actors.messages import (
    Commit,
    Draft,
    DrafterBatch,
    DrafterReply,
    Failure,
    Laws,
    Open,
    Propose,
    Resync,
)
from paceline.actors.sampling import Sampling
from paceline.protos import paceline_pb2 as pb

seqs = st.integers(0, 2**64 - 1)
positions = st.integers(0, 2**31 - 1)
token_lists = st.lists(st.integers(0, 2**31 - 1), max_size=5)
unit = st.floats(0, 1, width=32)


@st.composite
def laws_for(draw: st.DrawFn, rows: int) -> Laws | None:
    if draw(st.booleans()):
        return None
    width = draw(st.integers(1, 4))
    ids = draw(st.lists(st.integers(-1, 2**31 - 1), min_size=rows * width, max_size=rows * width))
    probs = draw(st.lists(unit, min_size=rows * width, max_size=rows * width))
    shape = (rows, width)
    return Laws(np.array(ids, np.int32).reshape(shape), np.array(probs, np.float32).reshape(shape))


@st.composite
def features_for(draw: st.DrawFn, most: int) -> np.ndarray[Any, Any] | None:
    if draw(st.booleans()):
        return None
    rows, width = draw(st.integers(0, most)), draw(st.integers(1, 3))
    bits = draw(st.lists(st.integers(0, 2**16 - 1), min_size=rows * width, max_size=rows * width))
    return np.array(bits, np.uint16).reshape(rows, width)


@st.composite
def samplings(draw: st.DrawFn) -> Sampling:
    temperature = draw(st.floats(0, 10, width=32))
    # A seed goes over the wire as "point masses, please"; which seed it was stays with the target.
    seed = draw(st.sampled_from([None, 0])) if temperature else None
    top_p = draw(st.floats(2**-20, 1, width=32))
    return Sampling(temperature, draw(st.integers(0, 1000)), top_p, seed)


@st.composite
def commits(draw: st.DrawFn) -> Commit:
    tokens = draw(token_lists)
    return Commit(draw(seqs), draw(positions), tokens, draw(laws_for(len(tokens))), draw(features_for(len(tokens))))


@st.composite
def opens(draw: st.DrawFn) -> Open:
    tokens = draw(token_lists.filter(bool))
    return Open(draw(seqs), tokens, draw(samplings()), draw(features_for(len(tokens) - 1)))


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    tokens = draw(token_lists)
    return Draft(draw(seqs), draw(positions), tokens, draw(laws_for(len(tokens))))


batches = st.builds(
    DrafterBatch,
    seqs,
    st.lists(opens(), max_size=3),
    st.lists(commits(), max_size=3),
    st.lists(st.builds(Propose, seqs, positions, st.integers(1, wire.MAX_DRAFT_TOKENS)), max_size=3),
    st.lists(seqs, max_size=3),
)
replies = st.builds(
    DrafterReply,
    seqs,
    st.lists(drafts(), max_size=3),
    st.lists(st.builds(Resync, seqs, positions), max_size=3),
    st.lists(
        st.builds(Failure, st.sampled_from(["VERSION", "INVALID", "CAPACITY", "INTERNAL"]), st.text(max_size=20)),
        max_size=3,
    ),
    st.floats(0, 1e6, width=32),
)


def plain(value: Any) -> Any:
    """Comparable with ==: arrays as (dtype, nested lists)."""
    if isinstance(value, Laws):
        return (value.ids.dtype.name, value.ids.tolist(), value.probs.dtype.name, value.probs.tolist())
    if isinstance(value, np.ndarray):
        return (value.dtype.name, value.shape, value.tolist())
    if isinstance(value, list):
        return [plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return type(value).__name__, {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


@settings(deadline=None)  # a busy machine is no fault of the codec
@given(batches)
def test_a_batch_survives_the_trip(batch: DrafterBatch) -> None:
    assert plain(wire.decode_batch(wire.parse_batch(wire.encode_batch(batch)))) == plain(batch)


@settings(deadline=None)
@given(replies)
def test_a_reply_survives_the_trip(reply: DrafterReply) -> None:
    assert plain(wire.decode_reply(wire.encode_reply(reply))) == plain(reply)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_decode_or_are_refused(data: bytes) -> None:
    for decode in (lambda: wire.decode_batch(wire.parse_batch(data)), lambda: wire.decode_reply(data)):
        try:
            decode()
        except ProtocolError:
            continue


def test_decoded_laws_are_memory_of_their_own() -> None:
    law = Laws(np.zeros((1, 2), np.int32), np.ones((1, 2), np.float32))
    draft = wire.decode_reply(wire.encode_reply(DrafterReply(1, [Draft(1, 0, [5], law)]))).drafts[0]
    assert draft.q is not None
    draft.q.probs[0, 0] = 0.5  # torch refuses to wrap read-only memory without a warning


GOOD_OPEN = Open(7, [1, 2, 3], Sampling(0.5, 0, 1.0), np.zeros((2, 4), np.uint16))
GOOD_LAWS = Laws(np.zeros((2, 3), np.int32), np.zeros((2, 3), np.float32))
GOOD_COMMIT = Commit(7, 3, [4, 5], GOOD_LAWS, np.zeros((2, 4), np.uint16))
GOOD_BATCH = DrafterBatch(9, [GOOD_OPEN], [GOOD_COMMIT], [Propose(7, 5, 4)], [8])
GOOD_REPLY = DrafterReply(9, [Draft(7, 5, [1, 2], GOOD_LAWS)], [Resync(3, 2)], [Failure("INTERNAL", "x", [4])], 1.5)

NO_VALUES = np.zeros((2, 0), np.uint16)

Break = Callable[[Any], Any]


def put(path: str, value: Any) -> Break:
    """Sets a field, e.g. `commits.0.p.ids.data`."""

    def change(message: Any) -> None:
        *parents, last = path.split(".")
        for name in parents:
            message = message[int(name)] if name.isdigit() else getattr(message, name)
        if isinstance(value, list):
            del getattr(message, last)[:]
            getattr(message, last).extend(value)
        else:
            setattr(message, last, value)

    return change


BATCH_FAULTS: list[tuple[str, Break]] = [
    ("version", put("version", 2)),
    ("version", put("version", 0)),
    ("opens[0].tokens", put("opens.0.tokens", [])),
    ("opens[0].tokens", put("opens.0.tokens", [2**31])),
    ("opens[0].sampling", lambda m: m.opens[0].ClearField("sampling")),
    ("opens[0].sampling.temperature", put("opens.0.sampling.temperature", float("nan"))),
    ("opens[0].sampling.temperature", put("opens.0.sampling.temperature", -1.0)),
    ("opens[0].sampling.temperature", put("opens.0.sampling.temperature", float("inf"))),
    ("opens[0].sampling.top_p", put("opens.0.sampling.top_p", 0.0)),
    ("opens[0].sampling.top_p", put("opens.0.sampling.top_p", float("nan"))),
    ("opens[0].sampling.top_k", put("opens.0.sampling.top_k", 2**31)),
    ("opens[0].sampling.point_mass", put("opens.0.sampling.temperature", 0.0)),
    ("commits[0].start", put("commits.0.start", 2**31)),
    ("commits[0].p", put("commits.0.tokens", [1])),
    ("commits[0].p.ids.dtype", put("commits.0.p.ids.dtype", pb.Tensor.FLOAT32)),
    ("commits[0].p.probs.dtype", put("commits.0.p.probs.dtype", pb.Tensor.BFLOAT16)),
    ("commits[0].p.probs.dtype", put("commits.0.p.probs.dtype", 77)),
    ("commits[0].p.ids.shape", put("commits.0.p.ids.shape", [6])),
    ("commits[0].p.ids.data", put("commits.0.p.ids.shape", [2, 2**31])),
    ("commits[0].p.probs.data", put("commits.0.p.probs.data", b"abc")),
    ("commits[0].p.ids.dtype", lambda m: m.commits[0].p.ClearField("ids")),
    ("opens[0].features.dtype", put("opens.0.features.dtype", pb.Tensor.FLOAT32)),
    ("opens[0].features.shape", put("opens.0.features.shape", [8])),
    ("opens[0].features.shape", put("opens.0.tokens", [1, 2])),  # the first token has none
    ("opens[0].features.data", put("opens.0.features.data", b"x" * 15)),
    ("commits[0].features.dtype", put("commits.0.features.dtype", pb.Tensor.INT32)),
    ("commits[0].features.shape", put("commits.0.features.shape", [4, 2])),
    ("commits[0].features.data", put("commits.0.features.shape", [2, 2])),
    ("commits[0].features.shape", lambda m: m.commits[0].features.CopyFrom(wire.encode_tensor(NO_VALUES))),
    ("proposes[0].length", put("proposes.0.length", 0)),
    ("proposes[0].length", put("proposes.0.length", 2**30)),
]


@pytest.mark.parametrize(("field", "break_it"), BATCH_FAULTS, ids=lambda x: x if isinstance(x, str) else "")
def test_a_faulty_batch_is_refused_by_field(field: str, break_it: Break) -> None:
    message = wire.parse_batch(wire.encode_batch(GOOD_BATCH))
    break_it(message)
    with pytest.raises(ProtocolError) as caught:
        wire.decode_batch(message)
    assert str(caught.value).startswith(f"{field}:")


REPLY_FAULTS: list[tuple[str, Break]] = [
    ("version", put("version", 3)),
    ("busy_ms", put("busy_ms", float("nan"))),
    ("busy_ms", put("busy_ms", -1.0)),
    ("drafts[0].q", put("drafts.0.tokens", [1, 2, 3])),
    ("drafts[0].tokens", put("drafts.0.tokens", [1] * (wire.MAX_DRAFT_TOKENS + 1))),
    ("drafts[0].tokens", put("drafts.0.tokens", [1, 2**32 - 1])),
    ("drafts[0].start", put("drafts.0.start", 2**32 - 1)),
    ("drafts[0].q.probs.data", put("drafts.0.q.probs.shape", [3, 3])),
    ("resyncs[0].held", put("resyncs.0.held", 2**31)),
    ("failures[0].code", put("failures.0.code", 0)),
    ("failures[0].code", put("failures.0.code", 99)),
]


@pytest.mark.parametrize(("field", "break_it"), REPLY_FAULTS, ids=lambda x: x if isinstance(x, str) else "")
def test_a_faulty_reply_is_refused_by_field(field: str, break_it: Break) -> None:
    message = pb.FromDrafter.FromString(wire.encode_reply(GOOD_REPLY))
    break_it(message)
    with pytest.raises(ProtocolError) as caught:
        wire.decode_reply(message.SerializeToString())
    assert str(caught.value).startswith(f"{field}:")


def test_rows_without_a_single_id_are_refused() -> None:
    empty = Laws(np.zeros((2, 0), np.int32), np.zeros((2, 0), np.float32))
    with pytest.raises(ProtocolError, match=r"drafts\[0\].q: expected at least one id"):
        wire.decode_reply(wire.encode_reply(DrafterReply(1, [Draft(7, 5, [1, 2], empty)])))


def test_ids_and_probs_of_different_shape_are_refused() -> None:
    uneven = Laws(np.zeros((2, 2), np.int32), np.zeros((2, 3), np.float32))
    with pytest.raises(ProtocolError, match=r"drafts\[0\].q: ids have shape \[2, 2\]"):
        wire.decode_reply(wire.encode_reply(DrafterReply(1, [Draft(7, 5, [1, 2], uneven)])))


def test_only_what_the_wire_can_carry_is_encoded() -> None:
    with pytest.raises(ProtocolError, match="float64"):
        wire.encode_tensor(np.zeros(3))
    with pytest.raises(ProtocolError, match="'OOPS'"):
        wire.encode_reply(DrafterReply(1, failures=[Failure("OOPS", "")]))


def test_a_long_failure_text_is_cut() -> None:
    reply = wire.decode_reply(wire.encode_reply(DrafterReply(1, failures=[Failure("INTERNAL", "x" * 10_000)])))
    assert len(reply.failures[0].message) == wire.MAX_FAILURE_CHARACTERS
