"""tnl chat: in a pipe, on a terminal, with a folder, with our server and with hostile ones."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from conftest import BIN, HANG_SECONDS, ROOT, has_client, needs_server, needs_tokenizer
from fake_server import HOSTILE, Fake, hostile, refusal, stream

sys.path.insert(0, os.path.join(ROOT, "tests", "http"))

import harness  # noqa: E402

SILENT_SECONDS = 5  # a guard against hanging, not a measurement
needs_client = pytest.mark.skipif(not has_client(), reason="built without libcurl")
CHATML = ("--chat-template", "chatml")
SHORT = ("-n", "12", "--seed", "7")


@pytest.fixture(scope="module")
def server(model):
    s = harness.Server(str(model), "--chat-template", "chatml")
    yield s
    s.close()


@pytest.fixture
def url(server):
    return "http://127.0.0.1:%d" % server.port


def chat(tnl, where, text, *args, code=0, env=None):
    return tnl("chat", where, *args, stdin=text.encode() if isinstance(text, str) else text,
               code=code, env=env)


def seen(text):
    """What the filter lets through of a text."""
    text = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\ufffd", text)
    return text.replace("\r", "")


def saved(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- a folder, in a pipe ----

@needs_tokenizer
def test_continues_text(tnl, model):
    """Without a chat template: the same text as tnl generate."""
    r = chat(tnl, model, "Once upon a time", *SHORT)
    want = tnl("generate", model, "-p", "Once upon a time", *SHORT, "--json").json["text"]
    assert r.out == seen(want) + ("" if seen(want).endswith("\n") else "\n")
    assert r.err == ""


@needs_tokenizer
def test_plain_text_grows(tnl, model, tmp_path):
    path = tmp_path / "talk.jsonl"
    chat(tnl, model, "Once upon\n/set seed 8\n a time\n/save %s\n" % path, *SHORT)
    talk = saved(path)
    assert [m["role"] for m in talk] == ["user", "assistant"] * 2
    assert talk[0]["content"] == "Once upon" and talk[2]["content"] == " a time"
    whole = "".join(m["content"] for m in talk[:3])
    if "\ufffd" not in whole:
        want = tnl("generate", model, "-p", whole, "-n", 12, "--seed", 8, "--json").json["text"]
        assert talk[3]["content"] == want.replace("\0", "\ufffd")


@needs_tokenizer
def test_commands(tnl, model, tmp_path):
    a, b, c = (tmp_path / x for x in "abc")
    script = ("/system Be brief.\none\ntwo\n/save %s\n/undo\n/save %s\n/retry\n"
              "/set temperature 0.5\n/reset\n//three\n/save %s\n/stats\n/quit\nnever\n" % (a, b, c))
    r = chat(tnl, model, script, *CHATML, *SHORT)
    first, second, third = saved(a), saved(b), saved(c)
    assert [m["role"] for m in first] == ["system", "user", "assistant", "user", "assistant"]
    assert [m["content"] for m in first if m["role"] != "assistant"] == ["Be brief.", "one", "two"]
    assert second == first[:3]
    assert [m["role"] for m in third] == ["system", "user", "assistant"]
    assert third[1]["content"] == "/three"  # a doubled slash is a message
    assert "never" not in r.out
    assert "all 4 answers" in r.err and "cached" in r.err
    assert os.stat(a).st_mode & 0o777 == 0o600


@needs_tokenizer
def test_retry_and_load(tnl, model, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    chat(tnl, model, "one\n/save %s\n/retry\n/save %s\n" % (a, b), *CHATML, *SHORT)
    assert saved(a) == saved(b)  # the same seed
    more = "/load %s\n/retry\n/save %s\n" % (a, b)
    chat(tnl, model, more, *CHATML, *SHORT)
    assert saved(a) == saved(b)
    # a loaded conversation goes on as the one that was saved
    chat(tnl, model, "/load %s\ntwo\n/save %s\n" % (a, b), *CHATML, *SHORT)
    one = saved(b)
    chat(tnl, model, "one\ntwo\n/save %s\n" % a, *CHATML, *SHORT)
    if "\ufffd" not in json.dumps(one, ensure_ascii=False):
        assert saved(a) == one


@needs_tokenizer
def test_messages_of_several_lines(tnl, model, tmp_path):
    path = tmp_path / "a"
    script = ('"""first\n/help\n  \\\nlast"""\n/save %s\n/reset\na\\\nb\n/save %s2\n/reset\n'
              '"""one line"""\n/save %s3\n' % (path, path, path))
    chat(tnl, model, script, *CHATML, *SHORT)
    assert saved(path)[0]["content"] == "first\n/help\n  \\\nlast"
    assert saved(tmp_path / "a2")[0]["content"] == "a\nb"
    assert saved(tmp_path / "a3")[0]["content"] == "one line"
    # the end of a pipe ends the message
    chat(tnl, model, '"""open\nend', *CHATML, *SHORT)


@needs_tokenizer
def test_no_escape_codes_in_a_pipe(tnl, model):
    r = chat(tnl, model, "/help\none\n/set\n/stats\n", *CHATML, *SHORT, "--stats",
             env={"TERM": "xterm"})
    assert "\x1b" not in r.out + r.err and "/retry" in r.err and "temperature" in r.err
    assert not any(c < " " and c not in "\n\t" for c in r.out)


@needs_tokenizer
@pytest.mark.parametrize("script, code, words", [
    ("/bogus\n", 2, "/help"),
    ("/set colour red\n", 2, "colour"),
    ("/set temperature hot\n", 2, "temperature"),
    ("/set top_p 2\n", 2, "top-p"),
    ("/save\n", 2, "file name"),
    ("/load /nonexistent/talk\n", 66, "/nonexistent/talk"),
    (b"\xff\n", 65, "UTF-8"),
    (b"a\0b\n", 65, "UTF-8"),
])
def test_errors_end_a_script(tnl, model, script, code, words):
    r = chat(tnl, model, script if isinstance(script, bytes) else script + "never asked\n",
             *CHATML, *SHORT, code=code)
    assert words in r.err and r.out == "" and len(r.err.splitlines()) == 1


@needs_tokenizer
def test_templates_that_take_turns(tnl, model, tmp_path):
    path = tmp_path / "talk"
    path.write_text('{"role":"assistant","content":"a"}\n')
    r = chat(tnl, model, "/load %s\nb\n" % path, "--chat-template", "llama-2", code=65)
    assert "take turns" in r.err


@pytest.mark.parametrize("args, code, words", [
    ((), 2, "expected"),
    (("/nonexistent",), 66, "/nonexistent"),
    (("x", "--chat-template", "nope"), 2, "nope"),
    (("x", "--model", "m"), 2, "URL"),
    (("http://127.0.0.1:1", "--threads", "2"), 2, "MODEL_DIR"),
    (("http://127.0.0.1:1", "--device", "cpu"), 2, "MODEL_DIR"),
    (("x", "--temperature", "-1"), 2, "--temperature"),
])
def test_usage(tnl, args, code, words):
    r = tnl("chat", *args, code=None)
    assert r.code == code or r.code == 78 and "built without" in r.err
    assert words in r.err or r.code == 78


@needs_tokenizer
def test_plain_has_no_system_message(tnl, model):
    assert "--system" in chat(tnl, model, "a\n", "--system", "s", code=2).err
    assert "no system message" in chat(tnl, model, "/system s\n").err


@needs_tokenizer
def test_closed_output(model):
    p = subprocess.Popen([BIN, "chat", str(model), "-n", "5000", "--ignore-eos"], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdout.close()
    p.stdin.write(b"one\n")
    p.stdin.close()
    err = p.stderr.read().decode()
    assert p.wait(HANG_SECONDS) == 74 and "standard output" in err
    p.stderr.close()


# ---- servers ----

@needs_server
@needs_tokenizer
@needs_client
def test_server_and_folder_agree(tnl, model, url):
    script = "Once upon a time\n/stats\nand then\n/stats\n"
    here = chat(tnl, model, script, *CHATML, *SHORT)
    there = chat(tnl, url, script, *SHORT)
    assert here.out == there.out

    def figures(r):
        return re.findall(r"prompt (\d+) tokens \((\d+) cached\), answer (\d+)", r.err)

    assert figures(here) == figures(there) and len(figures(here)) == 2
    plain = chat(tnl, url, "Once upon a time", *SHORT, "--plain")
    assert plain.out == chat(tnl, model, "Once upon a time", *SHORT).out


@needs_server
@needs_tokenizer
@needs_client
def test_base_models_continue_text(tnl, model):
    """A server of ours says that its model has no template; --no-plain insists on turns."""
    s = harness.Server(str(model))
    try:
        url = "http://127.0.0.1:%d" % s.port
        want = chat(tnl, model, "Once upon a time", *SHORT).out
        assert chat(tnl, url, "Once upon a time", *SHORT).out == want
        turns = chat(tnl, url, "Once upon\n a time", *SHORT, "--no-plain").out
        assert turns == chat(tnl, model, "Once upon\n a time", *SHORT, "--no-plain").out
    finally:
        s.close()


@needs_client
def test_what_a_server_is_asked(tnl):
    with Fake(lambda f, path, h, b: stream(path, ["Hi", " there", "\u00e9"])) as fake:
        r = chat(tnl, fake.url + "/v1/", "one\n/set temperature 0.5\n/set top_k 3\ntwo\n",
                 "--system", "s", "--seed", 9, env={"TNL_API_KEY": "sesame-1234567890"})
        assert r.out == "Hi there\u00e9\n" * 2
        first, second = fake.bodies
        assert first == {"model": "fake", "stream": True, "stream_options": {"include_usage": True},
                         "max_tokens": 1024, "seed": 9,
                         "messages": [{"role": "system", "content": "s"},
                                      {"role": "user", "content": "one"}]}
        assert second["messages"][2:] == [{"role": "assistant", "content": "Hi there\u00e9"},
                                          {"role": "user", "content": "two"}]
        assert (second["temperature"], second["top_k"]) == (0.5, 3)
        assert all(h["authorization"] == "Bearer sesame-1234567890" for _, h, _ in fake.requests)
        chat(tnl, fake.url, "one\n", "--model", "other", "--plain", "-n", 5)
        assert fake.requests[-1][0] == "/v1/completions"
        assert fake.bodies[-1]["model"] == "other" and fake.bodies[-1]["prompt"] == "one"


@needs_client
def test_a_model_cannot_drive_the_terminal(tnl, tmp_path):
    evil = ["a\x1b]0;owned\x07", "\x9b31m", "\r\x08\x7f", "\x00b\n\tc"]
    path = tmp_path / "talk"
    with Fake(lambda f, p, h, b: stream(p, evil)) as fake:
        r = chat(tnl, fake.url, "one\n/save %s\n" % path)
    assert r.out == "a\ufffd]0;owned\ufffd\ufffd31m\ufffd\ufffd\ufffdb\n\tc\n"
    assert saved(path)[1]["content"] == "".join(evil).replace("\0", "\ufffd")  # as it was said


@needs_client
@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_servers(tnl, name):
    with hostile(name) as fake:
        r = chat(tnl, fake.url, "one\nnever asked\n", "--model", "m", code=None)
        assert r.code in (65, 69, 74) and len(r.err.splitlines()) == 1, r.err
        assert len(fake.requests) == 1 and r.out == ""
        assert all(c >= " " or c == "\n" for c in r.err)


@needs_client
def test_no_server(tnl):
    r = chat(tnl, "http://127.0.0.1:1", "one\n", code=69)
    assert "127.0.0.1" in r.err and len(r.err.splitlines()) == 1


@needs_client
def test_a_refusal_loses_nothing(tnl, tmp_path):
    """On a terminal the talk goes on after an error, and /retry sends the message again."""
    def answer(fake, path, head, body):
        if len(fake.requests) == 2:
            return refusal("503 Service Unavailable", "queue_full", "try later")
        return stream(path, ["fine"])

    with Fake(answer) as fake, Terminal(fake.url) as t:
        t.wait("\n> ")
        t.type("remember me\r")
        t.wait("try later")
        t.wait("\n> ")
        t.type("/retry\r")
        t.wait("fine")
        t.wait("\n> ")
        t.type("\x04")
        assert t.code() == 0
        assert fake.bodies[0] == fake.bodies[1]
        assert fake.bodies[1]["messages"] == [{"role": "user", "content": "remember me"}]


# ---- a terminal ----

class Terminal:
    """tnl chat on a pseudo-terminal. A prompt is waited for with the line feed in front: a line
    being edited is drawn again, prompt and all, and a key that comes too early is not an edit."""

    def __init__(self, *args, **env):
        self.got = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            clean = {k: v for k, v in os.environ.items()
                     if not k.startswith("TNL_") or k == "TNL_CPU"}
            clean.update({"TERM": "xterm", "LC_ALL": "C.UTF-8", **env})
            os.execve(BIN, [BIN, "chat", *map(str, args)], clean)
        self.raw = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def type(self, text):
        os.write(self.fd, text.encode())

    def read(self):
        """False at the end."""
        assert select.select([self.fd], [], [], SILENT_SECONDS)[0], "silent after %r" % self.got
        try:
            self.raw += os.read(self.fd, 65536)
        except OSError:
            return False
        self.got = self.raw.decode("utf-8", "replace")
        return True

    def wait(self, mark):
        """Read on until `mark` comes; forget everything up to there."""
        while mark not in self.got:
            assert self.read(), "ended before %r: %r" % (mark, self.got)
        self.got = self.got.split(mark, 1)[1]
        self.raw = self.got.encode()

    def code(self):
        while self.read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


KINDS = [{"TERM": "xterm"}, {"TERM": "dumb"}]  # edited lines, plain lines


@needs_tokenizer
@pytest.mark.parametrize("env", KINDS, ids=["xterm", "dumb"])
def test_ctrl_c(model, env):
    with Terminal(model, "-n", 1000000, "--ignore-eos", **env) as t:
        t.wait("/help lists commands")
        t.wait("\n+ ")
        t.type("Once upon a time\r")
        t.wait("\n")
        while len(t.got) < 40:
            assert t.read()
        t.type("\x03")
        t.wait("(stopped)")
        t.wait("\n+ ")
        t.type("/stats\r")  # the program goes on
        t.wait("ended by cancelled")
        t.wait("\n+ ")
        t.type("half a line\x03")
        t.wait("(Ctrl-C again or Ctrl-D leaves)")
        t.wait("\n+ ")
        t.type("/set seed 5\r")  # a line in between: not the second one
        t.wait("\n+ ")
        t.type("\x03")
        t.wait("(Ctrl-C again or Ctrl-D leaves)")
        t.wait("\n+ ")
        t.type("\x03")
        assert t.code() == 0


@needs_tokenizer
@pytest.mark.parametrize("env", KINDS, ids=["xterm", "dumb"])
def test_ctrl_d_and_utf8(model, tmp_path, env):
    path = tmp_path / "talk"
    with Terminal(model, *CHATML, *SHORT, **env) as t:
        t.wait("\n> ")
        t.type("h\u00e9 \u4e2d\U0001f422\r")
        t.wait("\n> ")
        t.type("/save %s\r" % path)
        t.wait("(2 messages saved)")
        t.wait("\n> ")
        t.type("\x04")
        assert t.code() == 0
    assert saved(path)[0]["content"] == "h\u00e9 \u4e2d\U0001f422"


@needs_tokenizer
def test_several_lines_on_a_terminal(model, tmp_path):
    path = tmp_path / "talk"
    with Terminal(model, *CHATML, *SHORT) as t:
        t.wait("\n> ")
        t.type('"""one\r')
        t.wait("\n... ")
        t.type('two"""\r')
        t.wait("\n> ")
        t.type("/save %s\r" % path)
        t.wait("saved")
        t.wait("\n> ")
        t.type("/undo\r")
        t.wait("(undone; 0 messages)")
        t.wait("\n> ")
        t.type("/quit\r")
        assert t.code() == 0
    assert saved(path)[0]["content"] == "one\ntwo"


@needs_client
def test_ctrl_c_leaves_a_silent_server():
    def answer(fake, path, head, body):
        def forever():
            yield b"HTTP/1.1 200 OK\r\n\r\n"
            while True:
                time.sleep(0.05)
                yield b": ping\n\n"
        return forever()

    with Fake(answer) as fake, Terminal(fake.url) as t:
        t.wait("\n> ")
        t.type("one\r")
        harness.wait_until(lambda: fake.bodies, "the question arrives")
        t.type("\x03")
        t.wait("(stopped)")
        harness.wait_until(lambda: fake.gone == 1, "the server notices")
        t.type("\x04")
        assert t.code() == 0


@needs_client
def test_ctrl_c_in_a_pipe():
    """The program ends, with the code that shells use."""
    with Fake(lambda *_: iter(lambda: time.sleep(0.05) or b"HTTP/1.1 200 OK\r\n\r\n"[:0], None)) \
            as fake:
        p = subprocess.Popen([BIN, "chat", fake.url, "--model", "m"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        p.stdin.write(b"one\n")
        p.stdin.flush()
        harness.wait_until(lambda: fake.bodies, "the question arrives")
        p.send_signal(2)
        out, err = p.communicate(timeout=HANG_SECONDS)
        assert p.returncode == 130 and b"stopped" in err and out == b""
