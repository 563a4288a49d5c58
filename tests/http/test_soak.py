"""A moment of tests/bench/soak, which runs for hours elsewhere."""

import os
import subprocess
import sys

import pytest

from conftest import SEED
from harness import BIN, ROOT


@pytest.mark.parametrize("more", [[], ["--reload"]])
def test_soak(more):
    p = subprocess.run([sys.executable, os.path.join(ROOT, "tests", "bench", "soak"), "--seconds", "3",
                        "--book", "16", "--seed", str(SEED), *more], capture_output=True, text=True,
                       timeout=300, env={**os.environ, "TNL_BIN": BIN})
    assert p.returncode == 0, p.stdout[-2000:] + p.stderr[-4000:]
    assert "held: " in p.stdout and " conversed" in p.stdout
