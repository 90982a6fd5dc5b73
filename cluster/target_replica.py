"""A target replica: the engine's loop on a thread of its own, behind a Serve deployment that streams chunks.

This is where the decoding loop meets the cluster: the model is loaded, the pool gets gRPC links, the board gets the
selector's address, and the engine that is built from them knows none of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Any

import ray
import torch
from ray import serve
from ray.serve._private.constants import SERVE_NAMESPACE

from paceline.actors.drafter_actor import selector_resolver
from paceline.actors.drafter_link import GrpcLink
from paceline.actors.engine import Engine
from paceline.actors.errors import PacelineError
from paceline.actors.generation import Chunk, Generation
from paceline.actors.model_loader import load_model
from paceline.actors.model_source import resolve
from paceline.actors.priority import go_first
from paceline.actors.session_pool import SessionPool
from paceline.actors.tracer import TRACER, Span
from paceline.actors.weights_link import WeightsLink
from paceline.cluster.backend import Pulse
from paceline.cluster.caller_watch import CallerWatch
from paceline.cluster.config import ClusterConfig
from paceline.cluster.engine_limits import engine_limits, feature_layers, kv_tokens
from paceline.cluster.metrics.publisher import MetricPublisher
from paceline.cluster.metrics.target_metrics import TargetMetrics
from paceline.cluster.naming import namespace, selector_name

logger = logging.getLogger(__name__)

_NO_SEQUENCE = -1  # has no weights of its own, and so those of a new one
HOLD_S = 0.2  # that chunks of an answer nobody reads along are gathered: each hand-over costs two processes 2 ms


class TargetReplica:
    """One engine and what feeds it.

    Raises:
        PacelineError: the model cannot be found or loaded.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        go_first()
        self._settings = ClusterConfig.model_validate(config)
        network, speculation = self._settings.network, self._settings.speculation
        context = serve.get_replica_context()
        self._name = context.replica_id.unique_id
        self._board = WeightsLink(
            selector_resolver(selector_name(self._settings), namespace(context.app_name)),
            self._name,
            default_drafter=speculation.default_drafter or next((d.name for d in self._settings.drafters), None),
            token=network.token,
            max_message_bytes=network.max_message_bytes,
            grace_s=max(5.0, 4 * network.heartbeat_s),
        )
        built: Future[tuple[Engine, SessionPool]] = Future()
        self._thread = threading.Thread(target=self._run, args=(built,), name="engine", daemon=True)
        self._thread.start()
        self._engine, self._pool = built.result()
        self._watch = CallerWatch(_is_gone, self._engine.abort)
        metrics = TargetMetrics(self._engine, self._pool, self._board, [d.name for d in self._settings.drafters])
        self._metrics = MetricPublisher(
            context.replica_id.unique_id, metrics.gather, context.app_name, self._settings.metrics
        )

    async def generate(self, generation: Generation) -> AsyncIterator[list[Chunk]]:
        """Stream one sequence, what has come since the last time each time; leaving early aborts it.

        Raises:
            PacelineError: as `Backend.generate` says.
        """
        loop = asyncio.get_running_loop()
        arrived: deque[Chunk | PacelineError] = deque()
        news = asyncio.Event()

        def put(item: Chunk | PacelineError) -> None:
            arrived.append(item)
            if generation.streamed or isinstance(item, PacelineError) or item.finish_reason is not None:
                loop.call_soon_threadsafe(news.set)

        self._engine.submit(generation, put)
        self._watch.begun(generation.caller, generation.request_id)
        ended = False
        try:
            while not ended:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), None if generation.streamed else HOLD_S)
                news.clear()
                chunks: list[Chunk] = []
                failure: PacelineError | None = None
                while arrived and not ended:
                    item = arrived.popleft()
                    if isinstance(item, PacelineError):
                        ended, failure = True, item
                    else:
                        ended = item.finish_reason is not None
                        chunks.append(item)
                if chunks:
                    yield chunks
                if failure is not None:
                    raise failure
        finally:
            self._watch.ended(generation.caller, generation.request_id)
            if not ended:
                self._engine.abort(generation.request_id)

    def state(self) -> dict[str, Any]:
        """What the status page shows of this replica."""
        return {
            "node": ray.util.get_node_ip_address(),
            "pid": os.getpid(),
            "device": self._settings.target.device,
            "running": self._engine.running,
            "waiting": self._engine.waiting,
            "usable": self._pool.connected(),
        }

    def pulse(self) -> Pulse:
        """What the dashboard shows of this replica while it watches."""
        pace = self._engine.pace.count
        return Pulse(
            replica=self._name,
            running=self._engine.running,
            waiting=self._engine.waiting,
            known=tuple(dict.fromkeys(member.drafter for member in self._board.members())),
            usable=tuple(self._pool.connected()),
            weights=dict(self._board.weights(_NO_SEQUENCE)),
            decode_ms=pace.decode_ms,
            plain_ms=pace.plain_ms,
            plain_round_ms=pace.plain_round_ms,
            plain_sequences=pace.plain_sequences,
            queue_counts=self._engine.counts.queue_s.count.counts,
        )

    def trace(self, since_ns: int) -> list[Span]:
        """What this process did since a moment."""
        return TRACER.since(since_ns)

    def check_health(self) -> None:
        """Serve calls this: a dead engine thread makes the replica unhealthy.

        Raises:
            RuntimeError: the engine's thread has ended.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the engine's thread has ended")

    def __del__(self) -> None:
        metrics = getattr(self, "_metrics", None)
        if metrics is not None:
            metrics.close()
        engine = getattr(self, "_engine", None)
        if engine is not None:
            self._watch.close()
            engine.stop()
            self._thread.join(timeout=5)
            self._pool.shutdown()
        board = getattr(self, "_board", None)
        if board is not None:
            board.close()

    def _run(self, built: Future[tuple[Engine, SessionPool]]) -> None:
        """Load, build, decode: all of torch's work in this process happens on this one thread.

        Each thread that runs parallel regions gets an OpenMP team of its own, and with more threads than cores between
        them the teams stop spinning for work: a forward of the embedded model took 1.5 times as long on a second one.
        """
        try:
            engine, pool = self._build()
        except BaseException as error:  # noqa: BLE001 - whatever it was, the constructor that waits raises it
            built.set_exception(error)
            return
        built.set_result((engine, pool))
        engine.run()

    def _build(self) -> tuple[Engine, SessionPool]:
        target, network, speculation = self._settings.target, self._settings.network, self._settings.speculation
        torch.set_num_threads(target.threads or os.cpu_count() or 1)
        model = load_model(
            resolve(target.model, progress=False).path,
            dtype=target.dtype,
            device=target.device,
            quantization=target.quantization,
            kv_tokens=kv_tokens(self._settings),
            feature_layers=feature_layers(self._settings),
        )
        pool = SessionPool(
            self._board.members,
            lambda member: GrpcLink(
                member.drafter, member.address, token=network.token, max_message_bytes=network.max_message_bytes
            ),
            vocab_size=model.vocab_size,
            catch_up_tokens=speculation.catch_up_tokens,
            deadline_s=speculation.deadline_ms / 1e3,
            feature_layers=model.feature_layers,
        )
        return Engine(model, pool, self._board, engine_limits(self._settings, model.max_positions)), pool


def _is_gone(caller: str) -> bool:
    try:
        ray.get_actor(caller, namespace=SERVE_NAMESPACE)
    except ValueError:  # Ray's word for an actor that is dead, or was never there
        return True
    except ray.exceptions.RayError:  # Ray itself does not answer, which says nothing of the caller
        return False
    return False
