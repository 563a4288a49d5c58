"""Pages of other sites, as a browser sees them: --cors-origin lets those in that it names."""

import http.server
import json
import threading

import pytest

KEY = "canary-3f9a-sixteen-and-more"
ASK = """(async () => {
  try {
    const r = await fetch("http://127.0.0.1:%d/v1/completions", {method: "POST",
        headers: {"Authorization": "Bearer %s", "Content-Type": "application/json",
                  "X-Stainless-Lang": "js"},
        body: JSON.stringify({prompt: [5, 6, 7], max_tokens: 3, stream: true})});
    return {status: r.status, id: r.headers.get("X-Request-Id"), text: await r.text()};
  } catch (e) { return {blocked: String(e)}; }
})()"""


class Blank(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another site</title>")

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Blank)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield s.server_address[1]
    s.shutdown()
    s.server_close()


def test_listed_sites_may_ask(browser, start, site):
    s = start("--cors-origin", "http://127.0.0.1:%d" % site, env={"TNL_API_KEY": KEY})
    page = browser.page()

    def ask(host, key):
        page.open("http://%s:%d/" % (host, site))
        page.wait("document.title === 'another site'", "the site is there")
        return page.js(ASK % (s.port, key))

    r = ask("127.0.0.1", KEY)
    assert r["status"] == 200 and len(r["id"]) == 32 and r["text"].endswith("data: [DONE]\n\n")
    r = ask("127.0.0.1", "k" * 20)  # a refusal can be read
    assert r["status"] == 401 and json.loads(r["text"])["error"]["code"] == "invalid_key"
    assert "blocked" in ask("localhost", KEY)
    page.close()
