"""Three hosts made of network namespaces: links, status, what is left on one; and nothing outlives their script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "deploy" / "three_hosts.sh"
CANNOT = 77  # its status where it cannot be tried: no root, no sshd, ...
ENVIRONMENT = {**os.environ, "PYTHON": sys.executable}


@pytest.fixture(autouse=True, scope="module")
def possible() -> None:
    """Skip, with the script's own reason, where it has one."""
    tried = subprocess.run([SCRIPT, "true"], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    if tried.returncode == CANNOT:
        pytest.skip(tried.stderr.strip())
    assert tried.returncode == 0, tried.stderr


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=lambda end: end.name)
def test_nothing_outlives_the_script(end: signal.Signals) -> None:
    def outside() -> list[str]:
        """What namespaces of this machine's own could have been left with."""
        return [
            subprocess.run(look, capture_output=True, text=True, check=True).stdout
            for look in (["ip", "-o", "link"], ["ip", "netns"], ["cut", "-d ", "-f5", "/proc/self/mountinfo"])
        ]

    before = outside()
    command = [SCRIPT, "bash", "-c", "echo inside; sleep 1000"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as script:
        try:
            assert script.stdout is not None
            lines = iter(script.stdout.readline, "")
            assert "inside\n" in lines
            inside = psutil.Process(script.pid).children(recursive=True)
            assert [process.name() for process in inside].count("sshd") == 3
            script.send_signal(end)
            script.wait(timeout=20)
            _, alive = psutil.wait_procs(inside, timeout=20)
        finally:
            script.kill()
    assert not alive, alive
    assert outside() == before, "interfaces, namespaces and mounts"


def test_the_commands_status_is_the_scripts() -> None:
    look = "test $(hostname) = operator && ssh ${THREE_HOSTS##* } 'test $(hostname) = host-13 && exit 5'"
    assert subprocess.run([SCRIPT, "bash", "-c", look], env=ENVIRONMENT, timeout=60).returncode == 5


def test_a_cut_link_stops_what_goes_over_it_and_a_mended_one_does_not() -> None:
    look = "ask() { ssh -o ConnectTimeout=2 10.77.0.12 true && echo yes || echo no; }; ask; cut 12; ask; mend 12; ask"
    asked = subprocess.run([SCRIPT, "bash", "-c", look], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert asked.stdout.split()[-3:] == ["yes", "no", "yes"], asked.stdout + asked.stderr


LITTER = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from host_footprint import footprint
host = "10.77.0.12"
before = footprint(host)
assert footprint(host) == before, "looking leaves nothing behind"
leave = "mkdir /tmp/ray; touch /tmp/litter /dev/shm/lump; setsid nohup sleep 1000 > /dev/null 2>&1 < /dev/null &"
subprocess.run(["ssh", host, leave], check=True)
after = footprint(host)
print(after.since(before), after.staying(before))
"""


def test_what_is_left_on_a_host_is_found() -> None:
    command = [SCRIPT, "python", "-c", LITTER, str(ROOT / "benchmarks")]
    seen = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    found = "['file: /tmp/litter', 'memory: /dev/shm/lump', 'process: sleep 1000'] ['/tmp/ray']"
    assert seen.stdout.splitlines()[-1] == found, seen.stdout + seen.stderr
