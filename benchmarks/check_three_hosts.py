"""Does a cluster outlive the loss of a host? `ray up` on three hosts, requests all the while, a link cut and mended.

`deploy/three_hosts.sh` makes the hosts out of network namespaces and runs this on a fourth, from which an operator
would work: everything here goes over ssh and HTTP. Greedy answers in float32 must equal those of plain decoding in this
process, whatever happens to the link meanwhile.

    sudo deploy/three_hosts.sh            # needs a Python with paceline: PYTHON=.venv/bin/python
    sudo deploy/three_hosts.sh --quick    # two light drafters, and one short cut, which Ray does not notice
    sudo deploy/three_hosts.sh --pictures docs/img    # the dashboard meanwhile; needs Chromium
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from cluster_watch import TOKENS, Board, Place, Ride, ask, is_up, say, text_of, wait_until
from host_footprint import OPERATOR, Footprint, footprint, hosts_not_terminated
from provenance import provenance
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ROOT / "benchmarks" / "prompts" / "first_ride.jsonl"
WORK = Path("/tmp/three-hosts")
# Settings by which Ray gives a silent host up sooner than by its own.
IMPATIENCE = re.compile(r"RAY_health_check_\w+=\d+")

Rows = list[tuple[str, float, str]]


def main() -> None:
    """Bring up, ask, cut, mend, take down; print a table, end with one JSON line; exit 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two light drafters, one short cut")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument(
        "--pictures", type=Path, default=None, help="folder in the checkout for the dashboard's picture"
    )
    options = parser.parse_args()
    if options.pictures is not None and not (ROOT / options.pictures).resolve().is_relative_to(ROOT):
        parser.error(f"--pictures {options.pictures}: expected a folder in the checkout, since others are hidden here")
    head, *workers = os.environ["THREE_HOSTS"].split()
    url = f"http://{head}:8000"
    rows: Rows = []
    prompts = [json.loads(line)["prompt"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    prompts = prompts[: options.prompts]
    if not options.quick:
        say("plain decoding in this process, for the texts to expect")
        expected = plain_texts(prompts)
    WORK.mkdir()
    drafters = write_files(head, workers, quick=options.quick)
    before = {host: footprint(host) for host in (OPERATOR, head, *workers)}
    try:
        with timed(rows, "ray up", f"head {head}, workers {', '.join(workers)}"):
            run("ray", "up", "--yes", "--no-config-cache", str(WORK / "cluster.yaml"))
        with timed(rows, "serve deploy, until every drafter can be asked", ""):
            run("scp", "-q", str(WORK / "serve.yaml"), f"{head}:")
            run("ray", "exec", str(WORK / "cluster.yaml"), "serve deploy ~/serve.yaml")
            wait_until(lambda: is_up(url, drafters), 240, "the cluster is up")
        if options.quick:
            expected = {prompt: text_of(ask(url, prompt, paceline={"enabled": False})) for prompt in prompts}
        lost = ride(url, head, workers[0], expected, options, rows)
    except BaseException:
        look(head)
        raise
    finally:
        with timed(rows, "ray down", ""):
            run("ray", "down", "--yes", str(WORK / "cluster.yaml"))
    started = time.monotonic()
    said = ""
    while any((left := left_behind(before)).values()) and time.monotonic() < started + 60:
        if said != (said := ", ".join(f"{len(lines)} on {host}" for host, lines in left.items() if lines)):
            say(f"still there: {said}")
        time.sleep(1)
    rows.append(("until nothing is left behind on any host", time.monotonic() - started, ""))
    report(rows, lost, left, before)
    raise SystemExit(int(bool(lost) or any(left.values())))


def ride(
    url: str, head: str, victim: str, expected: dict[str, str], options: argparse.Namespace, rows: Rows
) -> list[str]:
    """Requests without a pause while a link is cut and mended; returns what was lost."""
    with Board(url) as board, Ride(url, expected) as asking:
        board.wait_for("the drafters are seen", lambda now: len({place.node for place in now.values()}) > 1, 60)
        before = dict(board.places)
        theirs = {name for name, place in before.items() if place.node == victim}
        assert theirs, f"no drafter on {victim}: {before}"
        assert head not in {place.node for place in before.values()}, f"a drafter on the head: {before}"
        crossed(url, expected, before, rows)
        if options.pictures is not None:
            picture(url, options.pictures, "three-hosts")
        cut_shortly(victim, before, theirs, board, asking, rows)
        if not options.quick:
            cut_for_long(head, victim, before, theirs, board, asking, rows)
        crossed(url, expected, {name: place for name, place in board.places.items() if place.node == victim}, rows)
    rows.append(("requests all the while", asking.asked, f"{len(asking.wrong)} lost or wrong"))
    rows.append(("slowest answer", asking.slowest_s, ""))
    return asking.wrong


def cut_shortly(
    victim: str, before: dict[str, Place], theirs: set[str], board: Board, asking: Ride, rows: Rows
) -> None:
    """A cable out and in again: Ray does not notice, and the same processes go on."""
    link(victim, "down")
    silent_s = board.wait_for(
        "its drafters are silent", lambda now: not any(now[name].node for name in theirs & set(now)), 60
    )
    rows.append((f"link of {victim} cut, until its drafters are seen not to answer", silent_s, ""))
    asking.wait_for(1)
    link(victim, "up")
    rows.append(("mended at once, until they answer", board.wait_for("as before", lambda now: now == before, 180), ""))
    asking.wait_for(2)


def cut_for_long(
    head: str, victim: str, before: dict[str, Place], theirs: set[str], board: Board, asking: Ride, rows: Rows
) -> None:
    """Until Ray has given the host up, which then has to start anew: its old processes answer once more, and end."""
    rest = set(before) - theirs
    started = time.monotonic()
    link(victim, "down")
    wait_until(lambda: victim not in alive(head), 120, "Ray gives the node up")
    rows.append((f"link of {victim} cut, until Ray has given the host up", time.monotonic() - started, ""))
    board.wait_for("its drafters are left out", lambda now: set(now) == rest, 60)
    rows.append(("... until the target has, too", time.monotonic() - started, f"left: {', '.join(sorted(rest))}"))
    asking.wait_for(4)
    link(victim, "up")
    back_s = board.wait_for("its drafters are back", lambda now: is_anew(now, before, theirs, victim), 300)
    rows.append(("mended, until its drafters, started anew, answer", back_s, ""))
    asking.wait_for(4)


def is_anew(now: dict[str, Place], before: dict[str, Place], theirs: set[str], victim: str) -> bool:
    """Whether every drafter answers, and the lost host's do so from other processes on it."""
    there = all(now[name].node == victim for name in theirs & set(now))
    return now.keys() == before.keys() and there and not any(now[name].pid == before[name].pid for name in theirs)


def crossed(url: str, expected: dict[str, str], drafters: dict[str, Place], rows: Rows) -> None:
    """Every drafter drafts for the target over the network, and the text stays what it was."""
    for name, (node, _) in drafters.items():
        accepted = rounds = 0
        for prompt, text in expected.items():
            reply = ask(url, prompt, paceline={"drafter": name})
            assert text_of(reply) == text, f"{name}: {text_of(reply)!r} is not {text!r}"
            told = reply["metrics"]["speculative_decoding"]
            accepted += told["accepted_tokens"]
            rounds += round(told["rounds_by_drafter"].get(name, 0.0) * told["rounds"])
        assert rounds, f"{name} on {node} never drafted"
        rows.append((f"{name} on {node}", rounds, f"rounds, {accepted} tokens accepted"))


def plain_texts(prompts: list[str]) -> dict[str, str]:
    """What the target says to each prompt by itself: one token at a time."""
    # Here, since the quick check needs no model in this process, nor the seconds that these take.
    from check_lossless import decode

    from paceline.actors.model_facts import eos_ids
    from paceline.actors.model_loader import load_model
    from paceline.actors.model_source import resolve
    from paceline.cluster.tokenizer import ChatTokenizer

    folder = resolve("embedded").path
    model, tokenizer, stop = load_model(folder, dtype="float32"), ChatTokenizer(folder), eos_ids(folder)
    texts = {}
    for prompt in prompts:
        tokens = decode(model, model, tokenizer.apply_chat([{"role": "user", "content": prompt}]), stop, TOKENS).tokens
        texts[prompt] = tokenizer.decode([token for token in tokens if token not in stop])
    return texts


def write_files(head: str, workers: list[str], *, quick: bool) -> int:
    """The two files of `deploy/`, with these addresses, and what three real hosts would not share: installation.

    Returns:
        The number of drafters.
    """
    cluster = yaml.safe_load((ROOT / "deploy" / "onprem.yaml").read_text(encoding="utf-8"))
    cluster["provider"] |= {"head_ip": head, "worker_ips": workers}
    cluster["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
    cluster["file_mounts"] = {"~/paceline": str(ROOT)}
    cluster["setup_commands"] = ["test -d ~/paceline/zoo"] if quick else ["test -d ~/paceline/zoo && paceline pull"]
    served = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text(encoding="utf-8"))
    settings = served["applications"][0]["args"]
    settings["target"] |= {"dtype": "float32"}
    settings["speculation"] = {
        "draft_length": "longest",
        "max_draft": 4,
    }  # whoever is named drafts, whether it pays or not
    settings["network"] |= {"token": secrets.token_hex(16)}
    if quick:  # one on each worker, and up at once; a machine that is busy with three hosts is patient with them
        head_start = cluster["head_start_ray_commands"]
        head_start[-1] = head_start[-1].replace("export ", "export AUTOSCALER_UPDATE_INTERVAL_S=1 ", 1)
        settings["drafters"] = [drafter for drafter in settings["drafters"] if drafter["kind"] != "head"]
        for step in ("head_start_ray_commands", "worker_start_ray_commands"):
            edited = (part.replace('{"drafter": 2}', '{"drafter": 1}') for part in cluster[step])
            cluster[step] = [IMPATIENCE.sub("", part) for part in edited]
    (WORK / "cluster.yaml").write_text(yaml.safe_dump(cluster), encoding="utf-8")
    (WORK / "serve.yaml").write_text(yaml.safe_dump(served), encoding="utf-8")
    return len(settings["drafters"])


def alive(head: str) -> set[str]:
    """Addresses of the nodes that Ray takes for alive."""
    asked = (
        "import json, urllib.request as u; "
        "print(u.urlopen('http://127.0.0.1:8265/api/v0/nodes', timeout=5).read().decode())"
    )
    told = json.loads(run("ssh", head, f'source .bashrc; python -c "{asked}"', quiet=True))
    return {node["node_ip"] for node in told["data"]["result"]["result"] if node["state"] == "ALIVE"}


def look(head: str) -> None:
    """Something failed: what Ray says of it."""
    logs = "/tmp/ray/session_latest/logs"
    status = "curl -s -m 10 http://127.0.0.1:8000/v1/paceline/status"
    for command in (
        status,
        "ray list actors",
        "ray status",
        "serve status",
        f"tail -n 40 {logs}/monitor.log {logs}/serve/controller*.log",
    ):
        try:
            told = subprocess.run(
                ["ssh", head, f"source .bashrc; {command}"], capture_output=True, text=True, timeout=60
            )
        except subprocess.TimeoutExpired as error:
            say(f"no diagnosis: {error}")
            continue
        print(f"--- {command}\n{told.stdout[-6000:]}{told.stderr[-2000:]}", flush=True)


def left_behind(before: dict[str, Footprint]) -> dict[str, list[str]]:
    """By host, what has come since and should not have."""
    left = {host: footprint(host).since(then) for host, then in before.items()}
    left[OPERATOR] += hosts_not_terminated(Path("/tmp/ray/cluster-paceline.state"))
    return left


def picture(url: str, folder: Path, name: str) -> None:
    """The dashboard, after a minute of the traffic that there is."""
    run(
        sys.executable,
        str(ROOT / "tests" / "dashboard_pictures.py"),
        url,
        str((ROOT / folder).resolve()),
        "--watch",
        name,
        "--seconds",
        "60",
    )


def link(host: str, state: str) -> None:
    """Plug a host's cable in or out, at the switch."""
    run("ip", "link", "set", f"to{host.rpartition('.')[2]}", state)


def run(*command: str, quiet: bool = False) -> str:
    """Run a command, showing it; its output goes to a log unless it fails.

    Raises:
        SystemExit: it failed.
    """
    if not quiet:
        say("$ " + " ".join(command))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


@contextmanager
def timed(rows: Rows, what: str, remark: str) -> Iterator[None]:
    """Note how long a step took."""
    started = time.monotonic()
    yield
    rows.append((what, time.monotonic() - started, remark))


def report(rows: Rows, lost: list[str], left: dict[str, list[str]], before: dict[str, Footprint]) -> None:
    """The table, what was lost or left, what stays by design, and the JSON line."""
    table = Table()
    for column in ("step", "seconds or count", ""):
        table.add_column(column, justify="right" if column.startswith("seconds") else "left")
    for what, figure, remark in rows:
        table.add_row(what, f"{figure:.1f}" if isinstance(figure, float) else str(figure), remark)
    remark = "processes, sockets, shared memory, mounts, interfaces, files"
    table.add_row("left behind", str(sum(map(len, left.values()))), remark)
    Console(width=120).print(table)
    for host, then in before.items():
        say(f"stays on {host}: " + (", ".join(footprint(host).staying(then)) or "nothing"))
    for line in (*lost, *(f"{host}: {line}" for host, lines in left.items() for line in lines)):
        say(line)
    steps = {what: round(figure, 2) for what, figure, _ in rows}
    print(json.dumps({"benchmark": "three hosts", "steps": steps, "lost": len(lost), "left": left, **provenance()}))


if __name__ == "__main__":
    main()
