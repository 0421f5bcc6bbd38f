"""A Chromium without a window, driven over a pipe by the DevTools protocol. Nothing but the standard library."""

import base64
import collections
import json
import os
import queue
import shutil
import struct
import subprocess
import threading
import zlib

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 30
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
    "--no-proxy-server",
    "--remote-debugging-pipe",
)


def find():
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


class Failed(Exception):
    """Not what was expected; says what was."""


class Browser:
    """The process. What it says of itself goes to a file."""

    def __init__(self, program, folder):
        # It reads commands from descriptor 3, and writes answers to 4.
        (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()

        def hand_down():
            # By way of numbers that are in nobody's way.
            first, second = os.dup(their_in), os.dup(their_out)
            os.dup2(first, 3)
            os.dup2(second, 4)

        command = [program, *FLAGS, f"--user-data-dir={folder}/browser", "about:blank"]
        with open(folder / "browser.log", "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, close_fds=False, preexec_fn=hand_down)
        os.close(their_in)
        os.close(their_out)
        self.out, self.inbound = os.fdopen(our_out, "wb", buffering=0), os.fdopen(our_in, "rb")
        self.last, self.answers, self.pages = 0, {}, {}
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        buffer = b""
        while chunk := os.read(self.inbound.fileno(), 1 << 20):
            *messages, buffer = (buffer + chunk).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self.answers.pop(message["id"]).put(message)
                elif page := self.pages.get(message.get("sessionId")):
                    page.heard(message["method"], message["params"])
        for waiting in list(self.answers.values()):
            waiting.put({"error": {"message": "the browser has ended"}})

    def call(self, method, session=None, **params):
        self.last += 1
        waiting = self.answers[self.last] = queue.SimpleQueue()
        message = {"id": self.last, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        self.out.write(json.dumps(message).encode() + b"\0")
        try:
            answer = waiting.get(timeout=PATIENCE)
        except queue.Empty:
            raise Failed(f"the browser does not answer to {method}") from None
        if "error" in answer:
            raise Failed(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def close(self):
        try:
            self.call("Browser.close")
        except Failed:
            self.process.kill()
        self.process.wait(PATIENCE)


class Page:
    """A tab, and everything that it complained about."""

    def __init__(self, browser):
        self.browser, self.complaints, self.loaded = browser, [], threading.Event()
        context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self.context = context
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        browser.pages[self.session] = self
        for domain in ("Page", "Runtime", "Log", "Audits", "Accessibility", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def heard(self, method, params):
        if method == "Page.loadEventFired":
            self.loaded.set()
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            entry = params["entry"]
            self.complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(argument.get("value", argument)) for argument in params["args"]))
        elif method == "Audits.issueAdded" and params["issue"]["code"] != "PerformanceIssue":
            self.complaints.append(json.dumps(params["issue"])[:500])

    def open(self, url):
        self.loaded.clear()
        self.call("Page.navigate", url=url)
        if not self.loaded.wait(PATIENCE):
            raise Failed(f"{url} was not loaded")

    def reload(self):
        self.loaded.clear()
        self.call("Page.reload")
        if not self.loaded.wait(PATIENCE):
            raise Failed("the page was not loaded again")

    def run(self, script):
        """The value of an expression, awaited if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise Failed(f"{script}: {details.get('exception', {}).get('description', details['text'])}")
        return answer["result"].get("value")

    def until(self, condition, what):
        """Waits for an expression to be true, looking with every frame."""
        script = f"""new Promise((done) => {{
            const end = performance.now() + {PATIENCE * 500};
            const look = () => {{
                let found;
                try {{ found = Boolean({condition}); }} catch {{ found = false; }}
                if (found) done(found); else if (performance.now() > end) done(null); else setTimeout(look, 25);
            }};
            look();
        }})"""
        for _ in range(3):
            try:
                found = self.run(script)
                break
            except Failed as failed:
                # The page went away meanwhile, and the next one is looked at.
                found = None
                if "navigated" not in str(failed) and "context" not in str(failed):
                    raise
        if not found:
            raise Failed(f"{what}: {self.run('document.body.innerText')[-1500:]}")
        return found

    def click(self, selector):
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def key(self, key, **more):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **more)

    def size(self, width, height, scale=1, mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile)

    def scheme(self, name):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def tree(self):
        """What a screen reader is told: role and name of everything that is not hidden from it."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"] and "role" in node]

    def screenshot(self, path):
        path.write_bytes(with_palette(base64.b64decode(self.call("Page.captureScreenshot", format="png", optimizeForSpeed=False)["data"])))


def with_palette(png):
    """The same picture in 256 colours, which for text and lines is all of them but some of their edges, and a third of the bytes."""
    at, kinds, data = 8, {}, b""
    while at < len(png):
        (length,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        body = png[at + 8 : at + 8 + length]
        data += body if kind == b"IDAT" else b""
        kinds.setdefault(kind, body)
        at += length + 12
    width, height, depth, colour = struct.unpack(">IIBB", kinds[b"IHDR"][:10])
    size = {2: 3, 6: 4}[colour] if depth == 8 else 0
    if not size:
        raise Failed(f"a picture of kind {colour} with {depth} bits")
    raw, stride, before, rows = zlib.decompress(data), width * size, bytearray(width * size), []
    for row in range(height):
        start = row * (stride + 1)
        kind, line = raw[start], bytearray(raw[start + 1 : start + 1 + stride])
        # How a line was written (the PNG specification, section 9).
        for i in range(stride) if kind else ():
            left, up, corner = (line[i - size] if i >= size else 0), before[i], (before[i - size] if i >= size else 0)
            if kind == 1:
                guess = left
            elif kind == 2:
                guess = up
            elif kind == 3:
                guess = (left + up) // 2
            else:
                by_left, by_up, by_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
                guess = left if by_left <= by_up and by_left <= by_corner else up if by_up <= by_corner else corner
            line[i] = (line[i] + guess) & 255
        rows.append([bytes(line[i : i + 3]) for i in range(0, stride, size)])
        before = line
    common = [colour for colour, _ in collections.Counter(pixel for row in rows for pixel in row).most_common(256)]
    nearest = {colour: place for place, colour in enumerate(common)}

    def place(pixel):
        if pixel not in nearest:
            nearest[pixel] = min(range(len(common)), key=lambda place: sum((a - b) ** 2 for a, b in zip(common[place], pixel)))
        return nearest[pixel]

    lines = b"".join(b"\0" + bytes(map(place, row)) for row in rows)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return png[:8] + chunk(b"IHDR", head) + chunk(b"PLTE", b"".join(common)) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
