"""Other people's clients against the real binary. scripts/test installs them, at the versions of
requirements.txt, into a virtual environment of their own. The fixtures are those of tests/http."""

import importlib.util
import os

HERE = os.path.dirname(os.path.abspath(__file__))
SPEC = importlib.util.spec_from_file_location(
    "http_conftest", os.path.join(HERE, "..", "http", "conftest.py"))
SHARED = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(SHARED)

model = SHARED.model
model_ids = SHARED.model_ids
rng = SHARED.rng
server = SHARED.server
shared = SHARED.shared
start = SHARED.start
pytest_report_header = SHARED.pytest_report_header
