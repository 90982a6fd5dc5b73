from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DTYPE_UNSPECIFIED: _ClassVar[Tensor.DType]
        INT32: _ClassVar[Tensor.DType]
        FLOAT32: _ClassVar[Tensor.DType]
        BFLOAT16: _ClassVar[Tensor.DType]
    DTYPE_UNSPECIFIED: Tensor.DType
    INT32: Tensor.DType
    FLOAT32: Tensor.DType
    BFLOAT16: Tensor.DType
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: Tensor.DType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[_Union[Tensor.DType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Laws(_message.Message):
    __slots__ = ("ids", "probs")
    IDS_FIELD_NUMBER: _ClassVar[int]
    PROBS_FIELD_NUMBER: _ClassVar[int]
    ids: Tensor
    probs: Tensor
    def __init__(self, ids: _Optional[_Union[Tensor, _Mapping]] = ..., probs: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "point_mass")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    POINT_MASS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    point_mass: bool
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., point_mass: bool = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("seq", "tokens", "sampling", "features")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    seq: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    sampling: Sampling
    features: Tensor
    def __init__(self, seq: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., features: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("seq", "start", "tokens", "p", "features")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    P_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    seq: int
    start: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    p: Laws
    features: Tensor
    def __init__(self, seq: _Optional[int] = ..., start: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., p: _Optional[_Union[Laws, _Mapping]] = ..., features: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class Propose(_message.Message):
    __slots__ = ("seq", "start", "length")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    seq: int
    start: int
    length: int
    def __init__(self, seq: _Optional[int] = ..., start: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("seq",)
    SEQ_FIELD_NUMBER: _ClassVar[int]
    seq: int
    def __init__(self, seq: _Optional[int] = ...) -> None: ...

class ToDrafter(_message.Message):
    __slots__ = ("version", "round", "opens", "commits", "proposes", "closes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    OPENS_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    PROPOSES_FIELD_NUMBER: _ClassVar[int]
    CLOSES_FIELD_NUMBER: _ClassVar[int]
    version: int
    round: int
    opens: _containers.RepeatedCompositeFieldContainer[Open]
    commits: _containers.RepeatedCompositeFieldContainer[Commit]
    proposes: _containers.RepeatedCompositeFieldContainer[Propose]
    closes: _containers.RepeatedCompositeFieldContainer[Close]
    def __init__(self, version: _Optional[int] = ..., round: _Optional[int] = ..., opens: _Optional[_Iterable[_Union[Open, _Mapping]]] = ..., commits: _Optional[_Iterable[_Union[Commit, _Mapping]]] = ..., proposes: _Optional[_Iterable[_Union[Propose, _Mapping]]] = ..., closes: _Optional[_Iterable[_Union[Close, _Mapping]]] = ...) -> None: ...

class Draft(_message.Message):
    __slots__ = ("seq", "start", "tokens", "q")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    Q_FIELD_NUMBER: _ClassVar[int]
    seq: int
    start: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    q: Laws
    def __init__(self, seq: _Optional[int] = ..., start: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., q: _Optional[_Union[Laws, _Mapping]] = ...) -> None: ...

class Resync(_message.Message):
    __slots__ = ("seq", "held")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    seq: int
    held: int
    def __init__(self, seq: _Optional[int] = ..., held: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message", "seqs")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CODE_UNSPECIFIED: _ClassVar[Failure.Code]
        VERSION: _ClassVar[Failure.Code]
        INVALID: _ClassVar[Failure.Code]
        CAPACITY: _ClassVar[Failure.Code]
        INTERNAL: _ClassVar[Failure.Code]
    CODE_UNSPECIFIED: Failure.Code
    VERSION: Failure.Code
    INVALID: Failure.Code
    CAPACITY: Failure.Code
    INTERNAL: Failure.Code
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SEQS_FIELD_NUMBER: _ClassVar[int]
    code: Failure.Code
    message: str
    seqs: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, code: _Optional[_Union[Failure.Code, str]] = ..., message: _Optional[str] = ..., seqs: _Optional[_Iterable[int]] = ...) -> None: ...

class FromDrafter(_message.Message):
    __slots__ = ("version", "round", "drafts", "resyncs", "failures", "busy_ms")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    RESYNCS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    BUSY_MS_FIELD_NUMBER: _ClassVar[int]
    version: int
    round: int
    drafts: _containers.RepeatedCompositeFieldContainer[Draft]
    resyncs: _containers.RepeatedCompositeFieldContainer[Resync]
    failures: _containers.RepeatedCompositeFieldContainer[Failure]
    busy_ms: float
    def __init__(self, version: _Optional[int] = ..., round: _Optional[int] = ..., drafts: _Optional[_Iterable[_Union[Draft, _Mapping]]] = ..., resyncs: _Optional[_Iterable[_Union[Resync, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[Failure, _Mapping]]] = ..., busy_ms: _Optional[float] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("seq", "start", "gammas")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    GAMMAS_FIELD_NUMBER: _ClassVar[int]
    seq: int
    start: int
    gammas: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, seq: _Optional[int] = ..., start: _Optional[int] = ..., gammas: _Optional[_Iterable[float]] = ...) -> None: ...

class ScoreBatch(_message.Message):
    __slots__ = ("version", "drafter", "scores")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DRAFTER_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    version: int
    drafter: str
    scores: _containers.RepeatedCompositeFieldContainer[Score]
    def __init__(self, version: _Optional[int] = ..., drafter: _Optional[str] = ..., scores: _Optional[_Iterable[_Union[Score, _Mapping]]] = ...) -> None: ...

class ScoreSummary(_message.Message):
    __slots__ = ("received",)
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    received: int
    def __init__(self, received: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("version", "drafter", "kind", "address", "node", "device", "pid", "sessions", "capacity", "scores_dropped", "feature_layers", "feature_window", "replica")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DRAFTER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    SCORES_DROPPED_FIELD_NUMBER: _ClassVar[int]
    FEATURE_LAYERS_FIELD_NUMBER: _ClassVar[int]
    FEATURE_WINDOW_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    version: int
    drafter: str
    kind: str
    address: str
    node: str
    device: str
    pid: int
    sessions: int
    capacity: int
    scores_dropped: int
    feature_layers: _containers.RepeatedScalarFieldContainer[int]
    feature_window: int
    replica: int
    def __init__(self, version: _Optional[int] = ..., drafter: _Optional[str] = ..., kind: _Optional[str] = ..., address: _Optional[str] = ..., node: _Optional[str] = ..., device: _Optional[str] = ..., pid: _Optional[int] = ..., sessions: _Optional[int] = ..., capacity: _Optional[int] = ..., scores_dropped: _Optional[int] = ..., feature_layers: _Optional[_Iterable[int]] = ..., feature_window: _Optional[int] = ..., replica: _Optional[int] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("version", "interval_s")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    version: int
    interval_s: float
    def __init__(self, version: _Optional[int] = ..., interval_s: _Optional[float] = ...) -> None: ...

class SequenceOpened(_message.Message):
    __slots__ = ("seq", "prompt_tokens", "route", "drafters", "request", "policy", "sketch", "named")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SKETCH_FIELD_NUMBER: _ClassVar[int]
    NAMED_FIELD_NUMBER: _ClassVar[int]
    seq: int
    prompt_tokens: int
    route: str
    drafters: _containers.RepeatedScalarFieldContainer[str]
    request: str
    policy: str
    sketch: bytes
    named: bool
    def __init__(self, seq: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., route: _Optional[str] = ..., drafters: _Optional[_Iterable[str]] = ..., request: _Optional[str] = ..., policy: _Optional[str] = ..., sketch: _Optional[bytes] = ..., named: bool = ...) -> None: ...

class SequenceRound(_message.Message):
    __slots__ = ("seq", "committed", "drafter", "drafted", "accepted", "length", "carried", "tokens")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    DRAFTER_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    CARRIED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    seq: int
    committed: int
    drafter: str
    drafted: int
    accepted: int
    length: int
    carried: bool
    tokens: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, seq: _Optional[int] = ..., committed: _Optional[int] = ..., drafter: _Optional[str] = ..., drafted: _Optional[int] = ..., accepted: _Optional[int] = ..., length: _Optional[int] = ..., carried: bool = ..., tokens: _Optional[_Iterable[int]] = ...) -> None: ...

class DraftTiming(_message.Message):
    __slots__ = ("drafter", "sequences", "length", "draft_ms")
    DRAFTER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    DRAFT_MS_FIELD_NUMBER: _ClassVar[int]
    drafter: str
    sequences: int
    length: int
    draft_ms: float
    def __init__(self, drafter: _Optional[str] = ..., sequences: _Optional[int] = ..., length: _Optional[int] = ..., draft_ms: _Optional[float] = ...) -> None: ...

class TargetReport(_message.Message):
    __slots__ = ("version", "target", "opened", "rounds", "closed", "drafts", "verify_ms", "verify_tokens", "wait_ms", "round_ms", "weights_number")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_MS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    ROUND_MS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_NUMBER_FIELD_NUMBER: _ClassVar[int]
    version: int
    target: str
    opened: _containers.RepeatedCompositeFieldContainer[SequenceOpened]
    rounds: _containers.RepeatedCompositeFieldContainer[SequenceRound]
    closed: _containers.RepeatedScalarFieldContainer[int]
    drafts: _containers.RepeatedCompositeFieldContainer[DraftTiming]
    verify_ms: float
    verify_tokens: int
    wait_ms: float
    round_ms: float
    weights_number: int
    def __init__(self, version: _Optional[int] = ..., target: _Optional[str] = ..., opened: _Optional[_Iterable[_Union[SequenceOpened, _Mapping]]] = ..., rounds: _Optional[_Iterable[_Union[SequenceRound, _Mapping]]] = ..., closed: _Optional[_Iterable[int]] = ..., drafts: _Optional[_Iterable[_Union[DraftTiming, _Mapping]]] = ..., verify_ms: _Optional[float] = ..., verify_tokens: _Optional[int] = ..., wait_ms: _Optional[float] = ..., round_ms: _Optional[float] = ..., weights_number: _Optional[int] = ...) -> None: ...

class TargetReports(_message.Message):
    __slots__ = ("reports",)
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.RepeatedCompositeFieldContainer[TargetReport]
    def __init__(self, reports: _Optional[_Iterable[_Union[TargetReport, _Mapping]]] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("drafter", "kind", "address", "node", "device", "pid", "up", "sessions", "capacity", "feature_layers", "feature_window", "replica", "draining")
    DRAFTER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UP_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    FEATURE_LAYERS_FIELD_NUMBER: _ClassVar[int]
    FEATURE_WINDOW_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    drafter: str
    kind: str
    address: str
    node: str
    device: str
    pid: int
    up: bool
    sessions: int
    capacity: int
    feature_layers: _containers.RepeatedScalarFieldContainer[int]
    feature_window: int
    replica: int
    draining: bool
    def __init__(self, drafter: _Optional[str] = ..., kind: _Optional[str] = ..., address: _Optional[str] = ..., node: _Optional[str] = ..., device: _Optional[str] = ..., pid: _Optional[int] = ..., up: bool = ..., sessions: _Optional[int] = ..., capacity: _Optional[int] = ..., feature_layers: _Optional[_Iterable[int]] = ..., feature_window: _Optional[int] = ..., replica: _Optional[int] = ..., draining: bool = ...) -> None: ...

class SequenceWeights(_message.Message):
    __slots__ = ("seq", "weights", "lengths")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    seq: int
    weights: _containers.RepeatedScalarFieldContainer[float]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, seq: _Optional[int] = ..., weights: _Optional[_Iterable[float]] = ..., lengths: _Optional[_Iterable[int]] = ...) -> None: ...

class WeightsUpdate(_message.Message):
    __slots__ = ("version", "number", "drafters", "prior", "sequences", "members", "prior_lengths", "no_members")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    PRIOR_FIELD_NUMBER: _ClassVar[int]
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    PRIOR_LENGTHS_FIELD_NUMBER: _ClassVar[int]
    NO_MEMBERS_FIELD_NUMBER: _ClassVar[int]
    version: int
    number: int
    drafters: _containers.RepeatedScalarFieldContainer[str]
    prior: _containers.RepeatedScalarFieldContainer[float]
    sequences: _containers.RepeatedCompositeFieldContainer[SequenceWeights]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    prior_lengths: _containers.RepeatedScalarFieldContainer[int]
    no_members: bool
    def __init__(self, version: _Optional[int] = ..., number: _Optional[int] = ..., drafters: _Optional[_Iterable[str]] = ..., prior: _Optional[_Iterable[float]] = ..., sequences: _Optional[_Iterable[_Union[SequenceWeights, _Mapping]]] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., prior_lengths: _Optional[_Iterable[int]] = ..., no_members: bool = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class DrafterStatistics(_message.Message):
    __slots__ = ("drafter", "scored", "gamma", "eal", "weight", "rounds", "drafted", "accepted", "draft_ms")
    DRAFTER_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    EAL_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DRAFT_MS_FIELD_NUMBER: _ClassVar[int]
    drafter: str
    scored: int
    gamma: float
    eal: float
    weight: float
    rounds: int
    drafted: int
    accepted: int
    draft_ms: float
    def __init__(self, drafter: _Optional[str] = ..., scored: _Optional[int] = ..., gamma: _Optional[float] = ..., eal: _Optional[float] = ..., weight: _Optional[float] = ..., rounds: _Optional[int] = ..., drafted: _Optional[int] = ..., accepted: _Optional[int] = ..., draft_ms: _Optional[float] = ...) -> None: ...

class SnapshotReply(_message.Message):
    __slots__ = ("version", "policy", "updates", "sequences", "members", "drafters", "plain_rounds", "uptime_s")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    PLAIN_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    version: int
    policy: str
    updates: int
    sequences: int
    members: _containers.RepeatedCompositeFieldContainer[Member]
    drafters: _containers.RepeatedCompositeFieldContainer[DrafterStatistics]
    plain_rounds: int
    uptime_s: float
    def __init__(self, version: _Optional[int] = ..., policy: _Optional[str] = ..., updates: _Optional[int] = ..., sequences: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., drafters: _Optional[_Iterable[_Union[DrafterStatistics, _Mapping]]] = ..., plain_rounds: _Optional[int] = ..., uptime_s: _Optional[float] = ...) -> None: ...
