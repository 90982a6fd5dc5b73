"""vLLM's OpenAI-compatible server in a process of its own, under the interpreter that it is installed for.

bfloat16, as everyone in the comparison; no sharing of prompts' beginnings, so that no prompt is known from before; and
no line in a log for each request. Threads are placed as it places them itself: on two cores one runs the forward and
one is kept for the server, which was faster here than binding the forward to both.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import httpx

from paceline.cluster.served_process import free_port

READY_S = 300.0
NGRAM = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4}
_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


class VllmServer:
    """A running server; use it as a context manager.

    Args:
        python: The interpreter that vLLM is installed for.
        model: The target's folder.
        name: What requests call the model.
        ngram: Whether it speculates, by prompt lookup.
        environment: Variables of its own, such as how it places its threads.
    """

    def __init__(self, python: str, model: Path, name: str, *, ngram: bool, environment: dict[str, str]) -> None:
        self._environment = environment
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._command = [python, "-m", "vllm.entrypoints.openai.api_server"]
        self._command += ["--model", str(model), "--served-model-name", name]
        self._command += ["--host", "127.0.0.1", "--port", str(self._port), "--dtype", "bfloat16"]
        self._command += ["--max-model-len", "2048", "--no-enable-prefix-caching"]
        self._command += ["--disable-uvicorn-access-log", "--disable-log-stats"]
        if ngram:
            self._command += ["--speculative-config", json.dumps(NGRAM)]
        self._folder = tempfile.TemporaryDirectory(prefix="vllm-served-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> VllmServer:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        log = Path(self._folder.name) / "serve.log"
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                self._command,
                env=environment | _ENVIRONMENT | self._environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self._folder.name,
                start_new_session=True,  # its engine is a process of its own, and ends with the group
            )
        try:
            self._wait(log)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, and everything that it started."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        self._folder.cleanup()

    def _wait(self, log: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == httpx.codes.OK:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        raise SystemExit(f"vLLM did not come up:\n{log.read_text(errors='replace')[-2000:]}")
