"""The proxies of configs/ as they are shipped, but for addresses, in front of two real servers."""

import importlib.util
import os
import shutil
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
SPEC = importlib.util.spec_from_file_location(
    "http_conftest", os.path.join(HERE, "..", "http", "conftest.py"))
SHARED = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(SHARED)
sys.path.insert(0, HERE)

from harness import wait_until  # noqa: E402
from proxies import KINDS, Pair, Proxy  # noqa: E402

model = SHARED.model
start = SHARED.start
pytest_report_header = SHARED.pytest_report_header


@pytest.fixture(scope="session")
def shared_pair(model):
    p = Pair(model)
    yield p
    for s in p.servers:
        s.close()


@pytest.fixture
def pair(shared_pair):
    """The two servers; afterwards they must be as if nothing had happened."""
    shared_pair.wait_running(0)
    yield shared_pair
    for s in shared_pair.servers:
        wait_until(lambda: s.metric("tnl_requests_running") == 0, "nothing runs")
        assert s.control() == s.golden
        s.no_report()


@pytest.fixture(scope="session", params=list(KINDS))
def kind(request):
    if not shutil.which(KINDS[request.param][1][0]):
        pytest.skip(request.param + " is not installed")
    return request.param


@pytest.fixture(scope="session")
def shared_proxy(kind, shared_pair, tmp_path_factory):
    p = Proxy(kind, tmp_path_factory.mktemp(kind),
              ["127.0.0.1:%d" % s.port for s in shared_pair.servers])
    yield p
    p.close()


@pytest.fixture
def proxy(shared_proxy, pair):
    return shared_proxy


@pytest.fixture
def proxy_to(kind, tmp_path):
    """proxy_to(upstream, upstream, base=""): a proxy of one's own in front of these addresses."""
    running = []

    def go(*upstreams, base=""):
        running.append(Proxy(kind, tmp_path, upstreams, base))
        return running[-1]

    yield go
    for p in running:
        p.close()
