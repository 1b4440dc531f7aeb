"""A headless Chromium over the DevTools protocol: one WebSocket, commands out, events in.

Protocol: https://chromedevtools.github.io/devtools-protocol/ (Target, Page, Runtime, Input, Emulation, Log).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import websockets

PROGRAMS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)
FLAGS = [
    "--headless",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",  # nothing leaves the machine
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",  # containers have 64 MiB of it
    "--hide-scrollbars",
    "--mute-audio",
    "--remote-debugging-port=0",
]
START_S = 15.0
COMMAND_S = 30.0
SLICE_S = 2.0


def find() -> str | None:
    """Path of an installed Chromium-like browser: CHROME, the PATH, macOS, or playwright's own download."""
    named = os.environ.get("CHROME")
    if named:
        return named
    for program in PROGRAMS:
        path = shutil.which(program)
        if path:
            return path
    mac = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
    caches = (Path.home() / ".cache/ms-playwright", Path.home() / "Library/Caches/ms-playwright")
    for cache in caches:
        for path in sorted(cache.glob("chromium*/**/chrome*"), reverse=True):
            if path.name in ("chrome", "chrome-headless-shell") and os.access(path, os.X_OK):
                return str(path)
    return str(mac) if mac.exists() else None


class Page:
    """One tab.

    problems: uncaught exceptions and console errors; urls: what was asked for; sent: binary WebSocket frames.
    All oldest first.
    """

    def __init__(self, command: Callable[..., Awaitable[dict[str, Any]]], session: str) -> None:
        self._command = command
        self._session = session
        self.problems: list[str] = []
        self.expected = ""  # a pattern for problems a test provokes
        self.urls: list[str] = []
        self.sent: list[bytes] = []

    async def do(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._command(method, params, self._session)

    def heard(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.webSocketFrameSent" and params["response"]["opcode"] == 2:
            self.sent.append(base64.b64decode(params["response"]["payloadData"]))
        elif method == "Network.requestWillBeSent":
            self.urls.append(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.urls.append(params["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            said = (str(each.get("value", each.get("description"))) for each in params["args"])
            self.problems.append(" ".join(said))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def goto(self, url: str) -> None:
        await self.do("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def close(self) -> None:
        await self.do("Page.close")

    async def js(self, expression: str) -> Any:
        """The JSON value of an expression; promises are awaited. Raises RuntimeError where it throws."""
        answer = await self.do(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"].get("exception", answer["exceptionDetails"])))
        return answer["result"].get("value")

    async def until(self, expression: str, within_s: float = 10.0) -> Any:
        """Wait until an expression is true; returns its value. Raises TimeoutError naming it."""
        # A promise in the page looks often; a stream of commands would slow the page down. It is cut in
        # slices because a page that is left takes its promises with it.
        poll = f"""new Promise((done) => {{
            const end = performance.now() + {SLICE_S * 1000};
            const look = () => {{
                let value; try {{ value = ({expression}); }} catch {{}}
                if (value || performance.now() > end) done(value); else setTimeout(look, 30);
            }};
            look();
        }})"""
        end = asyncio.get_running_loop().time() + within_s
        while True:
            try:
                value = await asyncio.wait_for(self.js(poll), SLICE_S * 2)
            except (RuntimeError, TimeoutError):
                value = None
            if value:
                return value
            if asyncio.get_running_loop().time() >= end:
                raise TimeoutError(f"not within {within_s} s: {expression}")
            await asyncio.sleep(0.05)

    async def show_as(
        self,
        width: int,
        height: int,
        *,
        phone: bool = False,
        dark: bool = False,
        still: bool = False,
        scale: float = 1,
    ) -> None:
        """A viewport in CSS pixels, a colour scheme, and whether the user asked for reduced motion."""
        await self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=phone,
        )
        await self.do("Emulation.setTouchEmulationEnabled", enabled=phone)
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        await self.do("Emulation.setEmulatedMedia", features=features)

    async def box(self, selector: str) -> dict[str, float]:
        """x, y, width, height of an element in CSS pixels of the viewport."""
        found: dict[str, float] = await self.js(
            f"(({{x, y, width, height}}) => ({{x, y, width, height}}))"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        return found

    async def click(self, selector: str) -> None:
        await self.js(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'nearest'}})")
        box = await self.box(selector)
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            await self.do("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    async def drag(self, selector: str, points: list[tuple[float, float]], *, pause_s: float = 0.0) -> None:
        """Press at the first point, move through the others, release. Points are 0..1 of the element."""
        box = await self.box(selector)
        spots = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in points]
        await self.do(
            "Input.dispatchMouseEvent", type="mousePressed", button="left", clickCount=1, **spots[0]
        )
        for spot in spots[1:]:
            await self.do("Input.dispatchMouseEvent", type="mouseMoved", button="left", buttons=1, **spot)
            await asyncio.sleep(pause_s)
        await self.do(
            "Input.dispatchMouseEvent", type="mouseReleased", button="left", clickCount=1, **spots[-1]
        )

    async def swipe(self, selector: str, points: list[tuple[float, float]]) -> None:
        """As `drag`, with one finger."""
        box = await self.box(selector)
        spots = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in points]
        await self.do("Input.dispatchTouchEvent", type="touchStart", touchPoints=[spots[0]])
        for spot in spots[1:]:
            await self.do("Input.dispatchTouchEvent", type="touchMove", touchPoints=[spot])
        await self.do("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    async def press(self, key: str, *, times: int = 1, ctrl: bool = False, shift: bool = False) -> None:
        """A key by its `event.key`: "Tab", "Enter", " ", "ArrowLeft", "b"."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "Delete": 46, " ": 32}
        codes |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        code = codes.get(key) or (ord(key.upper()) if key.isalnum() else 0)
        text = "\r" if key == "Enter" else key if len(key) == 1 and not ctrl else ""
        keys = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 2 * ctrl + 8 * shift}
        for _ in range(times):
            await self.do(
                "Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **keys
            )
            await self.do("Input.dispatchKeyEvent", type="keyUp", **keys)

    async def type(self, text: str) -> None:
        await self.do("Input.insertText", text=text)

    async def screenshot(self, *, whole: bool = False) -> bytes:
        """A PNG of the viewport, or of the whole page."""
        answer = await self.do("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])


class Chrome:
    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}

    async def _command(
        self, method: str, params: dict[str, Any], session: str | None = None
    ) -> dict[str, Any]:
        self._number += 1
        number = self._number
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        message = {
            "id": number,
            "method": method,
            "params": params,
            **({"sessionId": session} if session else {}),
        }
        await self._socket.send(json.dumps(message))
        try:
            return await asyncio.wait_for(answer, COMMAND_S)
        finally:
            self._waiting.pop(number, None)

    async def read(self) -> None:
        """Deliver answers and events until the browser hangs up."""
        async for data in self._socket:
            message = json.loads(data)
            future = self._waiting.get(message.get("id", 0))
            if future and not future.done():
                if "error" in message:
                    future.set_exception(RuntimeError(message["error"]["message"]))
                else:
                    future.set_result(message["result"])
            elif "method" in message and message.get("sessionId") in self._pages:  # else too late an answer
                self._pages[message["sessionId"]].heard(message["method"], message["params"])

    async def page(self) -> Page:
        """A new tab with nothing of the others': own cookies, storage and cache."""
        context = (await self._command("Target.createBrowserContext", {}))["browserContextId"]
        target = await self._command(
            "Target.createTarget", {"url": "about:blank", "browserContextId": context}
        )
        attached = await self._command(
            "Target.attachToTarget", {"targetId": target["targetId"], "flatten": True}
        )
        page = self._pages[attached["sessionId"]] = Page(self._command, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.do(f"{domain}.enable")
        await page.show_as(1280, 800)
        return page


@contextlib.contextmanager
def profile() -> Iterator[Path]:
    """A user data folder for one run. The browser may still write while it dies: errors are ignored."""
    folder = Path(tempfile.mkdtemp(prefix="chrome-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def launch(*extra: str) -> AsyncIterator[Chrome]:
    """A browser of our own, killed at the end. `extra`: further flags, such as --host-resolver-rules=..."""
    program = find()
    if program is None:
        raise FileNotFoundError("no Chromium found; `python -m tests.browser.install` tries to get one")
    with profile() as folder:
        command = [program, *FLAGS, f"--user-data-dir={folder}", *extra, "about:blank"]
        null = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*command, stdin=null, stdout=null, stderr=null)
        try:
            address = await _address(folder / "DevToolsActivePort", process)
            async with websockets.connect(
                address, max_size=None, compression=None, ping_interval=None
            ) as socket:
                chrome = Chrome(socket)
                reader = asyncio.create_task(chrome.read())
                try:
                    yield chrome
                finally:
                    reader.cancel()
                    with contextlib.suppress(asyncio.CancelledError, websockets.ConnectionClosed):
                        await reader
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _address(file: Path, process: asyncio.subprocess.Process) -> str:
    """Chromium writes its port and path into this file once it listens."""
    end = asyncio.get_running_loop().time() + START_S
    while asyncio.get_running_loop().time() < end:
        if process.returncode is not None:
            raise RuntimeError(f"the browser ended at once, code {process.returncode}")
        lines = await asyncio.to_thread(lambda: file.read_text().split() if file.exists() else [])
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        await asyncio.sleep(0.05)
    raise TimeoutError(f"the browser did not listen within {START_S} s")
