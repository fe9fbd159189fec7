"""A headless Chromium driven through the DevTools protocol over a pipe. It needs only Debian's package."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

QUIET = [
    "--headless",
    "--no-sandbox",  # root cannot use the sandbox; the pages are the tests' own
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]


def program() -> str | None:
    """Return the path of Chromium, or None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page in a Chromium with a fresh profile.

    `requests` are the addresses that the page requested, `blocked` is how many of them its content security policy
    blocked, and `errors` are the page's errors.
    """

    def __init__(self, profile: Path):
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.blocked = 0
        self.number, self.rest = 0, b""
        # Chromium reads commands from descriptor 3 and answers on 4, each a JSON document that ends in a zero byte.
        theirs_in, self.into = os.pipe()
        self.out_of, theirs_out = os.pipe()
        command = [program(), *QUIET, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.size(1280, 800)

    def send(self, method: str, **parameters) -> dict:
        """Run one command of the protocol and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if hasattr(self, "session"):
            message["sessionId"] = self.session
        os.write(self.into, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.note(answer)

    def receive(self) -> dict:
        while b"\0" not in self.rest:
            part = os.read(self.out_of, 1 << 16)
            assert part, "Chromium has exited"
            self.rest += part
        answer, _, self.rest = self.rest.partition(b"\0")
        return json.loads(answer)

    def note(self, event: dict) -> None:
        parameters = event.get("params", {})
        if event["method"] == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif event["method"] == "Network.loadingFailed":
            self.blocked += parameters.get("blockedReason") == "csp"
        elif event["method"] == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"]))
        elif event["method"] == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])

    def open(self, page: Path, address: str = "") -> None:
        """Load a page from scratch; `address` is the URL's fragment."""
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=page.as_uri() + address)
        self.until("document.readyState == 'complete' && document.querySelector('#views a') !== null")
        self.settle()

    def settle(self) -> None:
        """Wait until the page is painted: Chromium drops clicks on elements that were not painted yet."""
        self.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def js(self, expression: str):
        """Evaluate a JavaScript expression in the page and return its value; promises are awaited."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str, seconds: float = 30) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.js(condition):
            assert time.monotonic() < end, f"not true within {seconds} s: {condition}"
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Click the center of an element, as a mouse does."""
        node = f"document.querySelector({json.dumps(selector)})"
        self.js(f"{node}.scrollIntoView({{block: 'center'}})")
        self.settle()
        x, y = self.js(
            f"(() => {{ const box = {node}.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key, given the name that its event has."""
        codes = {"Enter": 13, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40, "Tab": 9}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        event = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0]))}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def size(self, width: int, height: int, dark: bool = False) -> None:
        """Set the window size in CSS pixels, and whether the user prefers dark pages."""
        phone = width < 500
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        """Return a screenshot as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        os.close(self.into)
        os.close(self.out_of)
        self.process.terminate()
        self.process.wait(timeout=30)
