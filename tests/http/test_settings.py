"""Flags, environment, config file, and what each refuses."""

import json
import os
import subprocess

import pytest

from harness import BIN, ROOT, clean_env


def run(*args, env=None):
    p = subprocess.run([BIN, "serve", *args], capture_output=True, timeout=60,
                       stdin=subprocess.DEVNULL, env=clean_env(env))
    return p.returncode, p.stdout.decode(), p.stderr.decode()


@pytest.fixture
def config(tmp_path):
    def write(values):
        path = tmp_path / "server.json"
        path.write_text(values if isinstance(values, str) else json.dumps(values))
        return str(path)
    return write


INTEGERS = {"port": (0, 65535), "threads": (0, 1024), "parallel": (1, 1024), "queue": (0, 65536),
            "step-tokens": (0, 65536), "max-prompt-tokens": (1, 2 ** 31),
            "max-body": (1024, 64 << 20), "max-header": (4096, 262144),
            "upload-budget": (1 << 20, 1 << 40), "connections": (2, 65536), "http-threads": (1, 64),
            "idle-timeout": (1, 86400), "header-seconds": (1, 86400), "body-seconds": (1, 86400),
            "stall-seconds": (1, 86400), "queue-seconds": (0, 86400),
            "limit-requests": (0, 10 ** 9), "limit-tokens": (0, 10 ** 12),
            "request-seconds": (0, 604800), "drain-seconds": (0, 86400), "ping-seconds": (0, 86400)}


def test_help_and_version():
    code, out, err = run("--help")
    assert code == 0 and err == "" and all("--" + n in out for n in INTEGERS)
    for name in ["host", "config", "alias", "weights", "load", "api-key-file", "allowed-host",
                 "insecure-no-auth", "log-level", "log-format"]:
        assert "--" + name in out
    code, out, _ = run("--version")
    assert code == 0 and out.startswith("tnl ")


@pytest.mark.parametrize("name", sorted(INTEGERS))
def test_integer_ranges(config, name):
    """A value is checked before the folder is looked at: a good one fails on the folder (66)."""
    low, high = INTEGERS[name]
    for bad in [low - 1, high + 1, "", "abc", "1.5", "0x10", "1k", " 1", "1 ", "9" * 30]:
        assert run("/nowhere", "--%s=%s" % (name, bad))[0] == 2, bad
        if bad != "":  # an empty variable counts as unset
            variable = "TNL_" + name.upper().replace("-", "_")
            assert run("/nowhere", env={variable: str(bad)})[0] == 2
    for bad in [low - 1, high + 1, "1", 1.5, True, None, [1], {}]:
        assert run("/nowhere", "--config", config({name: bad}))[0] == 2, bad
    for raw in ["1e999", "9" * 400]:
        assert run("/nowhere", "--config", config('{"%s":%s}' % (name, raw)))[0] in (2, 65)


@pytest.mark.parametrize("flags", [
    ["--nope"], ["--nope=1"], ["-x"], ["--port"], ["--weights=f64"], ["--load=x"],
    ["--log-level=loud"], ["--log-format=xml"], ["a", "b"], ["--insecure-no-auth=maybe"],
    ["--parallel=32", "--step-tokens=16"]])
def test_bad_flags(flags):
    code, out, err = run("/nowhere", *flags)
    assert code == 2 and out == "" and err.startswith("tnl serve: ")


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"nope":1}', '{"port":1,"port":2}',
                                  '{"Port":1}', '{"port":1}x', '{"host":"a\\u0000b"}',
                                  '{"host":5}', '{"insecure-no-auth":"true"}', '{"config":"x"}',
                                  '{"port":{"x":1}}', "\xef\xbb\xbf{}"])
def test_bad_config(config, text):
    code, out, err = run("/nowhere", "--config", config(text))
    assert code in (2, 65) and "server.json" in err, err


def test_config_is_missing():
    code, _, err = run("/nowhere", "--config", "/nowhere/server.json")
    assert code in (2, 66) and "/nowhere/server.json" in err


def test_no_folder():
    assert run()[0] == 2
    code, _, err = run("/nowhere", "--port", "0")
    assert code == 66 and "/nowhere" in err


def test_precedence(start, config):
    """flag > environment > config file > default, each shown to win over the next."""
    path = config({"alias": "of-config", "parallel": 3, "queue": 5})
    s = start("--config", path)
    assert s.get("/v1/models").json["data"][0]["id"] == "of-config"
    assert s.metric("tnl_state_slots") == 3
    s = start("--config", path, env={"TNL_ALIAS": "of-env", "TNL_PARALLEL": "4"})
    assert s.get("/v1/models").json["data"][0]["id"] == "of-env"
    assert s.metric("tnl_state_slots") == 4
    s = start("--config", path, "--alias", "of-flag", "--parallel=2",
              env={"TNL_ALIAS": "of-env", "TNL_PARALLEL": "4"})
    assert s.get("/v1/models").json["data"][0]["id"] == "of-flag"
    assert s.metric("tnl_state_slots") == 2
    s = start(env={"TNL_CONFIG": path, "TNL_LOG_LEVEL": "debug"})
    assert s.get("/v1/models").json["data"][0]["id"] == "of-config"
    assert "environment" in s.logged() and "config file" in s.logged()


def test_example_config_is_valid():
    path = os.path.join(ROOT, "configs", "server.json")
    code, _, err = run("/nowhere", "--config", path, "--port", "0")
    assert code == 66, err


def test_port_in_use(start, model):
    s = start()
    code, _, err = run(model, "--port", str(s.port))
    assert code == 69 and str(s.port) in err


def test_json_log(start):
    s = start("--log-format", "json")
    s.get("/health", **{"X-Request-Id": 'quo"te\\'})
    for line in s.logged().splitlines():
        assert {"time", "level", "msg"} <= set(json.loads(line))


def test_curl_line(start):
    s = start()
    line = s.process.stdout.readline() + s.process.stdout.readline()
    assert b"curl" in line and str(s.port).encode() in line
    command = line.decode().split("Try:")[1].strip()
    out = subprocess.run(command, shell=True, capture_output=True, timeout=60).stdout
    assert json.loads(out.splitlines()[-1])["finish_reason"] in ("length", "eos")
