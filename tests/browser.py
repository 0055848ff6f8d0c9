"""Chromium without a window, steered through a pipe by its own protocol (CDP): no driver and no library."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip
DEADLINE_S = 120.0


def find_browser() -> str | None:
    """A Chromium or Chrome of this machine."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Browser:
    """One page of a browser. A context manager; ``said`` has every console message and error, ``asked`` every address."""

    def __init__(self, program: str, folder: Path):
        self.said: list[str] = []
        self.asked: list[str] = []
        self._number, self._left = 0, b""
        read_commands, self._commands = os.pipe()
        self._replies, write_replies = os.pipe()
        shell = f'exec "$@" 3<&{read_commands} 4>&{write_replies}'  # the two ends that the browser expects
        line = ["bash", "-c", shell, "bash", program, *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(
            line, pass_fds=(read_commands, write_replies), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(read_commands)
        os.close(write_replies)
        target = self.call("Target.createTarget", url="about:blank", browser=True)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True, browser=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exc: object) -> None:
        for pipe in (self._commands, self._replies):
            os.close(pipe)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)

    def call(self, method: str, browser: bool = False, **parameters: Any) -> dict[str, Any]:
        """One command, and its answer."""
        self._number += 1
        session = {} if browser else {"sessionId": self._session}
        message = {"id": self._number, "method": method, "params": parameters, **session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Until the expression is true, or the deadline is past."""
        end = time.monotonic() + DEADLINE_S
        while not (found := self.evaluate(expression)):
            assert time.monotonic() < end, f"{expression} did not come true; {self.said}"
            time.sleep(0.05)
        return found

    def open(self, page: Path, width: int, height: int, dark: bool = False) -> None:
        """Load a page of r0's, and wait until its script has run."""
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Page.navigate", url=page.as_uri())
        self.wait_for("document.documentElement?.dataset.ready === '1'")

    def type_into(self, selector: str, text: str) -> None:
        """Focus a field and type."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def picture(self) -> bytes:
        """The whole page as a PNG."""
        import base64

        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 12000), "scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"])

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            read = os.read(self._replies, 1 << 20)
            assert read, "the browser has ended"
            self._left += read
        first, _, self._left = self._left.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, given: dict[str, Any]) -> None:
        if event == "Runtime.consoleAPICalled":
            self.said.append(f"{given['type']}: {[one.get('value', one.get('description')) for one in given['args']]}")
        elif event == "Runtime.exceptionThrown":
            self.said.append(f"exception: {given['exceptionDetails'].get('exception', given['exceptionDetails'])}")
        elif event == "Log.entryAdded":
            self.said.append(f"{given['entry']['level']}: {given['entry']['text']}")
        elif event == "Network.requestWillBeSent":
            self.asked.append(given["request"]["url"])
