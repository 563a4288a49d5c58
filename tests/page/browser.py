"""Chromium without a window, driven by its own protocol over two pipes: no driver to match with the
browser's version, no package. One browser for all tests; every test gets a profile of its own."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]
HANG = 60  # seconds; a guard against hanging, not a measurement

KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
        "ArrowDown": 40, "Home": 36, "End": 35, " ": 32}


def find():
    named = [os.environ["TNL_CHROMIUM"]] if "TNL_CHROMIUM" in os.environ else NAMES
    return next((p for p in map(shutil.which, named) if p), None)


class Browser:
    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="tnl-page-", ignore_cleanup_errors=True)
        to_child, self.out = os.pipe()
        self.inp, from_child = os.pipe()
        ends = [os.fdopen(os.dup(to_child)), os.fdopen(os.dup(from_child), "w")]

        def take_places():  # the browser reads from 3 and writes to 4
            high = [os.dup2(e.fileno(), 100 + i) for i, e in enumerate(ends)]
            for i, fd in enumerate(high):
                os.dup2(fd, 3 + i)

        self.process = subprocess.Popen(
            [find(), "--headless=new", "--no-sandbox", "--remote-debugging-pipe",
             "--user-data-dir=" + self.profile.name, "--disable-gpu", "--disable-dev-shm-usage",
             "--no-first-run", "--disable-extensions", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--hide-scrollbars",
             "--force-device-scale-factor=1", "about:blank"],
            preexec_fn=take_places, pass_fds=(3, 4), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self.profile.name})
        os.close(to_child)
        os.close(from_child)
        for e in ends:
            e.close()
        self.serial = 0
        self.got = b""
        self.answers = {}
        self.listeners = {}

    def read(self, timeout):
        """One message, or nothing; events go to the page they belong to."""
        while b"\0" not in self.got:
            ready, _, _ = select.select([self.inp], [], [], timeout)
            if not ready:
                return False
            data = os.read(self.inp, 1 << 16)
            assert data, "the browser went away"
            self.got += data
        raw, self.got = self.got.split(b"\0", 1)
        message = json.loads(raw)
        if "id" in message:
            self.answers[message["id"]] = message
        elif message.get("sessionId") in self.listeners:
            self.listeners[message["sessionId"]](message["method"], message["params"])
        return True

    def send(self, method, params=None, session=None):
        self.serial += 1
        message = {"id": self.serial, "method": method, "params": params or {}}
        if session:
            message["sessionId"] = session
        raw = json.dumps(message).encode() + b"\0"
        while raw:
            raw = raw[os.write(self.out, raw):]
        return self.serial

    def call(self, method, params=None, session=None):
        serial = self.send(method, params, session)
        end = time.monotonic() + HANG
        while serial not in self.answers:
            assert time.monotonic() < end, "no answer to " + method
            self.read(1)
        answer = self.answers.pop(serial)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def page(self, **kw):
        return Page(self, **kw)

    def close(self):
        try:
            self.send("Browser.close")
            self.process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.inp)
        self.profile.cleanup()


class Page:
    """A tab in a profile of its own. It keeps what went over the network and what was complained
    about."""

    def __init__(self, browser, width=1280, height=800):
        self.browser = browser
        self.context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", {
            "url": "about:blank", "browserContextId": self.context, "width": width,
            "height": height})["targetId"]
        self.session = browser.call("Target.attachToTarget", {"targetId": target, "flatten": True})[
            "sessionId"]
        self.requests, self.complaints, self.downloads = [], [], []
        self.answering = None
        browser.listeners[self.session] = self.hear
        for domain in ["Page", "Runtime", "Network", "Log", "Audits"]:
            self.call(domain + ".enable")
        self.resize(width, height)

    def call(self, method, **params):
        return self.browser.call(method, params, self.session)

    def hear(self, method, p):
        if method == "Network.requestWillBeSent":
            self.requests.append(p["request"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(p["exceptionDetails"].get("exception", {}).get("description") or
                                   p["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([a.get("value") for a in p["args"]]))
        elif method == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"):
            self.complaints.append(p["entry"]["text"])
        elif method == "Audits.issueAdded":
            self.complaints.append("issue: " + p["issue"]["code"])
        elif method == "Fetch.requestPaused":
            self.answer(p)

    # ---- what the page sees of the world

    def resize(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme):
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": scheme}])

    def intercept(self, pattern, answering):
        """answering(request): (status, headers, body), or None for a failed connection."""
        self.answering = answering
        self.call("Fetch.enable", patterns=[{"urlPattern": pattern}])

    def answer(self, p):
        made = self.answering(p["request"])
        if made is None:
            self.browser.send("Fetch.failRequest", {
                "requestId": p["requestId"], "errorReason": "ConnectionRefused"}, self.session)
            return
        if made == "go on":
            self.browser.send("Fetch.continueRequest", {"requestId": p["requestId"]}, self.session)
            return
        status, headers, body = made
        self.browser.send("Fetch.fulfillRequest", {
            "requestId": p["requestId"], "responseCode": status,
            "responseHeaders": [{"name": k, "value": v} for k, v in headers.items()],
            "body": base64.b64encode(body.encode()).decode()}, self.session)

    # ---- looking

    def js(self, expression):
        r = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                      awaitPromise=True)
        assert "exceptionDetails" not in r, r["exceptionDetails"]
        return r["result"].get("value")

    def wait(self, expression, what=None):
        end = time.monotonic() + HANG
        while True:
            value = self.js(expression)
            if value:
                return value
            assert time.monotonic() < end, "never came true: %s; %r" % (
                what or expression, self.complaints)
            self.browser.read(0.02)

    def text(self, selector):
        return self.js("[...document.querySelectorAll(%s)].map(e => e.textContent).join('|')" %
                       json.dumps(selector))

    def count(self, selector):
        return self.js("document.querySelectorAll(%s).length" % json.dumps(selector))

    def visible(self, selector):
        return self.js("(e => !!e && e.checkVisibility())(document.querySelector(%s))" %
                       json.dumps(selector))

    def focused(self):
        return self.js("document.activeElement.id || document.activeElement.className || "
                       "document.activeElement.tagName")

    def screenshot(self, path):
        data = self.call("Page.captureScreenshot", format="png")["data"]
        with open(path, "wb") as f:
            f.write(base64.b64decode(data))

    # ---- doing

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def center(self, selector):
        at = self.wait("(e => { if (!e) return null; e.scrollIntoView({block: 'nearest'}); "
                       "const r = e.getClientRects()[0]; return r && "
                       "[r.x + r.width / 2, r.y + r.height / 2]; })"
                       "(document.querySelector(%s))" % json.dumps(selector))
        return {"x": at[0], "y": at[1]}

    def mouse(self, kind, at, **more):
        self.call("Input.dispatchMouseEvent", type=kind, **at, **more)

    def hover(self, selector):
        self.mouse("mouseMoved", self.center(selector))

    def click(self, selector):
        at = self.center(selector)
        self.mouse("mouseMoved", at)
        for kind in ["mousePressed", "mouseReleased"]:
            self.mouse(kind, at, button="left", clickCount=1)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def press(self, key, ctrl=False, shift=False):
        code = KEYS.get(key) or ord(key.upper())
        typed = {"text": "\r" if key == "Enter" else key} if key in ("Enter", " ") or (
            len(key) == 1) else {}
        if ctrl:
            typed = {}
        for kind in ["keyDown" if typed else "rawKeyDown", "keyUp"]:
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                      modifiers=(2 if ctrl else 0) | (8 if shift else 0),
                      **(typed if kind != "keyUp" else {}))

    def close(self):
        self.browser.listeners.pop(self.session, None)
        self.browser.call("Target.disposeBrowserContext", {"browserContextId": self.context})
