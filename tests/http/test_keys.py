"""Several API keys: names, limits, isolation, figures, reload; limits by address; trusted proxies."""

import hashlib
import json
import re
import signal
import subprocess
import threading

import pytest

from harness import BIN, CANARY, Server, clean_env, post_head, together, wait_until
from test_access import exit_of, key_file  # noqa: F401 - a fixture
from test_listen import unix  # noqa: F401 - a fixture

ALICE = "alice-" + CANARY + "-0123456789"
BOB = "bob-" + CANARY + "-0123456789"
OPS = "ops-" + CANARY + "-0123456789"
TEXT = [5, 9, 13, 7] * 40  # whole blocks


def bearer(key):
    return {"Authorization": "Bearer " + key}


def hashed(key):
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def lines(*rows):
    return "".join(r + "\n" for r in rows)


@pytest.fixture
def tenants(model, key_file):  # noqa: F811
    """tenants(lines, *flags): a server with these keys, asked with OPS unless said otherwise."""
    running = []

    def go(text, *flags, **kw):
        path = key_file(text)
        s = Server(model, "--api-key-file", path, *flags, **kw)
        s.headers = bearer(OPS)
        s.key_path = path
        running.append(s)
        return s

    yield go
    for s in running:
        s.close()


def ask(s, key, **fields):
    return s.post("/generate", {"prompt": [5], "max_tokens": 1, "stream": False, **fields},
                  **bearer(key))


def cached(s, key, prompt):
    r = s.post("/v1/completions", {"prompt": prompt, "max_tokens": 1, "temperature": 0},
               **bearer(key))
    assert r.status == 200, r.body
    return r.json["usage"]["prompt_tokens_details"]["cached_tokens"]


def refused(r, what):
    assert r.status == 429, r.body
    e = r.json["error"]
    assert e["type"] == "rate_limit_error" and e["code"] == "rate_limit_exceeded"
    assert what in e["message"]
    wait = int(r.headers["retry-after"])
    assert wait >= 1
    return wait


# ---- who is who


def test_names_in_the_log_and_figures(tenants):
    s = tenants(lines("alice " + ALICE, "# a comment", "bob " + hashed(BOB), "ops %s admin" % OPS))
    for key in (ALICE, BOB, BOB):
        assert ask(s, key, prompt=[5, 6, 7], max_tokens=4, ignore_eos=True).status == 200
    for key in (BOB + "x", hashed(BOB), hashed(BOB)[7:], "bob", ALICE[:-1]):
        r = ask(s, key)
        assert r.status == 401 and r.code == "invalid_key"
    wait_until(lambda: s.metric('tnl_key_requests_active{key="bob"}') == 0, "all have ended")
    wait_until(lambda: len(re.findall(r" 200 .* client=127\.0\.0\.1 key=bob", s.logged())) == 2,
               "the log names the key")
    assert len(re.findall(r" 401 .* key=- *", s.logged())) == 5
    m = s.metrics()
    assert m['tnl_key_requests_total{key="alice"}'] == 1
    assert m['tnl_key_requests_total{key="bob"}'] == 2
    assert m['tnl_key_prompt_tokens_total{key="bob"}'] == 6
    assert m['tnl_key_generated_tokens_total{key="bob"}'] == 8
    assert m['tnl_key_refused_total{key="ops"}'] == 0
    # others see what is theirs
    text = s.get("/metrics", **bearer(ALICE)).body.decode()
    assert 'tnl_key_requests_total{key="alice"} 1\n' in text
    assert '"bob"' not in text and '"ops"' not in text
    assert "tnl_key" not in s.get("/health", **bearer(OPS)).body.decode()


def test_keys_of_the_environment(model):
    s = Server(model, env={"TNL_API_KEY": lines("alice " + ALICE, "bob " + hashed(BOB))})
    assert ask(s, ALICE).status == 200 and ask(s, BOB).status == 200
    assert ask(s, OPS).status == 401
    with open("/proc/%d/environ" % s.process.pid, "rb") as f:
        assert CANARY.encode() not in f.read()
    s.close()


def test_a_file_wins_over_the_environment(tenants):
    s = tenants(lines("ops " + OPS), env={"TNL_API_KEY": ALICE})
    assert ask(s, OPS).status == 200 and ask(s, ALICE).status == 401
    with open("/proc/%d/environ" % s.process.pid, "rb") as f:
        assert CANARY.encode() not in f.read()


OPEN = {("get", "/"), ("get", "/ui/{name}"), ("get", "/health"), ("get", "/ready")}


def test_no_route_is_forgotten(tenants):
    """Every route asks for a key but those that hold no data, whoever adds the next one."""
    s = tenants(lines("ops " + OPS))
    paths = s.get("/openapi.json").json["paths"]
    routes = {(method, path) for path, rows in paths.items() for method in rows}
    assert OPEN < routes and len(routes) > 15
    s.headers = {}
    for method, path in sorted(routes):
        for key in (None, "Bearer " + OPS + "x", "Basic " + OPS):
            r = s.ask(method.upper(), re.sub(r"\{\w+\}", "name", path), b"{}",
                      {"Authorization": key} if key else {})
            assert (r.status == 401) == ((method, path) not in OPEN), (method, path, r.status)


@pytest.mark.parametrize("text,says", [
    (lines("alice " + ALICE, "alice " + BOB), "key:2: an earlier line has this name"),
    (lines("alice " + ALICE, "bob " + hashed(ALICE)), "key:2: an earlier line has this key"),
    (lines("", "alice short"), "key:2: the key has 5 characters"),
    (lines("alice %s speed=5" % ALICE), "key:1: word 3 is not a limit"),
    (lines("alice %s parallel=x" % ALICE), "key:1: parallel: expected a number"),
    (lines("alice " + hashed(ALICE) + "0"), "key:1: expected 64 hexadecimal digits"),
    (lines("%s parallel=5" % ALICE), "key:1: a limit where the key should be"),
    (lines("\0" + ALICE), "key:1: the key has a character"),
])
def test_bad_lines(model, key_file, text, says):  # noqa: F811
    code, err = exit_of(model, "--port", "0", "--api-key-file", key_file(text))
    assert code == 2 and says in err and CANARY not in err
    assert len(err.splitlines()) <= 2


def tnl_key(*words):
    p = subprocess.run([BIN, "key", *words], capture_output=True, timeout=60,
                       stdin=subprocess.DEVNULL, env=clean_env())
    return p.returncode, p.stdout.decode(), p.stderr.decode()


def test_a_key_is_made(tenants):
    code, line, told = tnl_key("alice", "parallel=4", "admin")
    assert code == 0 and re.fullmatch(r"alice sha256:[0-9a-f]{64} parallel=4 admin\n", line)
    key = re.fullmatch(r"The key of alice, shown only now: (tnl-[0-9a-f]{48})\n", told).group(1)
    assert hashed(key) in line
    s = tenants(line + lines("ops " + OPS))
    assert ask(s, key).status == 200
    assert tnl_key("alice", "parallel=4")[1] != tnl_key("alice", "parallel=4")[1]


@pytest.mark.parametrize("words", [[], ["a/b"], ["a", "speed=5"], ["a", "parallel=x"], ["a b"],
                                   ["a", "#"], ["a", ""], ["a", "parallel=1 admin"], ["a" * 65],
                                   ["a", "parallel=1", "parallel=2"], ["a", "x" * 2000]])
def test_a_key_is_not_made(words):
    code, line, told = tnl_key(*words)
    assert code == 2 and line == "" and told.startswith("tnl key: ") and "tnl-" not in told


# ---- isolation


def test_tenants_share_no_prefix(tenants):
    s = tenants(lines("alice " + ALICE, "bob " + BOB, "ops " + OPS))
    assert cached(s, ALICE, TEXT) == 0
    assert cached(s, ALICE, TEXT + [3]) == len(TEXT)  # its own
    assert cached(s, BOB, TEXT + [3]) == 0  # never another's
    assert cached(s, BOB, TEXT + [3, 3]) == len(TEXT)
    assert cached(s, OPS, TEXT + [3, 3]) == 0
    answers = [ask(s, k, prompt=TEXT, max_tokens=20, seed=5).json["text"] for k in (ALICE, BOB, OPS)]
    assert answers[0] == answers[1] == answers[2]


def test_a_tenant_cannot_fill_the_queue(tenants):
    """One slot, eight places: the first tenant is told when its half is full, the other is served
    before what the first has waiting."""
    s = tenants(lines("alice " + ALICE, "bob " + BOB, "ops " + OPS), "--parallel", "1",
                "--queue", "8")
    long = {"prompt": [5], "max_tokens": 1000000, "ignore_eos": True}
    streams = []

    def begin():
        streams.append(s.begin(long, "Authorization: Bearer " + ALICE))

    begin()
    wait_until(lambda: s.metric("tnl_requests_running") == 1, "the slot is taken")
    for n in range(1, 5):
        begin()
        wait_until(lambda: s.metric("tnl_requests_waiting") == n, "%d wait" % n)
    refused(ask(s, ALICE), "Too many requests at once")
    done = {}
    other = threading.Thread(target=lambda: done.update(r=ask(s, BOB)))
    other.start()
    wait_until(lambda: s.metric("tnl_requests_waiting") == 5, "the other waits as well")
    assert s.metric("tnl_requests_running") == 1
    streams.pop(0).close()
    other.join()  # served although four came before it
    assert done["r"].status == 200
    for c in streams:
        c.close()
    wait_until(lambda: s.metric("tnl_requests_running") == 0, "all have left")


def test_a_tenant_cannot_take_every_slot(tenants):
    s = tenants(lines("alice " + ALICE, "bob " + BOB, "ops " + OPS), "--parallel", "4")
    long = {"prompt": [5], "max_tokens": 1000000, "ignore_eos": True}
    streams = [s.begin(long, "Authorization: Bearer " + ALICE) for _ in range(4)]
    wait_until(lambda: s.metric("tnl_requests_waiting") == 1, "three run, one waits")
    assert s.metric("tnl_requests_running") == 3
    assert ask(s, BOB).status == 200
    streams.pop(0).close()
    wait_until(lambda: s.metric("tnl_requests_waiting") == 0, "the fourth runs")
    for c in streams:
        c.close()
    wait_until(lambda: s.metric("tnl_requests_running") == 0, "all have left")


# ---- limits of a key


def test_requests_a_minute(tenants):
    s = tenants(lines("alice %s requests_per_minute=3" % ALICE, "bob " + BOB, "ops %s admin" % OPS))
    for _ in range(3):
        assert ask(s, ALICE).status == 200
    for spelling in ("Bearer ", "bearer ", "BEARER "):
        r = s.post("/tokenize", {"text": "x"}, Authorization=spelling + ALICE)
        assert refused(r, "requests a minute") <= 20
    assert ask(s, BOB).status == 200
    assert s.get("/v1/models", **bearer(ALICE)).status == 200  # no work, not counted
    m = s.metrics()
    assert m['tnl_key_requests_total{key="alice"}'] == 3
    assert m['tnl_key_refused_total{key="alice"}'] == 3
    assert s.metric("tnl_requests_accepted_total") == 4


def test_tokens_a_minute(tenants):
    s = tenants(lines("alice %s tokens_per_minute=100" % ALICE, "ops %s admin" % OPS))
    plain = {"prompt": [5] * 10, "max_tokens": 20, "ignore_eos": True}

    def ended(n):
        wait_until(lambda: s.metric('tnl_key_requests_active{key="alice"}') == 0, "it has ended")
        assert s.metric('tnl_key_prompt_tokens_total{key="alice"}') == n

    # what an answer did not take is given back: this one ends at once
    r = ask(s, ALICE, prompt=[5] * 4, max_tokens=96, logit_bias={"2": 100})
    assert r.status == 200 and r.json["finish_reason"] == "eos"
    ended(4)
    assert ask(s, ALICE, **plain).status == 200  # 30
    assert ask(s, ALICE, **{**plain, "max_tokens": 40}).status == 200  # 80
    ended(24)
    assert refused(ask(s, ALICE, **plain), "tokens a minute") <= 60
    assert ask(s, ALICE, prompt=[5] * 4, max_tokens=8).status == 200
    ended(28)


def test_tokens_of_a_broken_request_come_back(tenants):
    s = tenants(lines("alice %s tokens_per_minute=1000" % ALICE, "ops %s admin" % OPS))
    body = json.dumps({"prompt": [5], "max_tokens": 999, "ignore_eos": True}).encode()
    with s.raw() as c:
        c.request(post_head("/generate", len(body), "Authorization: Bearer " + ALICE), body)
        c.until(b'"index":1')
        refused(ask(s, ALICE, prompt=[5] * 200, max_tokens=100), "tokens a minute")
    wait_until(lambda: s.metric('tnl_key_requests_active{key="alice"}') == 0, "it has left")
    used = s.metric('tnl_key_generated_tokens_total{key="alice"}')
    assert 2 <= used <= 999
    if used < 600:
        assert ask(s, ALICE, prompt=[5] * 200, max_tokens=100).status == 200


def test_requests_at_once(tenants):
    s = tenants(lines("alice %s parallel=2" % ALICE, "bob " + BOB, "ops %s admin" % OPS))
    long = {"prompt": [5], "max_tokens": 1000000, "ignore_eos": True}
    streams = [s.begin(long, "Authorization: Bearer " + ALICE) for _ in range(2)]
    wait_until(lambda: s.metric("tnl_requests_running") == 2, "both run")
    assert refused(ask(s, ALICE), "at once") == 1
    assert ask(s, BOB).status == 200
    streams.pop().close()
    wait_until(lambda: s.metric('tnl_key_requests_active{key="alice"}') == 1, "one has left")
    assert ask(s, ALICE).status == 200
    streams.pop().close()
    wait_until(lambda: s.metric("tnl_requests_running") == 0, "all have left")


def test_each_dialect_says_it_its_way(tenants):
    s = tenants(lines("alice %s requests_per_minute=1" % ALICE, "ops " + OPS))
    assert ask(s, ALICE).status == 200
    refused(s.post("/v1/completions", {"prompt": [5]}, **bearer(ALICE)), "requests a minute")
    refused(s.post("/v1/chat/completions", {"messages": []}, **bearer(ALICE)), "a minute")
    r = s.post("/generate_stream", {"inputs": "x"}, **bearer(ALICE))
    assert r.status == 429 and r.json["error_type"] == "overloaded" and "retry-after" in r.headers


def test_presets_for_keys(tenants):
    s = tenants(lines("alice " + ALICE, "bob %s requests_per_minute=0" % BOB, "ops " + OPS),
                "--limit-requests", "1")
    assert ask(s, ALICE).status == 200
    refused(ask(s, ALICE), "requests a minute")
    for _ in range(3):
        assert ask(s, BOB).status == 200  # says that it has none


# ---- limits of an address


def test_limits_by_address(start):
    s = start("--limit-requests", "20", "--trust-proxy", "127.0.0.0/8")
    s.post("/tokenize", {"text": "x"})
    codes = [s.post("/tokenize", {"text": "x"}, **{"X-Forwarded-For": "1.2.3.4"}).status
             for _ in range(25)]
    assert codes.count(200) == 20 and codes.count(429) == 5
    six = ["2001:db8::%d" % i for i in range(30)]  # one /64
    codes = [s.post("/tokenize", {"text": "x"}, **{"X-Forwarded-For": a}).status for a in six]
    assert codes.count(200) == 20
    r = s.post("/tokenize", {"text": "x"}, **{"X-Forwarded-For": "1.2.3.5"})
    assert r.status == 200
    assert s.get("/health").status == 200


# ---- trusted proxies


def test_forwarded_addresses(start):
    s = start("--trust-proxy", "127.0.0.1, 10.0.0.0/8")
    n = 0
    for header, want in [
            ({"X-Forwarded-For": "1.2.3.4"}, "1.2.3.4"),
            ({"X-Forwarded-For": "6.6.6.6, 1.2.3.4, 10.1.1.1"}, "1.2.3.4"),
            ({"X-Forwarded-For": "1.2.3.4, nonsense"}, "127.0.0.1"),
            ({"X-Forwarded-For": ""}, "127.0.0.1"),
            ({"X-Forwarded-For": "," * 5000}, "127.0.0.1"),
            ({"X-Forwarded-For": "[2001:db8::9]:443"}, "2001:db8::9"),
            ({"Forwarded": 'for="[2001:db8::8]:1";proto=https'}, "2001:db8::8"),
            ({"Forwarded": "for=1.1.1.1", "X-Forwarded-For": "2.2.2.2"}, "127.0.0.1"),
            ({}, "127.0.0.1")]:
        n += 1
        assert s.get("/health", **{"X-Request-Id": "forwarded-%d" % n}, **header).status == 200
        wait_until(lambda: "forwarded-%d GET" % n in s.logged(), "it is logged")
        line = next(x for x in s.logged().splitlines() if "forwarded-%d GET" % n in x)
        assert re.search(r"client=(\S+)", line).group(1) == want, (header, line)


def test_strangers_are_not_believed(start):
    for flags in [[], ["--trust-proxy", "10.0.0.0/8,unix"]]:
        s = start(*flags)
        assert s.get("/health", **{"X-Request-Id": "stranger", "X-Forwarded-For": "1.2.3.4"})
        wait_until(lambda: "stranger GET" in s.logged(), "it is logged")
        assert "client=127.0.0.1" in s.logged() and "1.2.3.4" not in s.logged()


def test_peers_of_a_unix_socket(unix, tmp_path):  # noqa: F811
    for n, (flags, want) in enumerate([([], "unix"), (["--trust-proxy", "unix"], "1.2.3.4")]):
        s = unix(*flags, path=tmp_path / ("%d.sock" % n))
        for i, header in enumerate([{"X-Forwarded-For": "1.2.3.4"}, {}]):
            name = "peer-%d-%d" % (n, i)
            assert s.get("/health", **{"X-Request-Id": name}, **header).status == 200
            wait_until(lambda: name + " GET" in s.logged(), "it is logged")
            line = next(x for x in s.logged().splitlines() if name + " GET" in x)
            assert "client=%s " % (want if header else "unix") in line


@pytest.mark.parametrize("flag,value", [
    ("--trust-proxy", "example.org"), ("--trust-proxy", "10.0.0.0/40"), ("--trust-proxy", ","),
    ("--cors-origin", "example.org"), ("--cors-origin", "https://a/"), ("--cors-origin", "null")])
def test_bad_lists(model, flag, value):
    code, err = exit_of(model, "--port", "0", flag, value)
    assert code == 2 and flag in err


# ---- reload


def rewrite(s, text):
    with open(s.key_path, "w") as f:
        f.write(text)
    s.process.send_signal(signal.SIGHUP)


def test_reload(tenants):
    s = tenants(lines("alice %s requests_per_minute=2" % ALICE, "bob " + BOB, "ops %s admin" % OPS))
    assert ask(s, ALICE).status == 200
    stream = s.begin({"prompt": [5], "max_tokens": 1000000, "ignore_eos": True},
                     "Authorization: Bearer " + BOB)
    stream.until(b'"index":1')
    assert ask(s, BOB).status == 200
    new = "bob-%s-second" % CANARY
    rewrite(s, lines("alice %s requests_per_minute=2" % ALICE, "bob " + hashed(new),
                     "ops %s admin" % OPS))
    wait_until(lambda: ask(s, BOB).status == 401, "the old key is gone")
    assert ask(s, new).status == 200
    assert s.metric('tnl_key_requests_total{key="bob"}') >= 3  # the same tenant
    assert s.metric('tnl_key_requests_active{key="bob"}') == 1  # what ran goes on
    assert ask(s, ALICE).status == 200
    refused(ask(s, ALICE), "requests a minute")  # counts go on
    # a file that went bad changes nothing
    rewrite(s, lines("alice short"))
    wait_until(lambda: "the keys stay as they were" in s.logged(), "it is logged")
    assert s.logged().count("key:1: the key has 5 characters") == 1
    assert ask(s, new).status == 200
    rewrite(s, lines("ops " + OPS))
    wait_until(lambda: ask(s, new).status == 401, "the key is gone")
    stream.close()
    wait_until(lambda: s.metric("tnl_requests_running") == 0, "it has left")


def test_reload_under_load(tenants):
    text = lines("alice " + ALICE, "bob " + BOB, "ops " + OPS)
    s = tenants(text)
    stop = threading.Event()

    def client(key):
        n = 0
        while not stop.is_set():
            assert ask(s, key).status == 200
            n += 1
        return n

    def reloader():
        for _ in range(20):
            rewrite(s, text)
            wait_until(lambda: ask(s, OPS).status == 200, "it answers")
        stop.set()
        return 1

    assert all(together([lambda: client(ALICE), lambda: client(BOB), reloader]))
