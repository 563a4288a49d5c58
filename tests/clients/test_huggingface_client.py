"""huggingface_hub's InferenceClient as users of text-generation-inference call it."""

import huggingface_hub
import pytest

TEXT = "Once upon a time"


@pytest.fixture
def client(server):
    yield huggingface_hub.InferenceClient("http://127.0.0.1:%d" % server.port)
    huggingface_hub.close_session()  # its connections are shared and would stay


def test_text(client, server):
    want = server.generate(prompt=TEXT, max_tokens=6, temperature=0)["text"]
    assert client.text_generation(TEXT, max_new_tokens=6) == want
    got = client.text_generation(TEXT, max_new_tokens=6, return_full_text=True)
    assert got == TEXT + want


def test_details(client):
    got = client.text_generation(TEXT, max_new_tokens=6, details=True, seed=7, do_sample=True,
                                 temperature=0.9, top_k=40, top_p=0.9, typical_p=0.9,
                                 repetition_penalty=1.1, top_n_tokens=2, best_of=1,
                                 decoder_input_details=True, stop=["\x01"], truncate=100)
    assert got.details.finish_reason in ("length", "eos_token")
    assert got.details.seed == 7 and len(got.details.prefill) > 0
    assert len(got.details.tokens) == got.details.generated_tokens


def test_stream(client):
    whole = client.text_generation(TEXT, max_new_tokens=6)
    assert "".join(client.text_generation(TEXT, max_new_tokens=6, stream=True)) == whole
    last = list(client.text_generation(TEXT, max_new_tokens=6, stream=True, details=True))[-1]
    assert last.generated_text == whole and last.details.generated_tokens == 6


def test_chat(client):
    messages = [{"role": "user", "content": TEXT}]
    whole = client.chat_completion(messages, max_tokens=6, seed=1, logprobs=True, top_logprobs=1)
    text = "".join(c.choices[0].delta.content or ""
                   for c in client.chat_completion(messages, max_tokens=6, seed=1, stream=True))
    assert whole.choices[0].message.content == text


def test_errors(client):
    with pytest.raises(huggingface_hub.errors.ValidationError):
        client.text_generation(TEXT, max_new_tokens=0)
    with pytest.raises(huggingface_hub.errors.ValidationError, match="adapter_id"):
        client.text_generation(TEXT, adapter_id="x")
