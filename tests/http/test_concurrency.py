"""The bytes of an answer depend on the request alone: alone, in a crowd, in any form."""

from harness import SCALE, together


def strip(lines):
    lines[-1].pop("timings")
    return lines


def requests(rng):
    """Sixteen requests of mixed lengths and settings."""
    out = []
    for i in range(16):
        n = rng.choice([1, 7, 63, 64, 65, 200, 255, 256, 257, 600])
        out.append({"prompt": [rng.randrange(3, 700) for _ in range(n)],
                    "max_tokens": rng.choice([8, 40, 200, 600]), "seed": i, "ignore_eos": True,
                    "temperature": rng.choice([0, 0.7, 1, 1.5]), "top_p": rng.choice([1, 0.9]),
                    "top_k": rng.choice([0, 40]), "min_p": rng.choice([0, 0.05]),
                    "repetition_penalty": rng.choice([1, 1.2]), "logprobs": rng.choice([0, 4]),
                    "frequency_penalty": rng.choice([0, 0.5]), "echo": rng.random() < 0.3})
    return out


def test_alone_and_in_a_crowd(server, rng):
    asks = requests(rng)
    alone = [strip(server.post("/generate", a).lines) for a in asks]
    for _ in range(3):
        order = rng.sample(range(16), 16)
        crowd = together([lambda i=i: strip(server.post("/generate", asks[i]).lines)
                          for i in order])
        for i, got in zip(order, crowd):
            assert got == alone[i], asks[i]


def test_same_request_sixteen_times(server, rng):
    ask = {**requests(rng)[3], "max_tokens": 512}
    want = strip(server.post("/generate", ask).lines)
    for got in together([lambda: strip(server.post("/generate", ask).lines)] * 16):
        assert got == want


def test_beside_a_long_prompt(server):
    """A long prompt is read in slices beside running streams, and changes none of them."""
    long = {"prompt": [3 + i % 600 for i in range(200000 // SCALE)], "max_tokens": 2, "seed": 1}
    both = together([lambda: server.post("/generate", long).lines[-1]["usage"]["prompt_tokens"]] +
                    [server.control] * 8)
    assert both[0] == len(long["prompt"]) and all(x == server.golden for x in both[1:])


def test_step_size_and_threads_change_nothing(server, start, rng):
    asks = requests(rng)[:6]
    want = [strip(server.post("/generate", a).lines) for a in asks]
    for flags in [("--step-tokens", "16"), ("--threads", "2"), ("--parallel", "1")]:
        s = start(*flags)
        assert [strip(s.post("/generate", a).lines) for a in asks] == want
        s.settled()
