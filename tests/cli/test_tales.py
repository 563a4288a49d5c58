"""The bundled model: what its card says must be what the binary measures."""

import json
import lzma
import re
from pathlib import Path

import pytest

from conftest import needs_tokenizer

ROOT = Path(__file__).resolve().parents[2]
TALES = ROOT / "configs" / "tales"


def card_figures():
    """(tokens, nats, perplexity, bits per byte) from the card's table."""
    card = (TALES / "README.md").read_text()
    row = re.search(r"^\| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", card, re.M)
    assert row, "the card has no row of validation figures"
    return [float(x.replace(",", "")) for x in row.groups()]


@needs_tokenizer
def test_eval_agrees_with_the_training_script(tnl, tmp_path):
    text = tmp_path / "valid.txt"
    text.write_bytes(lzma.open(ROOT / "tests" / "data" / "tales-valid.txt.xz").read())
    got = tnl("eval", TALES, text, "--json").json
    tokens, nats, perplexity, bits_per_byte = card_figures()
    assert got["predicted"] == tokens
    assert got["nll"] / got["predicted"] == pytest.approx(nats, rel=0.01)
    assert got["perplexity"] == pytest.approx(perplexity, rel=0.01)
    assert got["bits_per_byte"] == pytest.approx(bits_per_byte, rel=0.01)


def test_folder_is_small_enough():
    assert sum(f.stat().st_size for f in TALES.iterdir()) <= 24_000_000
