"""What processes find in their environment that are started with `direct_links`, and what stays as it was."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from paceline.cluster.serve_links import direct_links

GRPC, LOOP = "RAY_SERVE_USE_GRPC_BY_DEFAULT", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"
NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens
# As Serve calls a replica: a plain channel of gRPC to an address of this machine.
CALL = """
from concurrent.futures import ThreadPoolExecutor
import grpc
class Echo(grpc.GenericRpcHandler):
    def service(self, _):
        return grpc.unary_unary_rpc_method_handler(lambda request, _: request)
server = grpc.server(ThreadPoolExecutor(1))
server.add_generic_rpc_handlers((Echo(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary("/echo/echo")(b"here", timeout=20).decode())
server.stop(None)
"""


def seen_by_a_child(name: str) -> str:
    shown = f"import os; print(os.environ.get({name!r}, 'unset'))"
    return subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True).stdout.strip()


def called_by_a_child() -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CALL], capture_output=True, text=True, check=False, timeout=60)


def test_children_pass_chunks_on_directly_and_this_process_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(GRPC, raising=False)
    before = dict(os.environ)
    with direct_links():
        assert seen_by_a_child(GRPC) == "1"
    assert dict(os.environ) == before
    assert seen_by_a_child(GRPC) == "unset"


def test_what_the_environment_says_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOOP, "1")
    with direct_links():
        assert seen_by_a_child(LOOP) == "1"
    assert os.environ[LOOP] == "1"


def test_calls_between_processes_do_not_go_through_the_environments_http_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", NOWHERE)
    assert called_by_a_child().returncode != 0, "gRPC does not read http_proxy any more"
    with direct_links():
        assert called_by_a_child().stdout.strip() == "here"
