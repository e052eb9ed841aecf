"""A headless Chromium, driven over its DevTools protocol: no more than what looking at a page takes."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium-headless-shell", "chrome-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 30.0


def find_chromium() -> str | None:
    """The browser of the environment variable CHROMIUM, or else one on PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A tab.

    Attributes:
        problems: exceptions, and what was written to the console as an error or a warning, in order.
        requests: addresses it asked for.
    """

    def __init__(self, url: str):
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future] = {}
        self._loop = asyncio.new_event_loop()
        self._connected: Future = Future()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._talk(url),), daemon=True)
        self._thread.start()
        self._socket = self._connected.result(SECONDS)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    async def _talk(self, url: str) -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
            self._connected.set_result(socket)
            async for message in socket:
                told = json.loads(message.data)
                if "id" in told:
                    self._waiting.pop(told["id"]).set_result(told)
                else:
                    self._hear(told["method"], told["params"])

    def _hear(self, method: str, told: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.problems.append(" ".join(str(arg.get("value", arg)) for arg in told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.problems.append(told["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Calls a method of the protocol."""
        number, answer = next(self._numbers), Future()
        self._waiting[number] = answer
        said = {"id": number, "method": method, "params": params}
        asyncio.run_coroutine_threadsafe(self._socket.send_json(said), self._loop).result(SECONDS)
        told = answer.result(SECONDS)
        assert "error" not in told, f"{method}: {told['error']}"
        return told["result"]

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        told = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def size(self, width: int, height: int, scale: float = 1.0) -> None:
        """Makes the window so large, in CSS pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )

    def prefer(self, scheme: str) -> None:
        """Sets what the system prefers, "light" or "dark"."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, file: Path, part: str = "") -> None:
        """Opens a report and waits until it is there."""
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=f"{file.resolve().as_uri()}{part}")
        self.wait("document.documentElement.dataset.ready === 'true'")

    def wait(self, expression: str) -> None:
        """Waits until an expression is true; while a page is being opened, what it asks for may not be there."""
        late = time.monotonic() + SECONDS
        while (
            self.send("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value") is not True
        ):
            assert time.monotonic() < late, f"never true: {expression}; {self.problems}"
            time.sleep(0.01)

    def key(self, key: str) -> None:
        """Presses and releases a key, by its name in KeyboardEvent.key."""
        text = {"text": key} if len(key) == 1 else {}
        codes = {"ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37, "ArrowRight": 39, "Escape": 27, "Enter": 13}
        code = {"windowsVirtualKeyCode": codes[key]} if key in codes else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **code)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def click(self, x: float, y: float) -> None:
        """Clicks at a place of the window."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, file: Path) -> None:
        """Writes a PNG of the window."""
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """Ends the connection."""
        asyncio.run_coroutine_threadsafe(self._socket.close(), self._loop).result(SECONDS)
        self._thread.join(SECONDS)


@contextlib.contextmanager
def chromium(binary: str) -> Iterator[Page]:
    """A browser of its own, without a past, and its one tab."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Without its sandbox, which containers do not allow: it shows pages that the tests made.
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        ports = ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen([binary, *flags, *ports], stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            assert process.stderr is not None
            port = next(
                found[1] for line in process.stderr for found in [re.search(r"ws://[^:]+:(\d+)/", line)] if found
            )
            threading.Thread(target=process.stderr.read, daemon=True).start()  # or its pipe fills up
            page = Page(asyncio.run(_tab(port)))
            yield page
            page.close()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def _tab(port: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        return next(tab["webSocketDebuggerUrl"] for tab in await answer.json() if tab["type"] == "page")
