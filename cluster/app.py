"""`build_app`: a cluster from one plain dict, from Python and from Serve YAML alike.

serve run paceline.cluster.app:build_app target='{...}' ...
import_path: paceline.cluster.app:build_app
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from ray import serve
from ray.serve import Application

from paceline.cluster.access import with_environment_keys
from paceline.cluster.config import Resources, parse_config
from paceline.cluster.fleet import Fleet
from paceline.cluster.ingress import Ingress
from paceline.cluster.replica_end import grace
from paceline.cluster.target_replica import TargetReplica

# Where Serve's controller and proxy are, without which nothing goes on anyway: the loss of any other node must neither
# cost the requests that pass through an ingress there, nor leave nobody to bring drafters back.
_AT_THE_HEAD = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}


def build_app(config: dict[str, Any]) -> Application:
    """Wire ingress, target replicas, selector and drafters.

    Args:
        config: What `ClusterConfig` takes.

    Raises:
        ConfigError: a field is wrong, or a drafter's options are not its kind's.
    """
    settings = with_environment_keys(parse_config(config))
    document = settings.model_dump()
    target = settings.target
    ongoing = target.max_sequences + target.max_queue
    # Additions wait in it for their drafters, while everybody asks it how things are.
    fleet = serve.deployment(name="Fleet", max_ongoing_requests=64, ray_actor_options=_AT_THE_HEAD)(Fleet)
    replicas = serve.deployment(
        name="Target",
        num_replicas=target.replicas,
        # More than the engine can hold, so that it is the engine that says 429, and says it at once.
        max_ongoing_requests=ongoing + 16,
        ray_actor_options=_placement(target.resources),
        **grace(settings.http.drain_s),
    )(TargetReplica)
    ingress = serve.deployment(
        name="Ingress",
        max_ongoing_requests=4 * (ongoing + 16),
        ray_actor_options=_AT_THE_HEAD,
        **grace(settings.http.drain_s),
    )(Ingress)
    return ingress.bind(document, replicas.bind(document), fleet.bind(document, uuid4().hex))


def _placement(resources: Resources) -> dict[str, Any]:
    return {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus, "resources": dict(resources.custom)}
