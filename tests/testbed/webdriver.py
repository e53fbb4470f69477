"""A real Chromium, driven over the WebDriver protocol (W3C) with the standard library alone."""

import base64
import contextlib
import http.client
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .address import free_port

MISSING = "chromium and chromedriver are needed: apt-get install chromium chromium-driver"
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
_START_S = 20.0
_CALL_S = 20.0
_LOOK_S = 0.1


class Browser:
    """One window of a headless Chromium with a fresh profile; calls block."""

    def __init__(self) -> None:
        driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("chrome")
        if driver is None or chromium is None:
            raise RuntimeError(MISSING)
        self._port = free_port()
        self._profile = tempfile.mkdtemp(prefix="aosgw-browser-")
        self._driver = subprocess.Popen(
            [driver, f"--port={self._port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._session = ""
        try:
            until(self._is_up, _START_S)
            options = {"binary": chromium, "args": [*_FLAGS, f"--user-data-dir={self._profile}"]}
            wanted = {
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            }
            answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self._session = f"/session/{answer['sessionId']}"
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        if self._session:
            with contextlib.suppress(OSError, RuntimeError):
                self._call("DELETE", self._session)
        self._driver.terminate()
        self._driver.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, url: str) -> None:
        """Load a page."""
        self._call("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """Run JavaScript in the page and return what it returns."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": arguments})

    def text(self, selector: str) -> str:
        """Return the text of an element as it is seen."""
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call(
            "POST", f"{self._session}/actions", {"actions": [{"type": "key", "id": "k", "actions": actions}]}
        )

    def look(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Set the size of the viewport in CSS pixels, and the colour scheme that the user prefers."""
        self._devtools(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", {"features": [scheme]})

    def shot(self, path: Path) -> None:
        """Keep a picture of the whole page as PNG."""
        size = self.run("return [innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        taken = self._devtools(
            "Page.captureScreenshot", {"format": "png", "clip": clip, "captureBeyondViewport": True}
        )
        path.write_bytes(base64.b64decode(taken["data"]))

    def heap_bytes(self) -> int:
        """Return what the page's JavaScript and document hold after the rubbish is gone."""
        self._devtools("HeapProfiler.collectGarbage", {})
        return int(self._devtools("Runtime.getHeapUsage", {})["usedSize"])

    def complaints(self) -> list[str]:
        """Return what the console has said since the last call, warnings and errors."""
        entries = self._call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [str(one["message"]) for one in entries if one["level"] in ("WARNING", "SEVERE")]

    def requested(self) -> list[str]:
        """Return the addresses requested since the last call."""
        entries = self._call("POST", f"{self._session}/se/log", {"type": "performance"})
        messages = [json.loads(one["message"])["message"] for one in entries]
        return [
            str(message["params"]["request"]["url"])
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def _devtools(self, command: str, parameters: Mapping[str, object]) -> Any:
        body = {"cmd": command, "params": parameters}
        return self._call("POST", f"{self._session}/goog/cdp/execute", body)

    def _is_up(self) -> bool:
        try:
            return bool(self._call("GET", "/status")["ready"])
        except OSError:
            return False

    def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_CALL_S)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            response = connection.getresponse()
            value = json.loads(response.read())["value"]
        finally:
            connection.close()
        if response.status >= 400:
            raise RuntimeError(f"{path}: {value['error']}: {value['message']}")
        return value


def until(is_true: Callable[[], object], within_s: float) -> float:
    """Look again and again until something is true.

    Returns:
        The seconds that took.

    Raises:
        TimeoutError: it did not become true in time.
    """
    begun_s = time.monotonic()
    while not is_true():
        if time.monotonic() - begun_s > within_s:
            raise TimeoutError
        time.sleep(_LOOK_S)
    return time.monotonic() - begun_s
