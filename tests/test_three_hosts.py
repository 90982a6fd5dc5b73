"""`ray up` on three hosts made of network namespaces; their links, what is left on one, and that nothing outlives their
script."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from required_tools import without

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "deploy" / "three_hosts.sh"
CANNOT = 77  # its status where it cannot be tried: no root, no sshd, ...
ENVIRONMENT = {**os.environ, "PYTHON": sys.executable}


@pytest.fixture(autouse=True, scope="module")
def possible() -> None:
    """Go `without`, with the script's own reason, where it has one."""
    tried = subprocess.run([SCRIPT, "true"], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    if tried.returncode == CANNOT:
        without("three_hosts", tried.stderr.strip())
    assert tried.returncode == 0, tried.stderr


def outside() -> list[str]:
    """What namespaces of this machine's own could have been left with: interfaces, namespaces and mounts."""
    return [
        subprocess.run(look, capture_output=True, text=True, check=True).stdout
        for look in (["ip", "-o", "link"], ["ip", "netns"], ["cut", "-d ", "-f5", "/proc/self/mountinfo"])
    ]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """It is the reason with which these tests are skipped."""
    for tool in ("bash", "dirname", "uname", "id", "unshare", "setpriv"):
        found = shutil.which(tool)
        assert found is not None, tool
        (tmp_path / tool).symlink_to(found)
    environment = ENVIRONMENT | {"PATH": str(tmp_path)}
    tried = subprocess.run([SCRIPT, "true"], env=environment, capture_output=True, text=True, timeout=60)
    assert (tried.returncode, tried.stderr.partition(" (")[0]) == (CANNOT, "three_hosts: ip is missing")
    nobody = ["setpriv", "--reuid", "65534", "--clear-groups", "--regid", "65534"]
    tried = subprocess.run([*nobody, SCRIPT, "true"], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert (tried.returncode, tried.stderr) == (CANNOT, "three_hosts: needs root, for network namespaces\n")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=lambda end: end.name)
def test_nothing_outlives_the_script(end: signal.Signals) -> None:
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
    assert outside() == before


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


@pytest.mark.cluster
@pytest.mark.model
@pytest.mark.timeout(600)
def test_a_cluster_of_three_hosts_outlives_a_cut_link_and_ray_down_leaves_nothing(tmp_path: Path) -> None:
    """Texts as plain decoding makes them, over HTTP from a fourth host, drafts from two, whatever the link does."""
    before, log = outside(), tmp_path / "log"
    # Should this process be killed, the script ends, too, and with it all that is inside.
    command = ["setpriv", "--pdeathsig", "TERM", SCRIPT, "--quick", "--prompts", "1"]
    with (
        log.open("w") as said,
        subprocess.Popen(command, env=ENVIRONMENT, stdout=said, stderr=subprocess.STDOUT) as ride,
    ):
        try:
            ride.wait(timeout=560)
        finally:
            ride.terminate()
    assert ride.returncode == 0, log.read_text()
    assert outside() == before
    report: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    assert report["lost"] == 0
    assert set(report["left"]) == {"operator", "10.77.0.11", "10.77.0.12", "10.77.0.13"}
    assert not any(report["left"].values()), report["left"]
    steps = report["steps"]
    assert steps["requests all the while"] >= 4, "before the cut, meanwhile, and after it"
    drafted = {step: rounds for step, rounds in steps.items() if step.partition(" on ")[0] in {"ngram", "suffix"}}
    assert {step.partition(" on ")[2] for step in drafted} == {"10.77.0.12", "10.77.0.13"}, "each on a host of its own"
    assert all(drafted.values()), "each drafted for the target on another host"
