"""What a host holds at a moment: processes, listening sockets, shared memory, mounts, interfaces, files; over ssh.

`check_three_hosts.py` takes it before `ray up` and after `ray down`. What runs must then be as it was; of files those
that are known to stay, and why, are told, and any other is something left behind.
"""

from __future__ import annotations

import fnmatch
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

# One line for each thing: its sort, a space, the thing. Sessions of ssh, this one among them, come and go.
_PROCESSES = r"""
own=$(ps -o sid= -p $$)
ps -e -o sid=,args= | while read -r sid args; do
    case "$sid $args" in "${own##* } "*|*" sshd"*|*" /usr/sbin/sshd"*) ;; *) echo "process $args" ;; esac
done
ss -Hltnu | awk '{print "socket " $1 " " $5}'
"""
_THINGS = r"""
find /dev/shm -mindepth 1 | sed 's/^/memory /'
cut -d' ' -f2 /proc/self/mounts | sed 's/^/mount /'
ip -o link show | awk -F': ' '{print "interface " $2}' | cut -d@ -f1
find /tmp "$HOME" "$HOME"/.ssh "$HOME"/.ray -mindepth 1 -maxdepth 1 2>/dev/null | sed "s|^$HOME|~|; s/^/file /"
"""

OPERATOR = "operator"
RUNNING = ("process", "socket", "memory", "mount", "interface")
# Files that stay after `ray down`, and why.
STAYS = {
    "~/paceline": "the checkout, which the next `ray up` brings up to date",
    "~/paceline-ray.log": "what a worker's `ray start` said",
    "~/ray_bootstrap_config.yaml": "the cluster file, for the head's autoscaler",
    "~/ray_bootstrap_key.pem": "the key with which the head reaches its workers",
    "~/serve.yaml": "put there by this check",
    "~/.cache": "numba's and torch's compiled code",
    "/tmp/torchinductor_*": "the same",
    "/tmp/ray-config-*": "the cluster file as `ray up` last read it, at the operator",
    "/tmp/ray_ssh_*": "empty: where `ray up` shared connections of ssh",
    "/tmp/pymp-*": "empty: of Ray's own dashboard, which `ray stop` ends without leave to tidy up",
    "/tmp/ray": "logs of past sessions; at the operator, that the cluster's hosts are `terminated`",
}


@dataclass(frozen=True)
class Footprint:
    """Things by sort."""

    things: frozenset[tuple[str, str]]

    def since(self, before: Footprint) -> list[str]:
        """What has come and should not have: everything that runs, and files that are not known to stay."""
        return [
            f"{sort}: {thing}"
            for sort, thing in sorted(self.things - before.things)
            if sort in RUNNING or not _stays(thing)
        ]

    def staying(self, before: Footprint) -> list[str]:
        """Files that have come and are known to stay."""
        return sorted(thing for sort, thing in self.things - before.things if sort not in RUNNING and _stays(thing))


def _stays(file: str) -> bool:
    return any(fnmatch.fnmatch(file, name) for name in STAYS)


def footprint(host: str) -> Footprint:
    """Of a host that ssh reaches; of the operator's, on which all others' processes are seen, all but these.

    Raises:
        subprocess.CalledProcessError: it cannot be looked at.
    """
    command, look = (["sh"], _THINGS) if host == OPERATOR else (["ssh", host, "sh"], _PROCESSES + _THINGS)
    said = subprocess.run(command, input=look, capture_output=True, text=True, check=True, timeout=30)
    lines = (line.partition(" ") for line in said.stdout.splitlines())
    return Footprint(frozenset((sort, thing) for sort, _, thing in lines))


def hosts_not_terminated(path: Path) -> list[str]:
    """Hosts that Ray's own notes about a local cluster, at the operator, do not call terminated."""
    if not path.exists():
        return []
    nodes: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return [f"{name}: {node['state']}" for name, node in nodes.items() if node["state"] != "terminated"]
