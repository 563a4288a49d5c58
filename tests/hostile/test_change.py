"""Weight files that change under a running server. A map cannot be protected from that: a file cut
short ends the process in order, with a line that names it; replacing a file is harmless; a private
copy (--load read) does not notice any of it."""

import http.client
import os
import sys

import pytest

import forge

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "http"))

from harness import Server, wait_until  # noqa: E402

FILE = "model.safetensors"
ASK = {"prompt": [5, 6, 7, 8], "max_tokens": 12, "temperature": 0, "ignore_eos": True}


@pytest.fixture
def model(tmp_path):
    """A folder whose weights span many pages, so that what is cut off was not read by chance."""
    c = forge.config(vocab_size=1024, decoder_embed_dim=64, hidden_dim=64, glu_dim=128)
    return forge.folder(tmp_path / "model", c, tokenizer=False)


@pytest.fixture
def serve(model):
    running = []

    def go(*flags):
        running.append(Server(str(model), *flags))
        return running[-1]

    yield go
    for s in running:
        s.close()


def tokens(server):
    return [t["id"] for t in server.generate(**ASK)["tokens"]]


def test_S17_truncated(serve, model):
    server = serve()
    tokens(server)
    os.truncate(model / FILE, 8)
    try:
        server.post("/generate", ASK)
    except (OSError, http.client.HTTPException):
        pass  # the process ended before it could answer
    wait_until(lambda: server.process.poll() is not None, "the server ends")
    assert server.process.returncode == 74, server.logged()
    assert FILE in server.logged().splitlines()[-1]


def test_S17_truncated_private_copy(serve, model):
    server = serve("--load", "read")
    before = tokens(server)
    os.truncate(model / FILE, 8)
    assert tokens(server) == before


def nan_in_place(path):
    """Overwrite all values with NaN through the same inode."""
    size = os.path.getsize(path)
    with open(path, "r+b") as f:
        n = int.from_bytes(f.read(8), "little")
        f.seek(8 + n)
        f.write(b"\0\0\xc0\x7f" * ((size - 8 - n) // 4))


def test_S18_overwritten_with_nan(serve, model):
    """Seen through the map: the request ends with an error, the server goes on to say so."""
    server = serve()
    tokens(server)
    nan_in_place(model / FILE)
    for _ in range(3):
        r = server.post("/generate", {**ASK, "stream": False})
        assert r.status == 500 or r.json["finish_reason"] == "error", r.body
    assert server.process.poll() is None
    assert server.get("/metrics").status == 200


def test_S18_overwritten_private_copy(serve, model):
    server = serve("--load", "read")
    before = tokens(server)
    nan_in_place(model / FILE)
    assert tokens(server) == before


@pytest.mark.parametrize("how", ["rename", "unlink"])
def test_S19_replaced(serve, model, how):
    """The old file stays alive as long as it is mapped."""
    server = serve()
    before = tokens(server)
    if how == "rename":
        forge.write(model / "new", b"rubbish")
        os.rename(model / "new", model / FILE)
    else:
        os.unlink(model / FILE)
    assert tokens(server) == before
