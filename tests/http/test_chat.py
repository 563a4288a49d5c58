"""POST /v1/chat/completions and its templates."""

import hashlib
import json
import os
import shutil
import subprocess

import pytest

from harness import BIN, clean_env
from test_openai import chunks, spent

BASE = {"max_tokens": 8, "seed": 5, "ignore_eos": True}
TALK = [("system", "Be brief."), ("user", " Hello. "), ("assistant", "Hi."), ("user", "Who?")]
EOS = 2


def talk(*pairs):
    return [{"role": r, "content": c} for r, c in pairs]


def ask(server, messages, **fields):
    r = server.post("/v1/chat/completions", {**BASE, "messages": messages, **fields})
    assert r.status == 200, r.body
    return r.json


def ids_of(server, parts):
    """Text through the tokenizer, numbers as they are."""
    ids = []
    for p in parts:
        ids += [p] if isinstance(p, int) else server.post("/tokenize", {"text": p}).json["tokens"]
    return ids


RENDERED = {  # of TALK; 1 and 2 are the ids of <s> and </s>
    "plain": ["Be brief.\n\n Hello. \n\nHi.\n\nWho?"],
    "transnormer": ["Be brief.\nHuman:\n Hello. \nAssistant:\nHi.", EOS,
                    "Human:\nWho?\nAssistant:\n"],
    "chatml": ["<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hello. <|im_end|>\n"
               "<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
               "<|im_start|>assistant\n"],
    "llama-2": [1, "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello. [/INST] Hi. ", EOS, 1,
                "[INST] Who? [/INST]"],
    "llama-3": [1, "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nHello.<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\nHi.<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n"],
    "zephyr": ["<|system|>\nBe brief.", EOS, "\n<|user|>\n Hello. ", EOS, "\n<|assistant|>\nHi.",
               EOS, "\n<|user|>\nWho?", EOS, "\n<|assistant|>\n"],
    "vicuna": ["Be brief.\n\nUSER:  Hello. \nASSISTANT: Hi.", EOS, "\nUSER: Who?\nASSISTANT:"],
    "alpaca": ["Be brief.\n\n### Instruction:\n Hello. \n\n### Response:\nHi.", EOS,
               "\n\n### Instruction:\nWho?\n\n### Response:\n"],
}


@pytest.mark.parametrize("name", sorted(RENDERED))
def test_template(start, name):
    """A conversation gives what its rendering gives as a prompt of ids."""
    s = start("--chat-template", name)
    assert s.get("/v1/models").json["data"][0]["meta"]["chat_template"] == name
    ids = ids_of(s, RENDERED[name])
    got = ask(s, talk(*TALK))
    want = s.post("/v1/completions", {**BASE, "prompt": ids}).json
    assert got["usage"]["prompt_tokens"] == len(ids)
    assert got["choices"][0]["message"]["content"] == want["choices"][0]["text"]


def test_answer(server):
    got = ask(server, talk(("user", "Once upon")), n=2)
    assert got["object"] == "chat.completion" and got["id"].startswith("chatcmpl-")
    assert [c["index"] for c in got["choices"]] == [0, 1]
    for c in got["choices"]:
        assert set(c) == {"index", "message", "logprobs", "finish_reason"}
        assert c["message"]["role"] == "assistant" and c["message"]["refusal"] is None
    assert got["usage"]["completion_tokens"] == 16


def test_stream(server):
    messages = talk(("user", "Once upon"))
    whole = ask(server, messages, n=2)
    r = server.post("/v1/chat/completions", {
        **BASE, "messages": messages, "n": 2, "stream": True,
        "stream_options": {"include_usage": True}})
    *got, usage = chunks(r)
    assert usage["choices"] == [] and spent(usage) == spent(whole)
    for k in range(2):
        mine = [c["choices"][0] for c in got if c["choices"][0]["index"] == k]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert all(set(c["delta"]) == {"content"} for c in mine[1:-1])
        assert mine[-1]["delta"] == {} and mine[-1]["finish_reason"] == "length"
        text = "".join(c["delta"].get("content", "") for c in mine)
        assert text == whole["choices"][k]["message"]["content"]


def test_logprobs(server):
    messages = talk(("user", "Once upon"))
    content = ask(server, messages, logprobs=True,
                  top_logprobs=4)["choices"][0]["logprobs"]["content"]
    assert len(content) == 8
    for t in content:
        assert set(t) == {"token", "logprob", "bytes", "top_logprobs"}
        assert len(t["top_logprobs"]) == 4
        assert t["bytes"] is None or bytes(t["bytes"]).decode("utf-8", "replace") == t["token"]
    r = server.post("/v1/chat/completions", {**BASE, "messages": messages, "logprobs": True,
                                             "top_logprobs": 4, "stream": True})
    streamed = [c["choices"][0]["logprobs"] for c in chunks(r)]
    assert [t for lp in streamed if lp for t in lp["content"]] == content
    bare = ask(server, messages, logprobs=True)["choices"][0]["logprobs"]["content"]
    assert all(t["top_logprobs"] == [] for t in bare)


def test_forms_of_content(server):
    want = ask(server, talk(("user", "ab")))["choices"][0]["message"]["content"]
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    for message in [{"role": "user", "content": parts},
                    {"role": "user", "content": "ab", "name": "n", "tool_calls": []},
                    {"role": "developer", "content": "ab"}]:
        assert ask(server, [message])["choices"][0]["message"]["content"] == want


def test_one_limit_by_two_names(server):
    messages = talk(("user", "a"))
    got = server.post("/v1/chat/completions", {"messages": messages, "max_completion_tokens": 3,
                                               "ignore_eos": True})
    assert got.json["usage"]["completion_tokens"] == 3
    ask(server, messages, max_completion_tokens=8)
    r = server.post("/v1/chat/completions", {**BASE, "messages": messages,
                                             "max_completion_tokens": 9})
    assert (r.status, r.code) == (400, "conflict")


def test_neutral_values(server):
    ask(server, talk(("user", "a")), tools=[], tool_choice="none", modalities=["text"],
        store=False, service_tier="auto", metadata={"a": "b"}, parallel_tool_calls=True,
        response_format={"type": "text"}, functions=None)


USER = talk(("user", "a"))


@pytest.mark.parametrize("fields,code,param", [
    ({"messages": None}, "missing_parameter", "messages"),
    ({"messages": []}, "prompt_empty", "messages"),
    ({"messages": [""]}, "invalid_type", "messages"),
    ({"messages": "a"}, "invalid_type", "messages"),
    ({"messages": [{"role": "user"}]}, "missing_parameter", "messages"),
    ({"messages": [{"role": "robot", "content": "a"}]}, "unsupported_parameter", "messages"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "unsupported_parameter", "messages"),
    ({"messages": [{"role": "user", "content": 1}]}, "invalid_type", "messages"),
    ({"messages": [{"role": "user", "content": []}]}, "invalid_type", "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
     "unsupported_parameter", "messages"),
    ({"messages": [{"role": "user", "content": "a", "x": 1}]}, "unsupported_parameter",
     "messages"),
    ({"messages": USER * 1025}, "out_of_range", "messages"),
    ({"top_logprobs": 2}, "conflict", "top_logprobs"),
    ({"prompt": "a"}, "unsupported_parameter", "prompt"),
    ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools"),
    ({"tool_choice": "required"}, "unsupported_parameter", "tool_choice"),
    ({"modalities": ["text", "audio"]}, "unsupported_parameter", "modalities"),
    ({"store": True}, "unsupported_parameter", "store"),
])
def test_refused(server, fields, code, param):
    r = server.post("/v1/chat/completions", {**BASE, "messages": USER, **fields})
    assert (r.status, r.code, r.param) == (400, code, param), r.body


def test_a_template_says_what_it_cannot_express(start):
    s = start("--chat-template", "llama-2")
    for pairs in [[("user", "a"), ("user", "b")], [("assistant", "a")], [("system", "a")],
                  [("user", "a"), ("assistant", "b")], [("user", "a"), ("system", "b")]]:
        r = s.post("/v1/chat/completions", {"messages": talk(*pairs)})
        assert (r.status, r.code, r.param) == (400, "template", "messages"), r.body


def test_without_tokenizer(start, model_ids):
    s = start(folder=model_ids)
    r = s.post("/v1/chat/completions", {"messages": USER})
    assert (r.status, r.code) == (400, "no_tokenizer")
    got = s.post("/v1/completions", {"prompt": [1, 2], "max_tokens": 2, "logprobs": 1,
                                     "ignore_eos": True}).json["choices"][0]
    assert got["text"] == "" and all(t.startswith("token_id:") for t in got["logprobs"]["tokens"])


# ---- which template a folder asks for

CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
          "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
          "{{ '<|im_start|>assistant\n' }}{% endif %}")


def folder_with(tmp_path, model, config):
    folder = tmp_path / "with"
    shutil.copytree(model, folder)
    (folder / "tokenizer_config.json").write_text(
        config if isinstance(config, str) else json.dumps(config))
    return str(folder)


@pytest.mark.parametrize("config,name", [
    ({}, "plain"), ({"chat_template": None}, "plain"), ({"chat_template": CHATML}, "chatml"),
    ({"chat_template": CHATML.replace("\n", "\\n")}, "chatml"),
    ({"chat_template": [{"name": "tool_use", "template": "x"},
                        {"name": "default", "template": CHATML}]}, "chatml")])
def test_recognised(start, tmp_path, model, config, name):
    s = start(folder=folder_with(tmp_path, model, config))
    assert s.get("/v1/models").json["data"][0]["meta"]["chat_template"] == name


@pytest.mark.parametrize("config", [
    {"chat_template": CHATML + " "}, {"chat_template": ""}, {"chat_template": 7},
    {"chat_template": []}, '{"chat_template": "a', '{"a": 1, "a": 2}'])
def test_unknown_template_is_an_error(start, tmp_path, model, config):
    """Never a guess: the server does not start, and says which option decides."""
    folder = folder_with(tmp_path, model, config)
    p = subprocess.run([BIN, "serve", folder, "--port", "0"], capture_output=True, timeout=60,
                       env=clean_env(), text=True)
    assert p.returncode == 65 and len(p.stderr.splitlines()) == 1
    assert "tokenizer_config.json" in p.stderr
    if isinstance(config, str):
        return  # not JSON: no option helps
    assert "--chat-template" in p.stderr
    s = start("--chat-template", "plain", folder=folder)
    assert s.get("/v1/models").json["data"][0]["meta"]["chat_template"] == "plain"


def test_unknown_name(model):
    p = subprocess.run([BIN, "serve", model, "--chat-template", "nope"], capture_output=True,
                       timeout=60, env=clean_env(), text=True)
    assert p.returncode == 2
    for name in RENDERED:
        assert name in p.stderr


def test_digests_are_of_the_texts():
    with open(os.path.join(os.path.dirname(__file__), "..", "..", "server", "http",
                           "api", "chat_template.c"), encoding="utf-8") as f:
        source = f.read()
    assert hashlib.sha256(CHATML.encode()).hexdigest() in source


# ---- sessions: only what is new is sent

REST = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
LLAMA3 = ("<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>"
          "<|start_header_id|>assistant<|end_header_id|>\n\n")
AFTER = {  # behind an answer that was cut off by its length; by the end-of-text token
    "plain": (["\n\nWho?"], ["\n\nWho?"]),
    "transnormer": ([EOS, "Human:\nWho?\nAssistant:\n"], ["Human:\nWho?\nAssistant:\n"]),
    "chatml": (["<|im_end|>\n" + REST], ["<|im_end|>\n" + REST]),
    "llama-2": ([" ", EOS, 1, "[INST] Who? [/INST]"], [1, "[INST] Who? [/INST]"]),
    "llama-3": (["<|eot_id|>" + LLAMA3], ["<|eot_id|>" + LLAMA3]),
    "zephyr": ([EOS, "\n<|user|>\nWho?", EOS, "\n<|assistant|>\n"],
               ["\n<|user|>\nWho?", EOS, "\n<|assistant|>\n"]),
    "vicuna": ([EOS, "\nUSER: Who?\nASSISTANT:"], ["\nUSER: Who?\nASSISTANT:"]),
    "alpaca": ([EOS, "\n\n### Instruction:\nWho?\n\n### Response:\n"],
               ["\n\n### Instruction:\nWho?\n\n### Response:\n"]),
}
STOPPED = {  # behind an answer that wrote the stop string out
    "chatml": ("<|im_end|>", ["\n" + REST]), "llama-3": ("<|eot_id|>", [LLAMA3]),
    "alpaca": ("### Instruction:", ["\nWho?\n\n### Response:\n"]),
}


def second_turn(s, first, want):
    """The text so far, the parts that are wanted behind it, and the answer they give."""
    sid = first["session_id"]
    past = s.get("/sessions/" + sid).json["tokens"]
    ids = past + ids_of(s, want)
    got = ask(s, talk(("user", "Who?")), session_id=sid)
    cold = s.post("/v1/completions", {**BASE, "prompt": ids, "cache_prompt": False}).json
    assert s.get("/sessions/" + sid).json["tokens"][:len(ids)] == ids
    assert got["choices"][0]["message"]["content"] == cold["choices"][0]["text"]
    assert got["usage"]["prompt_tokens"] == len(ids)
    assert got["session_tokens"] == len(ids) + 8


@pytest.mark.parametrize("name", sorted(AFTER))
def test_session(start, name):
    s = start("--chat-template", name)
    begin = talk(*TALK[:2])
    whole = ask(s, begin)
    first = ask(s, begin, session_id="new")
    assert first["choices"] == whole["choices"] and first["usage"]["prompt_tokens"] == (
        whole["usage"]["prompt_tokens"])
    second_turn(s, first, AFTER[name][0])
    first = ask(s, begin, session_id="new", logit_bias={str(EOS): 100}, ignore_eos=False)
    assert s.get("/sessions/" + first["session_id"]).json["tokens"][-1] == EOS
    second_turn(s, first, AFTER[name][1])
    if name in STOPPED:
        stop, want = STOPPED[name]
        form = {"type": "json_schema", "json_schema": {"schema": {"enum": ["a" + stop + "b"]}}}
        first = ask(s, begin, session_id="new", response_format=form, ignore_eos=False,
                    max_tokens=40)
        assert first["choices"][0]["finish_reason"] == "stop"
        assert first["choices"][0]["message"]["content"].strip() == '"a'
        second_turn(s, first, want)


def test_session_in_a_stream(server):
    first = ask(server, talk(("user", "a")), session_id="new")
    r = server.post("/v1/chat/completions", {
        **BASE, "messages": talk(("user", "b")), "session_id": first["session_id"], "stream": True})
    *more, last = chunks(r)
    assert last["session_id"] == first["session_id"]
    assert last["session_tokens"] > first["session_tokens"]
    assert all("session_id" not in c for c in more)


def test_session_needs_one_answer(server):
    r = server.post("/v1/chat/completions", {**BASE, "messages": talk(("user", "b")), "n": 2,
                                             "session_id": "new"})
    assert (r.status, r.code, r.param) == (400, "conflict", "n")


def test_session_takes_turns(start):
    s = start("--chat-template", "llama-2")
    sid = ask(s, talk(("user", "a")), session_id="new")["session_id"]
    for messages in (talk(("system", "b"), ("user", "c")), talk(("assistant", "b")),
                     talk(("user", "b"), ("user", "c"))):
        r = s.post("/v1/chat/completions", {**BASE, "messages": messages, "session_id": sid})
        assert (r.status, r.code) == (400, "template")
    ask(s, talk(("user", "b")), session_id=sid)
