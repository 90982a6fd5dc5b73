"""Runs a compiled kernel on the OpenMP threads that torch multiplies on, which are awake when it is called.

Threads of our own would take the cores from torch's, which spin for work. Where torch has another OpenMP, or none, the
kernel runs on the caller's thread.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import cfunc, types

from paceline.kernels.simd import KINDS, address

ALONE = 400_000  # products that one thread does sooner than two have met


class Team:
    """One kernel on a team.

    Args:
        kernel: Compiled, of (address of its task, worker, workers, kind).
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._entries: dict[torch.dtype, Any] = {}
        self._openmp = _openmp()

    def prepare(self, dtype: torch.dtype) -> None:
        """Compile what threads enter by, so that no request waits for it."""
        if self._openmp is None or dtype in self._entries:
            return
        kernel, kind = self._kernel, KINDS[dtype]
        own, all_ = self._openmp.omp_get_thread_num, self._openmp.omp_get_num_threads

        def run(task: Any) -> None:
            kernel(address(task), own(), all_(), kind)

        self._entries[dtype] = cfunc(types.void(types.voidptr))(run)

    def run(self, task: npt.NDArray[np.int64], dtype: torch.dtype, work: int) -> None:
        """Run a task of so many products, on as many threads as it is worth."""
        workers = torch.get_num_threads()
        entry = self._entries.get(dtype)
        if work < ALONE or workers == 1 or entry is None or self._openmp is None:
            self._kernel(task.ctypes.data, 0, 1, KINDS[dtype])
        else:
            self._openmp.GOMP_parallel(entry.address, task.ctypes.data, workers, 0)


@functools.cache
def _openmp() -> Any:
    """torch's own OpenMP, which is loaded already and found by its name; None where it has another, or none."""
    try:
        openmp = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        own, all_, start = openmp.omp_get_thread_num, openmp.omp_get_num_threads, openmp.GOMP_parallel
    except (OSError, AttributeError):
        return None
    own.argtypes = all_.argtypes = []
    own.restype = all_.restype = ctypes.c_int
    start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    start.restype = None
    return openmp
