"""Help, version, unknown words, exit codes: the same manners everywhere."""

import re

import pytest

from conftest import has_client, has_server, has_tokenizer, needs_server

COMMANDS = ["chat", "generate", "eval", "inspect", "bench", "quantize"]
COMMANDS += ["tokenize"] if has_tokenizer() else []
COMMANDS += ["load"] if has_client() else []
COMMANDS += ["serve"] if has_server() else []


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_main_help(tnl, word):
    out = tnl(word).out
    for command in COMMANDS:
        assert re.search(r"^  %s " % command, out, re.M), command
    for code in ("0 ", "2 ", "65", "66", "69", "70", "71", "74", "75", "78"):
        assert re.search(r"\b%s\b" % code.strip(), out), code
    assert len(out.splitlines()) <= 40


def test_version(tnl):
    line = tnl("--version").out
    assert re.fullmatch(r"tnl \d+\.\d+\.\d+\n", line)
    for command in COMMANDS:
        assert tnl(command, "--version").out == line


@pytest.mark.parametrize("command", COMMANDS)
def test_command_help(tnl, command):
    r = tnl(command, "--help")
    assert r.out.startswith("usage: tnl %s " % command) and r.err == ""
    assert "--help" in r.out and "--version" in r.out and "Exit codes:" in r.out
    assert max(map(len, r.out.splitlines())) <= 100
    assert tnl(command, "-h").out == r.out
    assert tnl(command, "--no-such-option", "--help").out == r.out


def test_nothing_to_do(tnl):
    r = tnl(code=2)
    assert r.out == "" and "usage: tnl COMMAND" in r.err


@pytest.mark.parametrize("word, near", [("generte", "generate"), ("sevre", "serve"),
                                        ("tokenise", "tokenize")])
def test_unknown_command(tnl, word, near):
    r = tnl(word, code=2)
    assert 'did you mean "%s"?' % near in r.err and r.out == ""


def test_unknown_main_option(tnl):
    assert 'unknown option "--verbose"' in tnl("--verbose", code=2).err


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "load"])  # it computes nothing
@pytest.mark.parametrize("option", ["--thraeds", "--thraeds=2", "-Z", "--zzzzzzzzzzzz"])
def test_unknown_option(tnl, command, option):
    r = tnl(command, "somewhere", option, code=2)
    assert r.err.startswith("tnl %s: unknown option %s" % (command, option.split("=")[0]))
    assert "Try 'tnl %s --help'." % command in r.err and r.out == ""
    if "thraeds" in option and command != "tokenize":
        assert "did you mean --threads?" in r.err


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_operand(tnl, command):
    assert tnl(command, code=2).err.startswith("tnl %s: " % command)


@pytest.mark.parametrize("command, args", [("inspect", []), ("generate", ["--tokens", "1"]),
                                           ("bench", ["--machine-seconds", "0.01"])])
def test_no_such_folder(tnl, tmp_path, command, args):
    r = tnl(command, tmp_path / "nothing", *args, code=66)
    assert len(r.err.splitlines()) == 1 and "nothing" in r.err


def test_a_full_disk_is_an_error(tnl, model):
    import subprocess
    from conftest import BIN
    with open("/dev/full", "wb") as full:
        p = subprocess.run([BIN, "inspect", str(model)], stdout=full, stderr=subprocess.PIPE)
    assert p.returncode == 74 and b"cannot write standard output" in p.stderr


def test_unknown_instruction_set(tnl, bare):
    r = tnl("inspect", bare, env={"TNL_CPU": "mmx"}, code=None)
    assert r.code in (2, 78) and "mmx" in r.err


class TestPrecedence:
    """Flag over environment over default, seen through inspect; the config file is serve's."""

    def weights(self, tnl, bare, *args, **env):
        return tnl("inspect", bare, "--json", *args, env=env).json["weights"]

    def test_default(self, tnl, bare):
        assert self.weights(tnl, bare) == "bf16"

    def test_environment(self, tnl, bare):
        assert self.weights(tnl, bare, TNL_WEIGHTS="f32") == "f32"

    def test_flag_wins(self, tnl, bare):
        assert self.weights(tnl, bare, "--weights", "bf16", TNL_WEIGHTS="f32") == "bf16"

    def test_bad_environment(self, tnl, bare):
        r = tnl("inspect", bare, env={"TNL_WEIGHTS": "f31"}, code=2)
        assert "TNL_WEIGHTS" in r.err and "auto, f32, bf16" in r.err


@needs_server
class TestServeConfig:
    """serve reads a file too. A port that is in use stops it before it serves anything."""

    @pytest.mark.parametrize("text, words", [
        ('{"prot": 1}', 'did you mean "port"?'),
        ('{"port": "1"}', "expected a number"),
        ('{"port": 70000}', "out of range"),
        ('{"port": 1, "port": 2}', "duplicate"),
        ('{"port": 1', "config.json"),
        ('[]', "JSON object"),
        ('{"weights": "f31"}', "auto, f32, bf16"),
    ])
    def test_bad_file(self, tnl, bare, tmp_path, text, words):
        path = tmp_path / "config.json"
        path.write_text(text)
        r = tnl("serve", bare, "--config", path, code=None)
        assert r.code in (2, 65) and words in r.err, r.err

    def test_the_environment_can_name_it(self, tnl, bare, tmp_path):
        path = tmp_path / "config.json"
        path.write_text('{"prot": 1}')
        assert "prot" in tnl("serve", bare, env={"TNL_CONFIG": str(path)}, code=2).err
        assert tnl("serve", bare, "--config", tmp_path / "none", code=66).err
