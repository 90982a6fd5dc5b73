"""Our application inside Ray Serve: brought up, watched while it comes, removed.

Names of Serve end here; `serve_command` sees only this.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, LoggingConfig

from paceline.actors.errors import ConfigError, NotReady
from paceline.cluster.config import HttpConfig

APP_NAME = "paceline"
_DRAIN_SLACK_S = 5.0  # for last words, and for what was learned to be written
_HAND_OVER_S = 0.3  # the proxy is a process of its own: what the ingress said last is then with the client
# In files only: `log_to_driver` is off. Requests are counted by our own metrics.
_LOGGING = LoggingConfig(log_level="INFO", enable_access_log=False)


class ServeApplication:
    """The application on the Ray cluster that this process is connected to."""

    def __init__(self) -> None:
        self._began_serve = False
        self._deployed = False

    def start_serve(self, http: HttpConfig) -> None:
        """Start Serve's controller and HTTP proxy, where they are not there already.

        Raises:
            ConfigError: Serve already listens elsewhere, or has an application of our name.
        """
        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # this process's console; files keep everything
        running = _get_global_client(raise_if_no_controller_running=False)
        if running is None:
            self._began_serve = True
            serve.start(
                http_options=HTTPOptions(host=http.host, port=http.port),
                logging_config=_LOGGING,
            )
            return
        held = running.http_config
        if (held.host, held.port) != (http.host, http.port):
            raise ConfigError(
                f"http.port: {http.host}:{http.port}, but Serve on that cluster already listens on {held.host}:"
                f"{held.port}; use `--host {held.host} --port {held.port}`"
            )
        if APP_NAME in serve.status().applications:
            raise ConfigError(
                f"the cluster already runs an application named {APP_NAME!r}; stop that `paceline serve` first, or "
                f'remove what it left with `python -c "from ray import serve; serve.delete({APP_NAME!r})"`'
            )

    def deploy(self, application: Application) -> None:
        """Hand it to Serve, and return at once.

        Raises:
            NotReady: Serve refuses it (another application holds its route, say).
        """
        self._deployed = True
        try:
            serve.run_many(
                [serve.RunTarget(application, name=APP_NAME, route_prefix="/", logging_config=_LOGGING)],
                wait_for_ingress_deployment_creation=False,
                wait_for_applications_running=False,
            )
        except RayServeException as error:
            self._deployed = False
            raise NotReady(f"Serve does not take the application: {error}") from error

    def waiting_for(self) -> str:
        """The deployments that are not up, with what Serve says of them; empty when all are.

        Raises:
            NotReady: it has failed for good.
        """
        overview = serve.status().applications.get(APP_NAME)
        if overview is None:
            return "the controller"
        if overview.status == ApplicationStatus.DEPLOY_FAILED:
            reasons = [
                f"{name}: {_reason(deployment.message)}"
                for name, deployment in overview.deployments.items()
                if deployment.status.value in {"DEPLOY_FAILED", "UNHEALTHY"} and deployment.message
            ]
            raise NotReady("the application failed to start: " + ("; ".join(reasons) or _reason(overview.message)))
        late = [name for name, deployment in overview.deployments.items() if deployment.status.value != "HEALTHY"]
        return ", ".join(late)

    def drain(self, within_s: float) -> tuple[int, int]:
        """Let running completions end, within the ingress's own time, and end what is left.

        Returns:
            How many ran, and how many of them had to be ended.

        Raises:
            NotReady: the ingress does not answer.
        """
        try:
            reply: Any = serve.get_app_handle(APP_NAME).drain.remote()
            ran, ended = reply.result(timeout_s=within_s + _DRAIN_SLACK_S)
        except (TimeoutError, RayServeException, RayError) as error:
            raise NotReady(f"the ingress does not answer: {error}") from error
        if ran:
            time.sleep(_HAND_OVER_S)
        return ran, ended

    def remove(self) -> None:
        """Take the application away, and Serve with it where we began it and nothing else runs on it."""
        if self._deployed:
            serve.delete(APP_NAME)
            self._deployed = False
        if self._began_serve and not serve.status().applications:
            serve.shutdown()
            self._began_serve = False


def _reason(message: str) -> str:
    """The line of a remote traceback that says what was wrong: the last that is neither a frame nor a remark."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    errors = [line for line in lines if "Error: " in line or "Exception: " in line]
    chosen = errors[-1] if errors else (lines[-1] if lines else "no reason given")
    return chosen[:500]
