"""text-generation-inference's interface. Hugging Face's client is in tests/clients."""

import json

import pytest

TEXT = "Once upon a time"
WORDS = {str(i): -100 for i in range(3, 259)}


def ask(server, path="/generate", **parameters):
    r = server.post(path, {"inputs": TEXT, "parameters": {"max_new_tokens": 6, **parameters}})
    assert r.status == 200, r.body
    return r.json


def events(r):
    assert r.status == 200 and r.headers["content-type"].startswith("text/event-stream")
    assert r.headers["x-accel-buffering"] == "no" and b"[DONE]" not in r.body
    return r.events


def test_answer(server):
    got = ask(server)
    want = server.generate(prompt=TEXT, max_tokens=6, temperature=0)
    assert got == {"generated_text": want["text"]}
    assert ask(server, path="/") == [got]
    assert ask(server, return_full_text=True)["generated_text"] == TEXT + want["text"]


def test_prompt_and_inputs_choose_the_dialect(server):
    ours = server.post("/generate", {"prompt": TEXT, "max_tokens": 1, "stream": False}).json
    assert "text" in ours
    r = server.post("/generate", {"prompt": TEXT, "inputs": TEXT})
    assert (r.status, r.code) == (400, "unsupported_parameter")


def test_details(server):
    got = ask(server, details=True, decoder_input_details=True, top_n_tokens=3, seed=9,
              do_sample=True)
    d = got["details"]
    assert set(d) == {"finish_reason", "generated_tokens", "seed", "prefill", "tokens",
                      "top_tokens"}
    assert (d["finish_reason"], d["generated_tokens"], d["seed"]) == ("length", 6, 9)
    ids = server.post("/tokenize", {"text": TEXT}).json["tokens"]
    assert [t["id"] for t in d["prefill"]] == ids and d["prefill"][0]["logprob"] is None
    assert all(set(t) == {"id", "text", "logprob", "special"} for t in d["tokens"])
    assert all(len(top) == 3 for top in d["top_tokens"])
    again = ask(server, seed=9, do_sample=True)
    assert again["generated_text"] == got["generated_text"]


def test_sampling_switch(server):
    """Without parameters: sampling. With them: greedy, unless one of them asks for it."""
    greedy = ask(server)["generated_text"]
    assert ask(server, details=True)["details"]["seed"] is None
    for sampler in [{"do_sample": True}, {"temperature": 1.0}, {"top_k": 50}, {"top_p": 0.9},
                    {"typical_p": 0.9}]:
        assert ask(server, details=True, **sampler)["details"]["seed"] is not None
    texts = {server.post("/generate", {"inputs": TEXT}).json["generated_text"] for _ in range(3)}
    assert len(texts) == 3
    assert ask(server, top_k=1)["generated_text"] == greedy


def test_seed_comes_back_usable(server):
    first = ask(server, details=True, do_sample=True)
    again = ask(server, do_sample=True, seed=first["details"]["seed"])
    assert again["generated_text"] == first["generated_text"]


def test_best_of(server):
    got = ask(server, best_of=3, do_sample=True, seed=4, details=True)
    singles = [ask(server, do_sample=True, seed=4 + k, details=True) for k in range(3)]
    singles.sort(key=lambda s: -sum(t["logprob"] for t in s["details"]["tokens"]))
    texts = [got["generated_text"]] + [x["generated_text"]
                                       for x in got["details"]["best_of_sequences"]]
    assert texts == [s["generated_text"] for s in singles]


def test_truncate_keeps_the_end(server):
    ids = server.post("/tokenize", {"text": TEXT}).json["tokens"]
    want = server.generate(prompt=ids[-2:], max_tokens=6, temperature=0)["text"]
    assert ask(server, truncate=2)["generated_text"] == want
    assert ask(server, truncate=2000) == ask(server)


@pytest.mark.parametrize("path,fields", [("/generate_stream", {}), ("/generate", {"stream": True}),
                                         ("/", {"stream": True})])
@pytest.mark.parametrize("stop", [[], ["never this"]])
def test_stream(server, path, fields, stop):
    parameters = {"max_new_tokens": 6, "details": True, "top_n_tokens": 2, "stop": stop}
    got = events(server.post(path, {"inputs": TEXT, "parameters": parameters, **fields}))
    whole = ask(server, details=True, top_n_tokens=2)
    assert [e["index"] for e in got] == [1, 2, 3, 4, 5, 6]
    assert [e["token"] for e in got] == whole["details"]["tokens"]
    assert [e["top_tokens"] for e in got] == whole["details"]["top_tokens"]
    assert all(e["generated_text"] is None and e["details"] is None for e in got[:-1])
    assert got[-1]["generated_text"] == whole["generated_text"]
    n = len(server.post("/tokenize", {"text": TEXT}).json["tokens"])
    assert got[-1]["details"] == {"finish_reason": "length", "generated_tokens": 6, "seed": None,
                                  "input_length": n}


def test_stop(server):
    text = ask(server, max_new_tokens=40)["generated_text"]
    stop = text[6:9]
    got = ask(server, max_new_tokens=40, stop=[stop], details=True)
    assert got["details"]["finish_reason"] == "stop_sequence"
    assert got["generated_text"] == text[:text.index(stop)]
    r = server.post("/generate_stream", {"inputs": TEXT, "parameters": {
        "max_new_tokens": 40, "stop": [stop], "details": True}})
    last = events(r)[-1]
    assert last["generated_text"] == got["generated_text"]
    assert last["details"]["finish_reason"] == "stop_sequence"


@pytest.mark.parametrize("fields,parameters,word", [
    ({"inputs": ""}, {}, "inputs"), ({"inputs": 1}, {}, "inputs"),
    ({"inputs": [1]}, {}, "inputs"), ({"other": 1}, {}, "other"),
    ({"parameters": 1}, {}, "parameters"),
    ({}, {"temperature": 0}, "temperature"), ({}, {"top_k": 0}, "top_k"),
    ({}, {"top_p": 0}, "top_p"), ({}, {"max_new_tokens": 0}, "max_new_tokens"),
    ({}, {"repetition_penalty": 0}, "repetition_penalty"), ({}, {"best_of": 99}, "best_of"),
    ({}, {"watermark": True}, "watermark"), ({}, {"adapter_id": "x"}, "adapter_id"),
    ({}, {"decoder_input_details": True}, "decoder_input_details"),
    ({}, {"stop": "x"}, "stop"), ({}, {"max_tokens": 1}, "max_tokens"),
    ({}, {"top_n_tokens": 6}, "top_n_tokens"), ({}, {"seed": -1}, "seed"),
    ({"stream": True}, {"best_of": 2}, "best_of"),
])
def test_refused(server, fields, parameters, word):
    steps = server.metric("tnl_engine_steps_total")
    r = server.post("/generate", {"inputs": TEXT, "parameters": parameters, **fields})
    assert r.status == 422, r.body
    assert set(r.json) == {"error", "error_type"} and r.json["error_type"] == "validation"
    assert word in r.json["error"]
    assert server.metric("tnl_engine_steps_total") == steps


def test_other_refusals(start):
    s = start("--parallel", "1", "--queue", "0")
    r = s.post("/generate_stream", "{")
    assert (r.status, r.json["error_type"]) == (400, "validation")
    with s.begin({"prompt": [5], "max_tokens": 10 ** 6, "ignore_eos": True}) as c:
        c.until(b"index")
        r = s.post("/generate_stream", {"inputs": TEXT})
        assert (r.status, r.json["error_type"]) == (503, "overloaded")
        assert "retry-after" in r.headers
    s.settled()


def test_info(server):
    got = server.get("/info").json
    assert set(got) == {
        "model_id", "model_sha", "model_pipeline_tag", "max_concurrent_requests", "max_best_of",
        "max_stop_sequences", "max_input_tokens", "max_total_tokens", "validation_workers",
        "max_client_batch_size", "router", "version", "sha", "docker_label"}
    assert got["model_id"] == "tiny"
