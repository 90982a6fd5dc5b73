"""A real headless Chromium, driven over its DevTools protocol: for tests that click through the dashboard.

Input is the browser's own (mouse and key events at places of the page), not calls of the page's scripts. Whatever the
page writes to its console, throws, or is refused by its Content-Security-Policy is kept in `problems`.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from required_tools import without
from websockets.sync.client import ClientConnection, connect

START_S = 60
_KEYS = {
    "Enter": ("Enter", 13, "\r"),
    "Tab": ("Tab", 9, ""),
    "Space": ("Space", 32, " "),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "Home": ("Home", 36, ""),
    "End": ("End", 35, ""),
}
_SHIFT = 8


def chromium() -> str:
    """The browser's path; where there is none the calling test goes `without`."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        without("chromium", "no Chromium is installed (Debian's package `chromium`)")
    return path


class Browser:
    """One browser with one page; use it as a context manager.

    Attributes:
        problems: What the page complained of, in order.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="paceline-browser-", ignore_cleanup_errors=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: ClientConnection | None = None
        self._open = ExitStack()
        self._number = 0
        self.problems: list[str] = []

    def __enter__(self) -> Browser:
        command = [chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--no-proxy-server"]
        command += ["--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={self._folder.name}", "about:blank"]
        # What it puts into a home and into /tmp goes with its own folder.
        environment = {**os.environ, "HOME": self._folder.name, "TMPDIR": self._folder.name}
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        try:
            self._attach()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        self._open.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=20)
        self._folder.cleanup()

    def goto(self, url: str) -> None:
        """Load a page, and wait until its scripts have begun."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'", f"{url} is loaded")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression on the page, as JSON; a promise is waited for."""
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in reply:
            raise AssertionError(f"{expression}: {_thrown(reply['exceptionDetails'])}")
        return reply["result"].get("value")

    def wait(self, expression: str, what: str, within_s: float = 20.0) -> Any:
        """Poll until an expression on the page is true; returns its value.

        Raises:
            AssertionError: it did not become so in time.
        """
        deadline = time.monotonic() + within_s
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"not within {within_s} s: {what} ({expression}); {self.problems}"
            time.sleep(0.05)
        return value

    def text(self, selector: str) -> str:
        """An element's text content."""
        text: str = self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")
        return text

    def click(self, selector: str) -> None:
        """Click an element's middle, as a mouse does: whatever lies on top of it gets the click."""
        x, y = self.place(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def hover(self, selector: str) -> None:
        """Move the mouse over an element's middle."""
        x, y = self.place(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def place(self, selector: str) -> tuple[float, float]:
        """Where an element's first box is, scrolled into view; waited for, as a view that was asked for opens later."""
        x, y = self.wait(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null;"
            "e.scrollIntoView({block: 'center'}); const r = e.getClientRects()[0];"
            "return r ? [r.x + r.width / 2, r.y + r.height / 2] : null; })()",
            f"{selector} is on the page and has a box",
        )
        return x, y

    def type(self, text: str) -> None:
        """Put text where the focus is."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key and let it go."""
        code, number, text = _KEYS[key]
        event = {"key": " " if key == "Space" else key, "code": code, "windowsVirtualKeyCode": number}
        event["modifiers"] = _SHIFT if shift else 0
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def resize(self, width: int, height: int, *, scale: float = 1.0) -> None:
        """Give the window a size in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )

    def prefer(self, **features: str) -> None:
        """Emulate media features: `prefers_color_scheme="dark"`."""
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=listed)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of what is seen, or of the whole page, without scroll bars: they would change the page's width."""
        self.call("Emulation.setScrollbarsHidden", hidden=True)
        reply = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        self.call("Emulation.setScrollbarsHidden", hidden=False)
        path.write_bytes(base64.b64decode(reply["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        assert self._socket is not None
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(_thrown(event["params"]["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if event["params"]["type"] in {"error", "warning", "assert"}:
                self.problems.append(str([item.get("value") for item in event["params"]["args"]]))
            case "Log.entryAdded" if event["params"]["entry"]["level"] in {"error", "warning"}:
                entry = event["params"]["entry"]
                self.problems.append(f"{entry['text']} {entry.get('url', '')}")

    def _attach(self) -> None:
        port_file = Path(self._folder.name) / "DevToolsActivePort"
        deadline = time.monotonic() + START_S
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert self._process is not None
            assert self._process.poll() is None, "the browser ended at its start"
            assert time.monotonic() < deadline, f"the browser was not up in {START_S} s"
            time.sleep(0.05)
        port = port_file.read_text().splitlines()[0]
        targets = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
        page = next(target for target in targets if target["type"] == "page")
        link = connect(page["webSocketDebuggerUrl"], max_size=2**26, proxy=None)
        self._socket = self._open.enter_context(link)
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")


def _thrown(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])
