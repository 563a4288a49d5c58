"""Sessions: a text continued by its id gives, bit for bit, what sending all of it gives; cancelled
requests leave no trace; one request at a time; keys do not meet; files survive SIGKILL, and those
that are not ours are refused."""

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import threading
import time

import pytest

from harness import BIN, SANITIZED, Server, clean_env, together, wait_until

NOBODY = "0123456789abcdef" * 2
CONTROL = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}


def create(s):
    r = s.post("/sessions", "")
    assert r.status == 200, r.body
    assert r.json["session_tokens"] == 0
    return r.json["session_id"]


def held(s, sid):
    r = s.get("/sessions/" + sid)
    assert r.status == 200, r.body
    assert r.json["session_id"] == sid and r.json["session_tokens"] == len(r.json["tokens"])
    return r.json


def body_of(answer):
    return answer["text"], answer["tokens"], answer["finish_reason"]


def turn(s, sid, text, prompt, **fields):
    """A turn, held against the same with the whole text in one prompt. `text` grows."""
    got = s.generate(prompt=prompt, session_id=sid, logprobs=2, **fields)
    text += prompt
    cold = s.generate(**{**fields, "prompt": text, "cache_prompt": False, "logprobs": 2})
    assert body_of(got) == body_of(cold)
    assert got["usage"] == cold["usage"]
    text += [t["id"] for t in got["tokens"]]
    assert (got["session_id"], got["session_tokens"]) == (sid, len(text))
    return got


def tokens(rng, most=60):
    return [rng.randrange(3, 200) for _ in range(rng.randrange(1, most))]


def kinds(rng):
    return {"max_tokens": rng.randrange(1, 40), "temperature": rng.choice([0, 0.8, 1.2]),
            "seed": rng.randrange(2 ** 50), "speculate": rng.choice([None, 0, 4]),
            "repetition_penalty": rng.choice([1, 1.3]), "cache_prompt": rng.choice([True, False]),
            "ignore_eos": rng.choice([True, False])}


# ---- the contract


def test_life(server):
    sid = create(server)
    assert held(server, sid)["text"] == ""
    a = server.generate(prompt="once upon a time", session_id=sid, max_tokens=5)
    b = server.generate(prompt=" and", session_id=sid, max_tokens=5)
    got = held(server, sid)
    assert got["session_tokens"] == b["session_tokens"] > a["session_tokens"] > 5
    assert not got["busy"] and got["in_memory"] and not got["saved"]
    assert got["created"] <= got["used"]
    assert got["text"].startswith("once upon a time")
    fork = server.post("/sessions/%s/fork" % sid, "").json
    assert fork["session_id"] != sid and fork["session_tokens"] == got["session_tokens"]
    assert held(server, fork["session_id"])["tokens"] == got["tokens"]
    for s in (sid, fork["session_id"]):
        r = server.ask("DELETE", "/sessions/" + s)
        assert (r.status, r.json) == (200, {"session_id": s, "deleted": True})
        assert server.ask("DELETE", "/sessions/" + s).code == "unknown_session"


def test_begun_by_a_request(server):
    a = server.generate(prompt=[5, 6, 7], session_id="new", **CONTROL)
    assert a["session_tokens"] == 11
    assert held(server, a["session_id"])["tokens"] == [5, 6, 7] + [t["id"] for t in a["tokens"]]
    before = server.metric("tnl_sessions_in_memory")
    r = server.post("/generate", {"prompt": [5], "session_id": "new", "stream": False,
                                  "logit_bias": {str(i): -100 for i in range(700)}})
    assert r.code == "no_token_left"
    assert server.metric("tnl_sessions_in_memory") == before


@pytest.mark.parametrize("sid", [
    NOBODY, NOBODY[:-1], NOBODY + "0", NOBODY.upper(), "x", "%2e%2e%2f", "..%2fsecret", "a/b",
    "0" * 31 + "g", NOBODY + "/", NOBODY + ".session", "%00", "new"])
def test_unknown_is_unknown(server, sid):
    want = server.get("/sessions/" + NOBODY)
    assert want.status == 404 and want.code == "unknown_session"
    for method, path in [("GET", "/sessions/" + sid), ("DELETE", "/sessions/" + sid),
                         ("POST", "/sessions/" + sid + "/fork")]:
        r = server.ask(method, path, b"" if method == "POST" else None)
        if sid != "%00":
            assert (r.status, r.body) == (404, want.body), (method, path)
        else:
            assert r.status == 400


@pytest.mark.parametrize("value,status,code", [
    (NOBODY, 404, "unknown_session"), ("", 404, "unknown_session"), pytest.param("x" * 5000, 404, "unknown_session", id="long"),
    ("../../etc/passwd", 404, "unknown_session"), (5, 400, "invalid_type"), ([], 400, "invalid_type"),
    (True, 400, "invalid_type")])
def test_field(server, value, status, code):
    for path, extra in [("/generate", {"stream": False}), ("/v1/completions", {})]:
        r = server.post(path, {"prompt": [5], "session_id": value, **extra})
        assert (r.status, r.code, r.param) == (status, code, "session_id")


def test_methods(server):
    for path, allow in [("/sessions", "POST"), ("/sessions/" + NOBODY, "GET, HEAD, DELETE"),
                        ("/sessions/%s/fork" % NOBODY, "POST")]:
        r = server.ask("PUT", path)
        assert (r.status, r.headers["allow"]) == (405, allow)
    assert server.get("/sessions/").status == 404
    for path in ("/sessions", "/sessions/%s/fork" % create(server)):
        assert server.post(path, {}).status == 200
        assert server.post(path, {"a": 1}).code == "unsupported_parameter"
        assert server.post(path, "[").code == "invalid_json"
        assert server.ask("POST", path, b"", {"Origin": "http://elsewhere"}).code == "origin"
    assert server.ask("DELETE", "/sessions/" + create(server), None,
                      {"Origin": "http://elsewhere"}).code == "origin"


def test_conflicts(server):
    sid = create(server)
    for fields, param in [({"n": 2}, "n"), ({"best_of": 2}, "best_of"), ({"echo": True}, "echo"),
                          ({"prompt": ["a", "b"]}, "prompt")]:
        r = server.post("/v1/completions", {"prompt": "a", "session_id": sid, **fields})
        assert (r.status, r.code, r.param) == (400, "conflict", param)
        message = r.json["error"]["message"]
        assert message.startswith(param + " ") and "session_id" in message
    r = server.post("/generate_stream", {"inputs": "a", "session_id": sid})
    assert r.status == 422
    # and none of them holds it
    assert server.generate(prompt=[5], session_id=sid, **CONTROL)["session_tokens"] == 9


def test_openai(server):
    a = server.post("/v1/completions", {"prompt": [5, 6], "session_id": "new", **CONTROL}).json
    sid = a["session_id"]
    assert a["session_tokens"] == 10
    r = server.post("/v1/completions", {"prompt": [7], "session_id": sid, "stream": True, **CONTROL})
    events = [json.loads(x[6:]) for x in r.body.decode().split("\n\n") if x.startswith("data: {")]
    assert (events[-1]["session_id"], events[-1]["session_tokens"]) == (sid, 19)
    assert all("session_id" not in e for e in events[:-1])
    a = server.post("/v1/completions", {"prompt": [8], "session_id": sid, **CONTROL}).json
    assert a["usage"]["prompt_tokens"] == 20 and a["session_tokens"] == 28
    assert "session_id" not in server.post("/v1/completions", {"prompt": [8], **CONTROL}).json


def test_empty_prompt(server):
    sid = create(server)
    for empty in ("", []):
        r = server.post("/generate", {"prompt": empty, "session_id": sid, "stream": False})
        assert (r.status, r.code) == (400, "prompt_empty")
        assert server.post("/generate", {"prompt": empty}).code == "prompt_empty"
    text = []
    turn(server, sid, text, [5, 6], **CONTROL)
    for empty in ("", [], ""):
        a = server.generate(prompt=empty, session_id=sid, logprobs=2, **CONTROL)
        b = server.generate(prompt=text, logprobs=2, cache_prompt=False, **CONTROL)
        assert body_of(a) == body_of(b)
        text += [t["id"] for t in a["tokens"]]


def test_text_joins(server):
    """Each text is tokenized on its own, without a beginning of its own."""
    words = ["once upon", " a time", "żółw 🐢", "\n"]
    sid, ids = create(server), []
    for w in words:
        server.generate(prompt=w, session_id=sid, max_tokens=0)
        ids += server.post("/tokenize", {"text": w}).json["tokens"]
    got = held(server, sid)["tokens"]
    assert got[len(got) - len(ids):] == ids and len(got) - len(ids) in (0, 1)  # bos


def test_reading_ahead(server):
    """max_tokens 0 reads a prompt into the session; the next request need not."""
    sid, text = create(server), list(range(3, 203))
    a = server.generate(prompt=text, session_id=sid, max_tokens=0)
    assert a["session_tokens"] == 200 and a["tokens"] == []
    b = turn(server, sid, text, [9], **CONTROL)
    assert b["timings"]["cached_tokens"] == 192


def test_prompt_limit_counts_the_text(start):
    s = start("--max-prompt-tokens", "20")
    sid = create(s)
    s.generate(prompt=[5] * 10, session_id=sid, **CONTROL)
    r = s.post("/generate", {"prompt": [5] * 3, "session_id": sid, "stream": False, **CONTROL})
    assert (r.status, r.code) == (400, "prompt_too_long")
    assert s.generate(prompt=[5] * 2, session_id=sid, **CONTROL)["session_tokens"] == 28


def test_switched_off(start):
    s = start("--sessions", "0", "--session-dir", "/nonexistent/and/not/made")
    assert "--session-dir is not used" in s.logged()
    for r in (s.post("/sessions", ""), s.get("/sessions/" + NOBODY),
              s.post("/generate", {"prompt": [5], "session_id": "new"})):
        assert (r.status, r.code) == (501, "not_supported")
    assert s.metric("tnl_session_limit_bytes") == 0


# ---- exactness


def test_turns_are_as_if_sent_whole(server, rng):
    for _ in range(3):
        sid, text = create(server), []
        for _ in range(8):
            turn(server, sid, text, tokens(rng), **kinds(rng))
        assert held(server, sid)["tokens"] == text


def test_beside_others(server, rng):
    """Several sessions at once, cancelled requests and forks in between."""
    def one(seed):
        mine = random.Random(seed)
        sid, text = create(server), []
        for _ in range(5):
            turn(server, sid, text, tokens(mine), **kinds(mine))
            c = server.begin({"prompt": tokens(mine, 300), "session_id": sid, "max_tokens": 500,
                              "ignore_eos": True})
            if mine.random() < 0.7:
                c.until(b"\r\n\r\n")
            c.reset()
            wait_until(lambda: not held(server, sid)["busy"], "the session is free")
            assert held(server, sid)["tokens"] == text
            if mine.random() < 0.5:
                sid = server.post("/sessions/%s/fork" % sid, "").json["session_id"]
    together([lambda seed=rng.random(): one(seed) for _ in range(3)])


def test_several_answers_read_a_prompt_once(start):
    s = start("--parallel", "4")
    before = s.metric("tnl_prompt_tokens_total")
    r = s.post("/v1/completions", {"prompt": list(range(3, 503)), "n": 4, "max_tokens": 4})
    assert r.status == 200 and len(r.json["choices"]) == 4
    assert s.metric("tnl_prompt_tokens_total") - before < 500 + 4 * 64


# ---- one at a time


def test_busy(server):
    sid, text = create(server), []
    turn(server, sid, text, [5, 6], **CONTROL)
    c = server.begin({"prompt": [7], "session_id": sid, "max_tokens": 1000000, "ignore_eos": True})
    c.until(b"\"index\":3")
    assert held(server, sid)["busy"] and held(server, sid)["tokens"] == text
    for r in (server.post("/generate", {"prompt": [5], "session_id": sid}),
              server.post("/v1/completions", {"prompt": [5], "session_id": sid}),
              server.post("/sessions/%s/fork" % sid, "")):
        assert (r.status, r.code) == (409, "session_busy")
    c.close()
    wait_until(lambda: not held(server, sid)["busy"], "the session is free")
    turn(server, sid, text, [8], **CONTROL)


def test_delete_ends_a_request(server):
    sid = create(server)
    c = server.begin({"prompt": [7], "session_id": sid, "max_tokens": 1000000, "ignore_eos": True})
    c.until(b"\"index\":3")
    assert server.ask("DELETE", "/sessions/" + sid).status == 200
    assert server.get("/sessions/" + sid).status == 404
    last = c.reply().lines[-1]
    assert (last["finish_reason"], last["session_tokens"]) == ("cancelled", 0)
    c.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path, prompt", [
    ("/v1/completions", {"prompt": [7]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]})])
def test_delete_is_no_whole_answer(server, path, prompt, stream):
    """OpenAI has no word for a cancelled answer: it is an error, not one that looks whole."""
    sid = create(server)
    ask = {**prompt, "session_id": sid, "max_tokens": 1000000, "stream": stream,
           "logit_bias": {"2": -100}}

    def delete():
        wait_until(lambda: held(server, sid)["busy"] and server.metric("tnl_requests_running") == 1,
                   "it runs")
        assert server.ask("DELETE", "/sessions/" + sid).status == 200

    r, _ = together([lambda: server.post(path, ask), delete])
    if stream:
        error = json.loads(r.body.decode().split("\n\n")[-2][len("data: "):])["error"]
        assert r.status == 200 and b"[DONE]" not in r.body
    else:
        error = r.json["error"]
        assert r.status == 404
    assert (error["code"], error["param"]) == ("unknown_session", "session_id")


def test_keys_do_not_meet(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("".join("%s %s-key-0123456789abcdef\n" % (n, n) for n in ("anna", "bert")))
    keys.chmod(0o600)
    s = start("--api-key-file", str(keys), "--key-sessions", "2", ready=False)
    a, b = ({"Authorization": "Bearer %s-key-0123456789abcdef" % n} for n in ("anna", "bert"))
    wait_until(lambda: s.get("/health").status == 200, "ready")
    sid = s.ask("POST", "/sessions", b"", a).json["session_id"]
    for other in (sid, NOBODY):
        want = None
        for method, path, body in [
                ("GET", "/sessions/" + other, None), ("DELETE", "/sessions/" + other, None),
                ("POST", "/sessions/%s/fork" % other, b"")]:
            r = s.ask(method, path, body, b)
            want = want or r.body
            assert (r.status, r.body) == (404, want)
        r = s.ask("POST", "/generate", json.dumps({"prompt": [5], "session_id": other}), b)
        assert (r.status, r.code) == (404, "unknown_session")
    assert s.ask("GET", "/sessions/" + sid, None, a).status == 200
    for _ in range(5):  # its own oldest go, not the other's
        s.ask("POST", "/sessions", b"", b)
    assert s.ask("GET", "/sessions/" + sid, None, a).status == 200
    assert s.ask("POST", "/sessions", b"").status == 401
    both = keys.read_text()
    for n, text in enumerate((both.replace("anna anna", "carl carl"), both)):  # a key that is gone
        keys.write_text(text)
        s.process.send_signal(signal.SIGHUP)
        wait_until(lambda: s.logged().count("keys read again") == n + 1, "the keys are read again")
    wait_until(lambda: s.ask("GET", "/health", None, a).status == 200, "ready")
    assert s.ask("GET", "/sessions/" + sid, None, a).code == "unknown_session"


# ---- the disk


@pytest.fixture
def home(tmp_path):
    return str(tmp_path / "sessions")


def saved(s, sid):
    return wait_until(lambda: held(s, sid)["saved"], "the session is saved")


def again(s, model, home, *flags):
    """Killed and started anew."""
    s.process.kill()
    s.process.wait()
    s.process.stdout.close()
    s.no_report()
    return Server(model, "--session-dir", home, *flags)


def test_survives_sigkill(model, home, rng):
    s = Server(model, "--session-dir", home)
    try:
        sid, text = create(s), []
        for _ in range(5):
            for _ in range(2):
                turn(s, sid, text, tokens(rng), **kinds(rng))
            saved(s, sid)
            s = again(s, model, home)
            assert held(s, sid)["tokens"] == text and not held(s, sid)["in_memory"]
        fork = s.post("/sessions/%s/fork" % sid, "").json["session_id"]
        saved(s, fork)
        s = again(s, model, home)
        other = list(text)
        turn(s, fork, other, [5], **CONTROL)
        turn(s, sid, text, [6], **CONTROL)
        assert s.metric("tnl_session_restores_total") >= 2
        assert stat.S_IMODE(os.stat(home).st_mode) == 0o700
        for name in os.listdir(home):
            assert stat.S_IMODE(os.stat(os.path.join(home, name)).st_mode) == 0o600
        assert s.ask("DELETE", "/sessions/" + sid).status == 200
        assert sid + ".session" not in os.listdir(home)
    finally:
        s.close()


def test_many_restored_at_once(model, home, rng):
    """More at once than there are slots and workers."""
    s = Server(model, "--session-dir", home, "--parallel", "4")
    try:
        texts = {}
        for _ in range(24):
            text = tokens(rng, 100)
            a = s.generate(prompt=text, session_id="new", **CONTROL)
            texts[a["session_id"]] = text + [t["id"] for t in a["tokens"]]
        for sid in texts:
            saved(s, sid)
        s = again(s, model, home, "--parallel", "4")
        together([lambda sid=sid, text=text: turn(s, sid, text, [5], **CONTROL)
                  for sid, text in texts.items()])
        assert s.metric("tnl_session_restores_total") >= 24
        assert s.metric("tnl_sessions_in_memory") == 24
    finally:
        s.close()


def test_killed_at_any_moment(model, home, rng):
    """What comes back is the text as of some commit, and goes on exactly."""
    s = Server(model, "--session-dir", home)
    known = {}  # id -> texts it may have: each commit, and what the last one may become
    try:
        for sid in [create(s) for _ in range(4)]:
            known[sid] = [[]]
            turn(s, sid, known[sid][-1], tokens(rng), **CONTROL)
            saved(s, sid)
        for _ in range(4 if SANITIZED else 10):
            stop = threading.Event()

            def talk(sid, mine):
                while not stop.is_set():
                    prompt = tokens(mine)
                    known[sid].append(known[sid][-1] + prompt)
                    try:
                        a = s.generate(prompt=prompt, session_id=sid, **CONTROL)
                    except (OSError, AssertionError, ValueError):
                        return
                    known[sid][-1] += [t["id"] for t in a["tokens"]]

            threads = [threading.Thread(target=talk, args=(sid, random.Random(rng.random())))
                       for sid in known]
            for t in threads:
                t.start()
            time.sleep(rng.uniform(0, 0.15))
            s.process.kill()
            stop.set()
            for t in threads:
                t.join()
            s = again(s, model, home)
            assert not [n for n in os.listdir(home) if n.endswith((".tmp", ".refused"))]
            for sid, texts in known.items():
                got = held(s, sid)["tokens"]
                assert got in texts or got[:len(texts[-1])] == texts[-1]
                known[sid] = [got]
                turn(s, sid, known[sid][-1], tokens(rng), **CONTROL)
                saved(s, sid)
    finally:
        s.close()


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 1]))


def mutations(path, other):
    size = os.path.getsize(path)
    return {
        "nothing": lambda: os.truncate(path, 0), "one byte": lambda: os.truncate(path, 1),
        "no header": lambda: os.truncate(path, 255), "header only": lambda: os.truncate(path, 256),
        "cut": lambda: os.truncate(path, size - 1), "longer": lambda: os.truncate(path, size + 1),
        "magic": lambda: flip(path, 0), "version": lambda: flip(path, 8),
        "owner": lambda: flip(path, 88), "tokens": lambda: flip(path, 96),
        "seal": lambda: flip(path, 250), "text": lambda: flip(path, 260),
        "state": lambda: flip(path, size - 1), "another's": lambda: shutil.copy(other, path),
        "folder": lambda: (os.remove(path), os.mkdir(path)),
        "link": lambda: (os.remove(path), os.symlink(other, path)),
        "pipe": lambda: (os.remove(path), os.mkfifo(path)),
    }


def test_altered_files_are_refused(model, home, rng):
    """At the start, or when they are read; the others go on."""
    s = Server(model, "--session-dir", home)
    try:
        good, text = create(s), []
        turn(s, good, text, tokens(rng), **CONTROL)
        saved(s, good)
        path = os.path.join(home, good + ".session")
        names = list(mutations(path, path))
        sids = {}
        for name in names:
            sids[name] = s.generate(prompt=tokens(rng) + [5] * 64, session_id="new", **CONTROL)["session_id"]
        for sid in sids.values():
            saved(s, sid)
        s.process.kill()
        s.process.wait()
        for name, sid in sids.items():
            mutations(os.path.join(home, sid + ".session"), path)[name]()
        for name in (NOBODY.upper() + ".session", "x.session", NOBODY + ".tmp", "other"):
            with open(os.path.join(home, name), "w") as f:
                f.write("not ours")
        s = again(s, model, home)
        for name, sid in sids.items():
            r = s.post("/generate", {"prompt": [5], "session_id": sid, "stream": False, **CONTROL})
            assert (r.status, r.code) == (404, "unknown_session"), name
            assert sid + ".session" not in os.listdir(home), name
            assert sid + ".refused" in os.listdir(home), name
            assert "session file %s.session refused" % sid in s.logged(), name
            assert s.get("/sessions/" + sid).status == 404
            turn(s, good, text, [5], **CONTROL)
        assert s.metric("tnl_session_refused_total") == len(names)
        assert sorted(n for n in os.listdir(home) if NOBODY[:6].upper() in n.upper() or n in ("other", "x.session")) == [
            NOBODY.upper() + ".session", "other", "x.session"]
    finally:
        s.close()


def test_another_model_leaves_them(model, home, tmp_path, rng):
    s = Server(model, "--session-dir", home)
    try:
        sid, text = create(s), []
        turn(s, sid, text, tokens(rng) + [5] * 64, **CONTROL)
        saved(s, sid)
        other = str(tmp_path / "other")
        shutil.copytree(model, other)
        weights = next(os.path.join(other, n) for n in os.listdir(other)
                       if n.endswith((".safetensors", ".bin")))
        flip(weights, os.path.getsize(weights) - 4)  # a single bit of a single weight
        s = again(s, other, home)
        assert s.get("/sessions/" + sid).status == 404
        assert "of another model" in s.logged()
        mine = s.generate(prompt=[5], session_id="new", **CONTROL)["session_id"]
        saved(s, mine)
        file = os.path.join(home, mine + ".session")
        s = again(s, model, home)
        turn(s, sid, text, [5], **CONTROL)
        assert s.get("/sessions/" + mine).status == 404
        assert os.path.exists(file)
        # but not for longer than --session-seconds
        os.utime(file, (time.time() - 3600,) * 2)
        s = again(s, model, home, "--session-seconds", "7200")
        assert os.path.exists(file)
        s = again(s, model, home, "--session-seconds", "1800")
        assert not os.path.exists(file)
        assert held(s, sid)["tokens"][:len(text)] == text
    finally:
        s.close()


def test_reload(model, tmp_path, rng):
    """The same model again: sessions go on. Another one: they are unknown."""
    folder = str(tmp_path / "m")
    shutil.copytree(model, folder)
    s = Server(folder, "--sessions", "2")
    try:
        def reload(n):
            s.process.send_signal(signal.SIGHUP)
            wait_until(lambda: s.metric('tnl_model_reloads_total{result="success"}') == n, "reloaded")
        for _ in range(3):
            create(s)
        sid, text = create(s), []
        turn(s, sid, text, tokens(rng), **CONTROL)
        reload(1)
        turn(s, sid, text, [5], **CONTROL)
        fresh = str(tmp_path / "n")
        shutil.copytree(model, fresh)
        weights = next(n for n in os.listdir(fresh) if n.endswith((".safetensors", ".bin")))
        flip(os.path.join(fresh, weights), os.path.getsize(os.path.join(fresh, weights)) - 4)
        os.rename(os.path.join(fresh, weights), os.path.join(folder, weights))
        assert s.metric("tnl_sessions_dropped_total") == 2
        reload(2)
        assert s.get("/sessions/" + sid).status == 404
        assert s.metric("tnl_sessions_dropped_total") == 2
        text = []
        turn(s, create(s), text, tokens(rng), **CONTROL)
    finally:
        s.close()


def test_model_that_comes_back(model, home, tmp_path):
    """While a request still holds the sessions of an earlier model, that model returns: they are
    the same sessions, and no turn is lost."""
    other, link = str(tmp_path / "other"), str(tmp_path / "link")
    shutil.copytree(model, other)
    weights = next(n for n in os.listdir(other) if n.endswith((".safetensors", ".bin")))
    flip(os.path.join(other, weights), os.path.getsize(os.path.join(other, weights)) - 4)
    os.symlink(model, link)
    s = Server(link, "--session-dir", home)

    def reload(folder):
        done = 'tnl_model_reloads_total{result="success"}'
        before = s.metric(done)
        os.symlink(folder, link + ".new")
        os.replace(link + ".new", link)
        s.process.send_signal(signal.SIGHUP)
        wait_until(lambda: s.metric(done) == before + 1, "reloaded")

    try:
        sid, idle = create(s), create(s)
        turn(s, idle, [], [5, 6], **CONTROL)
        n = 2000 if SANITIZED else 4000  # more than the buffers between us take
        c = s.begin({"prompt": [7], "session_id": sid, "max_tokens": n, "ignore_eos": True},
                    rcvbuf=4096)
        c.until(b"\"index\":3")
        saves = s.metric("tnl_session_saves_total")
        reload(other)
        assert s.get("/sessions/" + idle).status == 404
        reload(model)
        assert s.metric("tnl_models_loaded") == 2
        assert held(s, sid)["busy"] and held(s, idle)["session_tokens"] == 10
        r = s.post("/generate", {"prompt": [5], "session_id": sid})
        assert (r.status, r.code) == (409, "session_busy")
        assert c.reply().lines[-1]["session_tokens"] == n + 1
        c.close()
        saved(s, sid)
        assert s.metric("tnl_session_saves_total") >= saves + 1
        s = again(s, model, home)
        assert held(s, sid)["session_tokens"] == n + 1
    finally:
        s.close()


def test_a_disk_that_fails(model, home, rng):
    s = Server(model, "--session-dir", home)
    try:
        sid, text = create(s), []
        os.mkdir(os.path.join(home, sid + ".tmp"))  # in the way of the file
        turn(s, sid, text, tokens(rng), **CONTROL)
        wait_until(lambda: s.metric("tnl_session_save_errors_total") >= 1, "a save fails")
        turn(s, sid, text, tokens(rng), **CONTROL)
        assert not held(s, sid)["saved"]
        assert s.logged().count("sessions cannot be saved") == 1
        os.rmdir(os.path.join(home, sid + ".tmp"))
        turn(s, sid, text, tokens(rng), **CONTROL)
        saved(s, sid)
        s = again(s, model, home)
        turn(s, sid, text, [5], **CONTROL)
    finally:
        s.close()


def fails(model, *flags):
    p = subprocess.run([BIN, "serve", model, "--port", "0", "--threads", "1", *flags],
                       capture_output=True, env=clean_env(), timeout=60, stdin=subprocess.DEVNULL)
    return p.returncode, p.stderr.decode()


def test_folder_is_checked(model, home, tmp_path):
    s = Server(model, "--session-dir", home)
    try:
        code, err = fails(model, "--session-dir", home)
        assert code == 69 and "another server uses it" in err
    finally:
        s.close()
    with open(os.path.join(home, "secret"), "wb") as f:
        f.write(b"short")
    code, err = fails(model, "--session-dir", home)
    assert code == 65 and "secret" in err
    os.chmod(home, 0o777)
    code, err = fails(model, "--session-dir", home)
    assert code == 2 and "mode 777" in err
    code, err = fails(model, "--session-dir", str(tmp_path / "a" / "b"))
    assert code == 74 and "mkdir" in err


class Tenant:
    """One key's sessions as they should be; the one used longest ago comes first."""
    MOST = 4

    def __init__(self, s, name, rng):
        self.s, self.rng = s, rng
        self.head = {"Authorization": "Bearer %s-key-0123456789abcdef" % name}
        self.texts = {}
        self.gone = [NOBODY]

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode() if body != "" else b""
        return self.s.ask(method, path, data, self.head)

    def used(self, sid, text):
        self.texts.pop(sid, None)
        self.texts[sid] = text

    def room(self):
        if len(self.texts) == self.MOST:
            old = next(iter(self.texts))
            del self.texts[old]
            self.gone.append(old)

    def any(self):
        """A session of ours, or one that is not."""
        if self.texts and self.rng.random() < 0.8:
            return self.rng.choice(list(self.texts))
        return self.rng.choice(self.gone + self.others())

    def check(self, r, sid, status=200):
        if sid in self.texts:
            assert r.status == status, r.body
            return status == 200
        assert (r.status, r.code) == (404, "unknown_session")
        return False

    # ---- what can be done

    def create(self):
        r = self.ask("POST", "/sessions", "")
        self.room()
        self.used(r.json["session_id"], [])

    def generate(self, sid, **more):
        prompt = tokens(self.rng, 20)
        return prompt, self.ask("POST", "/generate", {
            "prompt": prompt, "session_id": sid, "stream": False, **CONTROL, **more})

    def turn(self, sid=None):
        sid = sid or self.any()
        prompt, r = self.generate(sid)
        if self.check(r, sid):
            text = self.texts[sid] + prompt + [t["id"] for t in r.json["tokens"]]
            assert r.json["session_tokens"] == len(text)
            self.used(sid, text)

    def begin(self):
        prompt, r = self.generate("new")
        self.room()
        self.used(r.json["session_id"], prompt + [t["id"] for t in r.json["tokens"]])

    def fail(self):
        sid = self.any()
        r = self.generate(sid, echo=True)[1]
        assert (r.status, r.code) == (400, "conflict")
        r = self.generate(sid, logit_bias={str(i): -100 for i in range(700)})[1]
        if not self.check(r, sid, 400):
            if sid in self.texts:
                self.used(sid, self.texts[sid])

    def fork(self):
        sid = self.any()
        r = self.ask("POST", "/sessions/%s/fork" % sid, "")
        if self.check(r, sid):
            self.used(sid, self.texts[sid])
            text = self.texts[sid]
            self.room()
            self.used(r.json["session_id"], list(text))

    def delete(self):
        sid = self.any()
        if self.check(self.ask("DELETE", "/sessions/" + sid), sid):
            del self.texts[sid]
            self.gone.append(sid)

    def look(self):
        sid = self.any()
        r = self.ask("GET", "/sessions/" + sid)
        if self.check(r, sid):
            assert r.json["tokens"] == self.texts[sid] and not r.json["busy"]


def test_random_operations(model, tmp_path, home, rng):
    """Three keys at once, each held against a plain dictionary; then all of it after a restart."""
    names = ["anna", "bert", "carl"]
    keys = tmp_path / "keys"
    keys.write_text("".join("%s %s-key-0123456789abcdef\n" % (n, n) for n in names))
    keys.chmod(0o600)
    flags = ["--api-key-file", str(keys), "--key-sessions", str(Tenant.MOST), "--session-dir", home]
    tenants = [Tenant(None, n, random.Random(rng.random())) for n in names]
    for t in tenants:
        t.others = lambda t=t: [sid for o in tenants if o is not t for sid in list(o.texts)]

    def act(t):
        for _ in range(100 if SANITIZED else 200):
            t.rng.choice([t.create, t.turn, t.turn, t.turn, t.begin, t.fail, t.fork, t.delete,
                          t.look])()

    def find(t):
        t.texts = {sid: text for sid, text in t.texts.items() if text}  # empty: not saved
        for sid, text in list(t.texts.items()):
            assert t.ask("GET", "/sessions/" + sid).json["tokens"] == text
            t.turn(sid)  # a start knows the order of their last commits only
        for sid in t.gone:
            assert t.ask("GET", "/sessions/" + sid).status == 404

    for do in (act, find, act, find):
        s = Server(model, *flags)
        try:
            for t in tenants:
                t.s = s
            together([lambda t=t: do(t) for t in tenants])
        finally:
            s.close()
