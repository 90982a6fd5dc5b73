"""Where the processes of one application leave their newest samples, and the ingress finds them: Ray's key-value store.

A process writes a few kilobytes every few seconds and asks nobody; a scrape reads them all, however many replicas there
are, and goes on reading what a killed process left until that is stale.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from ray.experimental import internal_kv

from paceline.cluster.metrics.samples import Samples


class MetricBoard:
    """One process's end of the board of an application.

    Args:
        application: Name of the Serve application.
        stale_s: Samples that have not been renewed for so long are a dead process's.
        clock: Seconds, never going back.
    """

    def __init__(self, application: str, stale_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._namespace = f"paceline-metrics-{application}".encode()
        self._stale_s = stale_s
        self._clock = clock
        self._number = 0
        self._seen: dict[bytes, tuple[int, float]] = {}  # key -> number, and when it was first seen

    def put(self, source: str, samples: Samples) -> None:
        """Leave a process's newest samples."""
        self._number += 1
        value = json.dumps(self._number).encode() + b"\n" + samples.encode()
        internal_kv._internal_kv_put(source.encode(), value, overwrite=True, namespace=self._namespace)

    def remove(self, source: str) -> None:
        """Take a process's samples away."""
        internal_kv._internal_kv_del(source.encode(), namespace=self._namespace)

    def read(self) -> dict[str, Samples]:
        """All processes' newest samples by source. What was not renewed in `stale_s` of watching is removed."""
        found: dict[str, Samples] = {}
        now_s = self._clock()
        for key in internal_kv._internal_kv_list(b"", namespace=self._namespace):
            data = internal_kv._internal_kv_get(key, namespace=self._namespace)
            if data is None:
                continue
            number, _, body = data.partition(b"\n")
            known, since_s = self._seen.get(key, (None, now_s))
            if known != int(number):
                since_s = now_s
            self._seen[key] = int(number), since_s
            if now_s - since_s > self._stale_s:
                del self._seen[key]
                internal_kv._internal_kv_del(key, namespace=self._namespace)
            else:
                found[key.decode()] = Samples.decode(body)
        return found
