"""Guessed tokens and known prefixes: they change no answer, and they are counted."""

import random

TEXT = random.Random(5).choices(range(3, 200), k=130)  # whole blocks, whatever their length, up to 128


def answer(server, prompt, **fields):
    a = server.generate(**{"prompt": prompt, "max_tokens": 40, "seed": 3, "logprobs": 2,
                           "ignore_eos": True, **fields})
    return a["text"], a["tokens"], a["finish_reason"]


def test_guesses_change_nothing(server):
    for fields in [{"temperature": 0}, {"temperature": 0.3}, {"repetition_penalty": 1.5}, {}]:
        plain = answer(server, TEXT[:20] * 3, speculate=0, cache_prompt=False, **fields)
        for n in (None, 1, 64):
            assert answer(server, TEXT[:20] * 3, speculate=n, **fields) == plain


def test_guesses_come_true(start):
    s = start("--speculate", "15", "--parallel", "1")
    names = ["tnl_spec_decode_num_draft_tokens_total", "tnl_spec_decode_num_accepted_tokens_total"]
    # one token over and over: the easiest text to guess
    fields = {"logit_bias": {"9": 100}, "max_tokens": 300, "temperature": 0}
    plain = answer(s, [5, 6], speculate=0, **fields)
    assert [s.metric(n) for n in names] == [0, 0]
    steps = s.metric("tnl_engine_steps_total")
    assert answer(s, [5, 6], **fields) == plain
    drafted, accepted = (s.metric(n) for n in names)
    assert 0 < accepted <= drafted
    assert s.metric("tnl_engine_steps_total") - steps == 300 - accepted


def test_no_guesses_without_the_option(start):
    s = start("--speculate", "0")
    answer(s, [5, 6], speculate=15, logit_bias={"9": 100}, max_tokens=100, temperature=0)
    assert s.metric("tnl_spec_decode_num_draft_tokens_total") == 0


def test_known_prefixes_change_nothing(server):
    plain = answer(server, TEXT, cache_prompt=False)
    for _ in range(3):
        assert answer(server, TEXT) == plain
    for n in range(1, 130, 7):
        plain = answer(server, TEXT[:n] + [7], cache_prompt=False)
        assert answer(server, TEXT[:n] + [7]) == plain


def test_known_prefixes_are_counted(start):
    s = start("--prefix-cache-mb", "64")

    def cached(prompt, **fields):
        return s.generate(prompt=prompt, max_tokens=1, temperature=0, **fields)["timings"][
            "cached_tokens"]

    names = ["tnl_prefix_cache_queries_total", "tnl_prefix_cache_hits_total",
             "tnl_prefix_cache_tokens_total", "tnl_prompt_tokens_total"]
    before = [s.metric(n) for n in names]
    assert cached(TEXT) == 0
    assert cached(TEXT + [9, 9]) == 128
    assert cached(TEXT + [9, 9], cache_prompt=False) == 0
    assert [s.metric(n) - b for n, b in zip(names, before)] == [2, 1, 128, 130 + 4 + 132]
    assert 0 < s.metric("tnl_prefix_cache_bytes") <= s.metric("tnl_prefix_cache_limit_bytes")
    assert s.metric("tnl_prefix_cache_states") >= 1


def test_openai_usage_says_what_was_cached(start):
    s = start()
    body = {"prompt": TEXT, "max_tokens": 2, "temperature": 0}
    seen = []
    for _ in range(2):
        r = s.post("/v1/completions", body)
        assert r.status == 200, r.body
        seen.append(r.json["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert seen == [0, 128]


def test_no_cache_without_room(start):
    s = start("--prefix-cache-mb", "0")
    for _ in range(2):
        assert s.generate(prompt=TEXT, max_tokens=1)["timings"]["cached_tokens"] == 0
    assert s.metric("tnl_prefix_cache_queries_total") == 0
