"""A cluster, as one frozen document: `deploy/*.yaml`, or the plain dict that `build_app` takes.

Every default is written once, here. Unknown fields are refused, and an error names the field, the value and what was
expected.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationError, WithJsonSchema, model_validator

from paceline.actors.draft_length import LengthSetter
from paceline.actors.drafter_registry import MODEL_KINDS, check_options, option_shapes
from paceline.actors.errors import ConfigError
from paceline.actors.model_facts import Quantization
from paceline.cluster.policy_options import PolicyName, PolicyOptions
from paceline.cluster.settings import Settings
from paceline.cluster.yaml_reader import read_yaml

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
RESERVED_NAMES = ("plain", "ingress", "target", "selector")  # what statistics and traces call other parts
DType = Literal["float32", "bfloat16", "float16"]
_DEVICE = "^(cpu|cuda(:[0-9]{1,3})?)$"
_SECRET = ("api_keys", "operator_token", "token")  # fields whose values no error shows


def _visible(key: SecretStr) -> SecretStr:
    text = key.get_secret_value()
    if not 8 <= len(text) <= 256 or not all("!" <= character <= "~" and character != "," for character in text):
        raise ValueError("expected 8 to 256 visible ASCII characters, no comma among them")
    return key


ApiKey = Annotated[SecretStr, AfterValidator(_visible)]


def _known_device(device: str) -> str:
    if not re.search(_DEVICE, device) or "\n" in device:
        raise ValueError("expected cpu, cuda or cuda:N")
    return device


Device = Annotated[str, AfterValidator(_known_device), WithJsonSchema({"type": "string", "pattern": _DEVICE})]


class Resources(Settings):
    """What Ray must find free to place an actor."""

    num_cpus: float = Field(0.0, ge=0)
    num_gpus: float = Field(0.0, ge=0)
    custom: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="custom Ray resources, e.g. {drafter: 1}"
    )


class TargetConfig(Settings):
    """The target model and its engine."""

    model: str = Field("embedded", description="`embedded`, a local folder, or a hub id")
    name: str | None = Field(
        None, min_length=1, description="the model name clients use; default: the source's own name"
    )
    dtype: DType = "bfloat16"
    quantization: Quantization = Field(
        "none", description="int8 or int4 hold the weights in fewer bits; on a CPU, for Llama-like models"
    )
    device: Device = "cpu"
    threads: int | None = Field(None, ge=1, description="CPU threads of its forward; default: all cores")
    replicas: int = Field(1, ge=1)
    max_sequences: int = Field(8, ge=1, description="sequences decoded together")
    max_tokens_in_flight: int = Field(
        16384,
        ge=1,
        description="prompt + answer tokens that running sequences hold at a time; when all are taken, the newest wait",
    )
    prefix_cache_tokens: int = Field(
        8192, ge=0, description="positions of earlier texts kept for prompts that begin alike; 0 shares nothing"
    )
    max_prefill_tokens: int = Field(
        256, ge=1, description="prompt tokens run in one round; a longer prompt takes several, the others go on between"
    )
    max_queue: int = Field(64, ge=0, description="requests that may wait; beyond it clients get 429")
    max_context: int | None = Field(
        None, ge=2, description="prompt + answer tokens of one request; default: the model's"
    )
    feature_layers: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="layers whose features are kept for heads added later, besides those that the drafters read"
    )
    resources: Resources = Resources(num_cpus=1.0)


class DrafterConfig(Settings):
    """One drafter. `options` are the kind's own; the kind refuses those that it does not know."""

    name: Name
    kind: str
    device: Device = Field("cpu", description="cpu, cuda or cuda:N; only kinds that run a model have the choice")
    threads: int = Field(1, ge=1)
    max_sessions: int = Field(64, ge=1, description="sequences that each replica holds")
    replicas: int = Field(1, ge=1, le=64, description="processes of it; each needs its own resources")
    resources: Resources = Field(Resources(), description="of each replica")
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _device_has_an_effect(self) -> DrafterConfig:
        if self.device != "cpu" and self.kind in option_shapes() and self.kind not in MODEL_KINDS:
            raise ValueError(f"device: got {self.device!r}; expected cpu, since kind {self.kind} runs no model")
        return self


class SpeculationConfig(Settings):
    """How rounds draft."""

    max_draft: int = Field(7, ge=1, le=64, description="most tokens drafted per round")
    draft_length: LengthSetter = Field(
        "learned",
        description="who sets how much is drafted, or nothing: `learned`, the selector together with the drafter; "
        "`measured`, a rule of the target's by times and acceptance; `longest`, always max_draft",
    )
    catch_up_tokens: int = Field(8, ge=1, le=256, description="tokens a drafter that is not chosen may lag behind")
    evaluation_share: float = Field(
        0.0625,
        ge=0,
        le=1,
        description="share of sequences on which one of the slow drafters that do not follow all is scored, in turn",
    )
    deadline_ms: float = Field(250.0, gt=0, le=60_000, description="most that a round ever waits for a draft")
    default_drafter: str | None = Field(None, description="used while no weights have come; default: the first one")


class SelectorConfig(Settings):
    """How the drafter is chosen."""

    policy: PolicyName = Field("normalhedge", description="who chooses the drafter; a request may name another")
    drafter: str | None = Field(None, description="the one that policy `fixed` plays")
    loss: Literal["time", "eal"] = Field(
        "time", description="what rounds count as: their time, or, for `eal`, each one the same"
    )
    discount: float = Field(0.97, gt=0, le=1, description="regret is multiplied by this at every released position")
    prior_weight: float = Field(0.5, ge=0, le=1, description="share of the cluster's regret a new sequence starts from")
    prompt_weight: float = Field(
        0.0, ge=0, le=1, description="how far a new sequence trusts what its prompt's words predict; 0 predicts nothing"
    )
    prior_memory: int = Field(
        512, ge=1, le=10**9, description="positions, over all sequences, that priors and statistics remember"
    )
    max_sequences: int = Field(4096, ge=1, le=10**6, description="learners held at once")
    options: PolicyOptions = Field(PolicyOptions(), description="settings that only one policy has, by its name")
    state_file: str | None = Field(
        None, min_length=1, description="where what was learned across requests outlives the selector; none: nowhere"
    )
    state_interval_s: float = Field(10.0, gt=0, le=86400, description="between two writes of it")
    explain_requests: int = Field(
        256, ge=0, le=65536, description="newest requests whose rounds are kept to be explained and recorded; 0: none"
    )
    explain_rounds: int = Field(512, ge=1, le=65536, description="first rounds of a sequence that are kept")
    explain_text: bool = Field(False, description="keep the committed tokens, too, and show them as text")
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _fixed_names_a_drafter(self) -> SelectorConfig:
        if (self.policy == "fixed") != (self.drafter is not None):
            raise ValueError("`drafter` goes with policy `fixed`, and only with it")
        return self


class HttpConfig(Settings):
    """The OpenAI-compatible endpoint."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    max_body_bytes: int = Field(2 * 1024 * 1024, ge=1024)
    max_choices: int = Field(8, ge=1, description="most `n` of a request")
    drain_s: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="seconds that running completions have to end in when the server is stopped, or Serve deletes or "
        "replaces it; then they are ended",
    )
    operator_token: str | None = Field(
        None,
        min_length=8,
        pattern=r"^[!-~]+$",
        description="secret of who may add, drain and remove drafters; without one only this machine itself may",
    )
    api_keys: tuple[ApiKey, ...] = Field(
        (), description="any of them lets a client in; those of PACELINE_API_KEYS are added"
    )
    allow_anonymous: bool = Field(
        False, description="true lets everyone in who reaches an address beyond this machine's loopback"
    )

    @model_validator(mode="after")
    def _keys_or_none(self) -> HttpConfig:
        if self.api_keys and self.allow_anonymous:
            raise ValueError("`allow_anonymous: true` has no effect with `api_keys`; expected one of them")
        return self


class NetworkConfig(Settings):
    """The gRPC links."""

    host: str = Field(
        "node", description="address that gRPC servers bind: `node` for the Ray node's own, or an address"
    )
    ports: tuple[Port, Port] | None = Field(
        None, description="lowest and highest port that gRPC servers bind, for firewalls to know; default: any free"
    )
    token: str | None = Field(None, description="shared secret that every gRPC call must carry")
    max_message_bytes: int = Field(16 * 1024 * 1024, ge=64 * 1024)
    heartbeat_s: float = Field(1.0, gt=0, le=60)

    @model_validator(mode="after")
    def _ports_ascend(self) -> NetworkConfig:
        if self.ports is not None and self.ports[0] > self.ports[1]:
            raise ValueError(f"ports: got {list(self.ports)}; expected the lowest port, then the highest")
        return self


class MetricsConfig(Settings):
    """Where metrics go, and how often they are gathered."""

    export: tuple[Literal["http", "ray"], ...] = Field(
        ("http", "ray"),
        description="`http`: at /metrics of the endpoint; `ray`: by Ray's own metrics, at every node's export port",
    )
    interval_s: float = Field(5.0, ge=0.2, le=300, description="between looks at the counters")


class ClusterConfig(Settings):
    """A whole cluster."""

    target: TargetConfig = TargetConfig()
    drafters: tuple[DrafterConfig, ...] = ()
    speculation: SpeculationConfig = SpeculationConfig()
    selector: SelectorConfig = SelectorConfig()
    http: HttpConfig = HttpConfig()
    network: NetworkConfig = NetworkConfig()
    metrics: MetricsConfig = MetricsConfig()

    @model_validator(mode="after")
    def _names_agree(self) -> ClusterConfig:
        names = [drafter.name for drafter in self.drafters]
        for name in names:
            if name in RESERVED_NAMES:
                raise ValueError(f"drafters: the name {name!r} is one of paceline's own ({', '.join(RESERVED_NAMES)})")
            if names.count(name) > 1:
                raise ValueError(f"drafters: the name {name!r} is used twice; each drafter needs its own")
        for field, chosen in (
            ("selector.drafter", self.selector.drafter),
            ("speculation.default_drafter", self.speculation.default_drafter),
            *(("selector.options.composite.priority", name) for name in self.selector.options.composite.priority),
        ):
            if chosen is not None and chosen not in names:
                raise ValueError(f"{field}: {chosen!r} is not one of the drafters ({', '.join(names) or 'none'})")
        return self


def parse_config(document: Any, source: str = "config") -> ClusterConfig:
    """Check a plain dict.

    Raises:
        ConfigError: a field is unknown, missing or out of range, or a drafter's options are not its kind's; the
            message lists each, with its value.
    """
    if not isinstance(document, dict):
        raise ConfigError(f"{source}: expected a mapping of settings, got {type(document).__name__}")
    try:
        config = ClusterConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(_describe(item) for item in error.errors())) from None
    for index, drafter in enumerate(config.drafters):
        try:
            check_options(drafter.kind, drafter.options)
        except ConfigError as error:
            raise ConfigError(f"{source}: drafters.{index} ({drafter.name}): {error}") from None
    return config


def load_config(path: str | Path) -> ClusterConfig:
    """Read a YAML file; relative model folders in it are those beside it (`with_absolute_folders`).

    Raises:
        ConfigError: the file cannot be read, is not YAML, or a field is wrong.
    """
    document = read_yaml(path)
    config = parse_config({} if document is None else document, str(path))
    return with_absolute_folders(config, Path(path).resolve().parent)


def with_absolute_folders(config: ClusterConfig, folder: Path = Path()) -> ClusterConfig:
    """Name folders and files absolutely: Ray's processes do not run where the command was called.

    A model, the target's or a drafter's, that is written `./x` or `../x`, or names a folder that exists seen from
    `folder`, is that folder; everything else (`embedded`, hub ids) stays as it is. `folder` is the settings file's
    own; for what is then still no folder, and for settings that are in no file, it is the working directory.
    `selector.state_file` is seen from there too, whether it exists or not.
    """
    from paceline.actors.model_source import EMBEDDED

    document = config.model_dump()
    for settings in (document["target"], *(drafter["options"] for drafter in document["drafters"])):
        model = settings.get("model")
        if not isinstance(model, str) or model in ("", EMBEDDED):
            continue
        path = folder / os.path.expanduser(model)
        if model.startswith(("./", "../")) or path.is_dir():
            settings["model"] = str(path.resolve())
    state = document["selector"]["state_file"]
    if state is not None:
        document["selector"]["state_file"] = str((folder / os.path.expanduser(state)).resolve())
    return parse_config(document)


def _describe(item: Any) -> str:
    field = ".".join(str(part) for part in item["loc"]) or "settings"
    given = item["input"]
    secret = isinstance(given, dict | BaseModel) or any(part in _SECRET for part in item["loc"])
    shown = "" if secret else f" (got {given!r:.80})"
    return f"{field}: {item['msg'].removeprefix('Value error, ')}{shown}"
