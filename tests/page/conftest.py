"""Fixtures of the page tests: the real binary with the bundled model, and one headless Chromium.

After every test: nothing was asked of another origin, nothing broke the content security policy,
and the browser had nothing to complain about but what the test named."""

import json
import os
import shutil
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
sys.path.insert(0, os.path.join(HERE, "..", "http"))
sys.path.insert(0, os.path.join(HERE, "..", "proxy"))
sys.path.insert(0, HERE)

from browser import Browser, find  # noqa: E402
from harness import Server  # noqa: E402
from proxies import KINDS, Proxy  # noqa: E402

MODEL = os.path.join(ROOT, "configs", "tales")
SHOTS = os.path.join(ROOT, "build-logs")


class Tab:
    """The page as a person uses it."""

    def __init__(self, page, address):
        self.page = page
        self.address = address
        self.expected = []  # parts of complaints that a test provokes

    def __getattr__(self, name):
        return getattr(self.page, name)

    def open(self, path=""):
        self.page.open(self.address + path)
        self.wait("document.title !== 'tnl'", "the page knows its model")
        return self

    def busy(self):
        return self.js("document.getElementById('send').hidden")

    def done(self):
        self.wait("!document.getElementById('send').hidden", "the answer ends")

    def write(self, text):
        self.js("document.getElementById('text').focus()")
        self.type(text)

    def send(self, text="", **settings):
        for name, value in settings.items():
            self.set(name, value)
        if text:
            self.write(text)
        self.click("#send")

    def ask(self, text="", **settings):
        self.send(text, **settings)
        self.done()

    def set(self, name, value):
        self.js("(e => { e.type === 'checkbox' ? e.click() : e.value = %s; "
                "e.dispatchEvent(new Event('input')); })(document.getElementById('set-%s'))" %
                (json.dumps(str(value)), name))

    def chat(self):
        self.click("input[value=chat]")

    def bodies(self):
        return [json.loads(r["postData"]) for r in self.page.requests if r["method"] == "POST"]

    def shot(self, name):
        os.makedirs(SHOTS, exist_ok=True)
        self.screenshot(os.path.join(SHOTS, "page-%s.png" % name))

    def check(self):
        for r in self.page.requests:
            assert r["url"].startswith((self.address, "blob:" + self.address)), r["url"]
        left = [c for c in self.page.complaints if not any(e in c for e in self.expected)]
        assert not left, left


@pytest.fixture(scope="session")
def browser():
    assert find(), "no Chromium (set TNL_CHROMIUM)"
    b = Browser()
    yield b
    b.close()


@pytest.fixture(scope="session")
def server():
    s = Server(MODEL)
    yield s
    s.close()


@pytest.fixture
def visit(browser):
    """visit(server, width=..): a tab that has not opened anything yet."""
    tabs = []

    def go(server, base="/", **kw):
        tabs.append(Tab(browser.page(**kw), "http://127.0.0.1:%d%s" % (server.port, base)))
        return tabs[-1]

    yield go
    for t in tabs:
        t.close()
        t.check()


@pytest.fixture
def tab(visit, server):
    return visit(server).open()


@pytest.fixture
def start():
    running = []

    def go(*flags, **kw):
        running.append(Server(MODEL, *flags, **kw))
        return running[-1]

    yield go
    for s in running:
        s.close()


@pytest.fixture
def behind(tmp_path):
    """behind(kind, server, server): a proxy of configs/ in front of them."""
    running = []

    def go(kind, *servers):
        if not shutil.which(KINDS[kind][1][0]):
            pytest.skip(kind + " is not installed")
        running.append(Proxy(kind, tmp_path, ["127.0.0.1:%d" % s.port for s in servers]))
        return running[-1]

    yield go
    for p in running:
        p.close()
