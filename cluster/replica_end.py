"""Where Serve ends a replica of the ingress, its answers end as those of a server that is stopped.

`serve delete`, and an update that replaces the replica, give it `graceful_shutdown_timeout_s` and then kill it,
whatever it still streams. Serve 2.60 has no word for the application before that (destructors come after the last
request), so the ingress looks, twice a second, at the mark that Serve sets on its own replica.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import ray

from paceline.cluster.drain_gate import FAREWELL_S, Drain

logger = logging.getLogger(__name__)

_LOOK_S = 0.5
_SLACK_S = 3.0  # beyond the last words: for Serve to look, and for a busy machine


def grace(drain_s: float) -> dict[str, Any]:
    """Options of a deployment whose replicas may take so long to end what they run, and say so where it is cut."""
    return {
        "graceful_shutdown_timeout_s": drain_s + FAREWELL_S + _LOOK_S + _SLACK_S,
        "graceful_shutdown_wait_loop_s": _LOOK_S,
    }


def end_with_replica(drain: Drain, within_s: float) -> asyncio.Task[None] | None:
    """Have completions end (`Drain.end`) once Serve ends the replica that this runs in.

    Returns:
        The task that looks, on the running event loop, for the caller to hold; None where there is no replica.
    """
    worker = ray._private.worker.global_worker  # Ray is pinned to the line whose insides these are
    replica = getattr(worker.actors.get(worker.actor_id), "_replica_impl", None)
    if not hasattr(replica, "_shutting_down"):
        logger.warning("no replica of Serve's is found here: should Serve end it, answers are cut without a word")
        return None
    return asyncio.get_running_loop().create_task(_look(replica, drain, within_s))


async def _look(replica: Any, drain: Drain, within_s: float) -> None:
    while not replica._shutting_down:  # noqa: ASYNC110 - Serve has no event for it
        await asyncio.sleep(_LOOK_S)
    ran, ended = await drain.end(within_s)
    logger.info("Serve ends this replica: %d completions ran, %d had to be ended", ran, ended)
