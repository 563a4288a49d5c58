"""Runs the real binary on a folder and holds every refusal to the same contract: a documented exit
code, exactly one line on stderr that names what it is about, no signal, no sanitizer report, no
hang. TNL_BIN names the binary (default build/tnl)."""

import os
import re
import resource
import subprocess

import pytest

import forge

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
BIN = os.path.abspath(os.environ.get("TNL_BIN", os.path.join(ROOT, "build", "tnl")))
HANG_SECONDS = 120  # a guard against hanging, not a measurement
REFUSALS = {65, 66, 74, 78}  # malformed data, cannot open, input/output, not supported
MEMORY = 2 << 30


def sanitized():
    with open(BIN, "rb") as f:
        return b"__asan_init" in f.read()


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


class Tnl:
    """The binary under test."""

    def __init__(self):
        # shadow memory is terabytes of address space: no limit under ASan
        self.limit = None if sanitized() else limit_memory

    def run(self, *args, stdin=subprocess.DEVNULL):
        p = subprocess.run([BIN, *map(str, args)], stdin=stdin, capture_output=True,
                           timeout=HANG_SECONDS, preexec_fn=self.limit,
                           env={**os.environ, "TNL_THREADS": "1"})
        err = p.stderr.decode("utf-8", "replace")
        assert p.returncode >= 0, "killed by signal %d: %s" % (-p.returncode, err)
        assert "Sanitizer" not in err and "runtime error" not in err, err
        return p.returncode, p.stdout.decode("utf-8", "replace"), err

    def accepts(self, folder, *words):
        """`tnl inspect` succeeds; `words` are in what it prints. Returns stderr."""
        code, out, err = self.run("inspect", folder)
        assert code == 0, err
        for w in words:
            assert w in out + err, (w, out, err)
        return err

    def refuses(self, folder, *words, command="inspect", args=(), codes=REFUSALS):
        """One line on stderr with all of `words` (a tuple is a choice); returns the line."""
        code, out, err = self.run(command, folder, *args)
        assert code in codes, "exit %d: %s%s" % (code, out[-300:], err)
        lines = err.splitlines()
        assert len(lines) == 1 and err.endswith("\n"), err
        assert re.search(r"[\x00-\x08\x0b-\x1f\x7f]", err[:-1]) is None, repr(err)
        for w in words:
            choice = w if isinstance(w, tuple) else (w,)
            assert any(x in err for x in choice), "%r not in: %s" % (w, err)
        print(err, end="")
        return err


@pytest.fixture(scope="session")
def tnl():
    if not os.path.exists(BIN):
        pytest.fail("no binary at %s (set TNL_BIN)" % BIN)
    return Tnl()


@pytest.fixture(scope="session")
def sound():
    """A sound config and its tensors, to be copied and bent."""
    c = forge.config()
    return c, forge.tensors(c)
