"""SIGHUP: another model takes over without a request lost, and one that cannot be loaded does not.

Two models of one shape and different weights; the server is started on a link to one of them. What
each of them answers is asked of servers of their own."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading

import pytest

import tiny_model
from harness import BIN, HANG, SANITIZED, Server, clean_env, wait_until

ASK = {"prompt": [5, 6, 7], "max_tokens": 24, "seed": 3, "ignore_eos": True}
STORY = {"prompt": [5, 6, 7, 8], "max_tokens": 2000 if SANITIZED else 4000, "seed": 4,
         "ignore_eos": True}



class Pair:
    """Two model folders, and what fresh servers on them answer."""

    def __init__(self, base, model):
        self.folders = [model, str(base / "other")]
        self.answers, self.stories = [], []
        tiny_model.write_model(self.folders[1], tokenizer=True, seed=2)
        for folder in self.folders:
            s = Server(folder)
            try:
                self.answers.append(text_of(s, ASK))
                self.stories.append(text_of(s, STORY))
            finally:
                s.close()
        assert self.answers[0] != self.answers[1] and self.stories[0] != self.stories[1]


def text_of(s, fields):
    return s.generate(**fields)["text"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory, model):
    return Pair(tmp_path_factory.mktemp("pair"), model)


def point(link, folder):
    """As deployments do it: the link is replaced, it is never absent."""
    fresh = str(link) + ".new"
    os.symlink(folder, fresh)
    os.replace(fresh, link)


@pytest.fixture
def served(pair, start, tmp_path):
    """A server on a link to the first model; .link can be pointed elsewhere."""
    link = tmp_path / "current"
    point(link, pair.folders[0])
    s = start("--prefix-cache-mb", "1", folder=str(link))
    s.link = link
    return s


def hup(s):
    s.process.send_signal(signal.SIGHUP)


def done(s, result="success"):
    return s.metric('tnl_model_reloads_total{result="%s"}' % result)


def reload(s, folder, result="success"):
    before = done(s, result)
    point(s.link, folder)
    hup(s)
    wait_until(lambda: done(s, result) == before + 1, "the reload is " + result)


def settled(s, pair, which):
    """At rest on one model: nothing of the other is left."""
    wait_until(lambda: s.metric("tnl_models_loaded") == 1, "the other model is freed")
    assert text_of(s, ASK) == pair.answers[which]
    wait_until(s.at_rest, "it comes to rest")
    m = s.metrics()
    ended = sum(v for k, v in m.items() if k.startswith("tnl_requests_finished_total"))
    assert m["tnl_requests_accepted_total"] == ended
    wait_until(lambda: s.fds() <= s.fd_base + 1, "descriptors are closed")
    s.no_report()


def test_another_model(served, pair):
    s = served
    assert text_of(s, ASK) == pair.answers[0]
    tokens = s.metric("tnl_generated_tokens_total")
    for which in [1, 0, 1]:
        reload(s, pair.folders[which])
        assert text_of(s, ASK) == pair.answers[which]
        assert s.get("/ready").status == 200
    assert s.metric("tnl_generated_tokens_total") == tokens + 3 * ASK["max_tokens"]
    assert s.metric("tnl_model_last_reload_successful") == 1
    assert s.metric("tnl_model_last_reload_success_timestamp_seconds") > 1.7e9
    assert s.get("/v1/models").json["data"][0]["id"] == "current"
    settled(s, pair, 1)


def test_stream_ends_with_the_model_it_began_with(served, pair):
    s = served
    with s.begin(STORY, rcvbuf=4096) as c:
        c.until(b'"index":3')
        reload(s, pair.folders[1])
        assert s.metric("tnl_models_loaded") == 2
        assert text_of(s, ASK) == pair.answers[1]
        r = c.reply()
    assert "".join(x["token"]["text"] for x in r.lines if "token" in x) == pair.stories[0]
    assert r.lines[-1]["finish_reason"] == "length"
    settled(s, pair, 1)


def test_upload_that_began_before(served, pair):
    """A request belongs to the model that serves when its body is complete."""
    s = served
    body = json.dumps({**ASK, "stream": False}).encode()
    with s.raw() as c:
        c.send("POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" %
               len(body))
        c.send(body[:10])
        reload(s, pair.folders[1])
        wait_until(lambda: s.metric("tnl_models_loaded") == 1, "nothing holds the first model")
        c.send(body[10:])
        assert c.reply().json["text"] == pair.answers[1]
    settled(s, pair, 1)


def breakages(good, base):
    """Folders that cannot be loaded, and a word of the line that says so."""
    def copy(name):
        path = str(base / name)
        shutil.copytree(good, path)
        return path

    yield str(base / "absent"), "No such file"
    path = copy("cut")
    os.truncate(os.path.join(path, "model.safetensors"), 5000)
    yield path, "model.safetensors"
    path = copy("config")
    with open(os.path.join(path, "config.json"), "w") as f:
        f.write("{")
    yield path, "config.json"
    path = copy("words")
    with open(os.path.join(path, "tokenizer.model"), "wb") as f:
        f.write(b"\xff" * 100)
    yield path, "tokenizer"
    path = copy("huge")
    os.truncate(os.path.join(path, "model.safetensors"), 1 << 42)
    yield path, "MiB are free"


def test_broken_folders(served, pair, tmp_path):
    s = served
    for i, (folder, word) in enumerate(breakages(pair.folders[1], tmp_path)):
        reload(s, folder, "failure")
        assert s.metric("tnl_model_last_reload_successful") == 0
        assert text_of(s, ASK) == pair.answers[0]
        lines = [x for x in s.logged().splitlines() if "reload failed, the present model" in x]
        assert len(lines) == i + 1 and word in lines[-1], lines
        assert s.get("/ready").status == 200
    settled(s, pair, 0)
    reload(s, pair.folders[1])
    assert s.metric("tnl_model_last_reload_successful") == 1
    settled(s, pair, 1)


def test_many_reloads_under_load(served, pair, rng):
    """Clients ask without pause while the model changes under them: every answer is whole and is
    that of one of the two. However signals fall together, the last one counts."""
    s, stop, wrong, counts = served, threading.Event(), [], []

    def client(i):
        n = 0
        while not stop.is_set():
            if i % 2:
                r = s.post("/generate", {**ASK, "stream": True})
                text = "".join(x["token"]["text"] for x in r.lines if "token" in x)
            else:
                text = text_of(s, ASK)
            n += 1
            if text not in pair.answers:
                wrong.append(text)
        counts.append(n)

    crowd = [threading.Thread(target=client, args=(i,)) for i in range(6)]
    for t in crowd:
        t.start()
    last = 0
    for i in range(6 if SANITIZED else 16):
        last = rng.randrange(2)
        point(s.link, pair.folders[last])
        hup(s)
        stop.wait(rng.random() * 0.15)
    wait_until(lambda: text_of(s, ASK) == pair.answers[last], "the last signal has taken effect")
    stop.set()
    for t in crowd:
        t.join()
    assert len(counts) == 6 and min(counts) > 0 and not wrong, (counts, wrong[:1])
    assert done(s, "failure") == 0
    refused = [k for k in s.metrics() if re.search('"/generate",code="[45]', k)]
    assert not refused
    settled(s, pair, last)


def test_stop_during_a_reload(served, pair):
    point(served.link, pair.folders[1])
    hup(served)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 0
    assert "stopped" in served.logged()


def test_stop_while_two_models_serve(served, pair):
    """Both are drained: the stream of the first comes to its end."""
    s = served
    with s.begin(STORY, rcvbuf=4096) as c:
        c.until(b'"index":3')
        reload(s, pair.folders[1])
        s.process.send_signal(signal.SIGTERM)
        r = c.reply()
    assert "".join(x["token"]["text"] for x in r.lines if "token" in x) == pair.stories[0]
    assert s.process.wait(60) == 0


def test_reload_while_loading(pair, tmp_path):
    """Asked for before there is a first model: done afterwards."""
    link = tmp_path / "current"
    point(link, pair.folders[0])
    s = Server(str(link), ready=False)
    try:
        hup(s)
        wait_until(lambda: s.get("/health").status == 200, "the server is ready")
        wait_until(lambda: done(s) == 1, "the reload is done")
    finally:
        s.close()


def test_only_so_many_models(served, pair):
    """Streams hold on to three earlier models: the next reload waits until one of them is free."""
    s = served
    held = []
    for i in range(3):
        held.append(s.begin({**STORY, "max_tokens": 1000000}, rcvbuf=4096))
        held[-1].until(b'"index":3')
        reload(s, pair.folders[(i + 1) % 2])
    assert s.metric("tnl_models_loaded") == 4
    point(s.link, pair.folders[0])
    hup(s)
    wait_until(lambda: "reload: waits" in s.logged(), "it is told")
    assert done(s) == 3 and text_of(s, ASK) == pair.answers[1]
    held.pop(1).close()
    wait_until(lambda: done(s) == 4, "it is done after all")
    assert text_of(s, ASK) == pair.answers[0]
    for c in held:
        c.close()
    settled(s, pair, 0)


def test_terminal_that_closes(pair):
    """Started by hand, a server ends with its terminal; the same signal otherwise means reload."""
    ours, theirs = os.openpty()
    p = subprocess.Popen([BIN, "serve", pair.folders[0], "--port", "0", "--threads", "1"],
                         stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         env=clean_env())
    os.close(theirs)
    assert p.stdout.readline()  # it is ready
    p.send_signal(signal.SIGHUP)
    for line in p.stderr:
        if b"reloaded" in line:
            break
    os.close(ours)
    p.send_signal(signal.SIGHUP)
    assert b"stopped" in p.communicate(timeout=HANG)[1] and p.returncode == 0
