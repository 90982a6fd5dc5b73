"""Processes beside a target: in a process of its own, since a class once taken is this test's, too."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import os, threading
from paceline.actors import priority

over = threading.Event()
threading.Thread(target=over.wait).start()
priority.{call}
threading.Thread(target=over.wait).start()
print(sorted({{os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}}), os.nice(0))
over.set()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="classes of scheduling are Linux's")
@pytest.mark.parametrize(
    ("call", "kind", "niceness"),
    [
        ("wait_for_gaps()", os.SCHED_BATCH, 0),
        ("yield_to_others()", os.SCHED_BATCH, 10),
        ("wait_for_gaps(os.getpid()); priority.go_first()", os.SCHED_OTHER, 0),
    ],
)
def test_threads_before_and_after_have_the_class(call: str, kind: int, niceness: int) -> None:
    code = CODE.format(call=call)
    ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    classes, nice = ran.stdout.rsplit(" ", 1)
    assert classes == f"[{kind}]"
    before = int(subprocess.run(["nice"], capture_output=True, text=True, check=True).stdout)
    assert int(nice) == min(before + niceness, 19)
