"""The official openai package as users call it."""

import openai
import pytest

from harness import Server

TEXT = "Once upon a time"


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url="http://127.0.0.1:%d/v1" % server.port, api_key="none",
                       max_retries=0) as c:
        yield c


def test_models(client):
    assert [m.id for m in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "tnl"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_completion(client, server):
    got = client.completions.create(model="tiny", prompt=TEXT, max_tokens=8, seed=3, n=2,
                                    best_of=3, logprobs=2, echo=True, stop=["\x01"],
                                    logit_bias={"5": -1}, user="u",
                                    extra_body={"ignore_eos": True, "top_k": 50})
    assert [c.index for c in got.choices] == [0, 1]
    assert got.usage.completion_tokens == 24
    assert got.usage.prompt_tokens_details.cached_tokens >= 0
    lp = got.choices[0].logprobs
    assert len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) == len(lp.text_offset)


def test_completion_stream(client):
    ask = {"model": "tiny", "prompt": [TEXT, [5, 6]], "max_tokens": 8, "seed": 3,
           "extra_body": {"ignore_eos": True}}
    whole = client.completions.create(**ask)
    texts, usage = ["", ""], None
    for chunk in client.completions.create(**ask, stream=True,
                                           stream_options={"include_usage": True}):
        usage = chunk.usage
        for c in chunk.choices:
            texts[c.index] += c.text
    assert texts == [c.text for c in whole.choices] and usage.total_tokens == whole.usage.total_tokens


def test_chat(client):
    messages = [{"role": "system", "content": "Tell."}, {"role": "user", "content": TEXT}]
    ask = {"model": "tiny", "messages": messages, "max_completion_tokens": 8, "seed": 3, "n": 2,
           "logprobs": True, "top_logprobs": 2, "extra_body": {"ignore_eos": True}}
    whole = client.chat.completions.create(**ask)
    assert [c.message.role for c in whole.choices] == ["assistant"] * 2
    assert len(whole.choices[0].logprobs.content) == 8
    texts, reasons = ["", ""], [None, None]
    for chunk in client.chat.completions.create(**ask, stream=True):
        for c in chunk.choices:
            texts[c.index] += c.delta.content or ""
            reasons[c.index] = c.finish_reason
    assert texts == [c.message.content for c in whole.choices] and reasons == ["length"] * 2


def test_chat_stream_helper(client):
    """The accumulating helper is strict about the order of chunks."""
    messages = [{"role": "user", "content": TEXT}]
    with client.chat.completions.stream(model="tiny", messages=messages, seed=1,
                                        stop=list("aeio ")) as events:
        for _ in events:
            pass
        assert events.get_final_completion().choices[0].message.role == "assistant"


def test_errors(client):
    ask = {"model": "tiny", "prompt": TEXT}
    with pytest.raises(openai.BadRequestError) as e:
        client.completions.create(**ask, temperature=3)
    assert (e.value.param, e.value.code) == ("temperature", "out_of_range")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-9", prompt=TEXT)
    with pytest.raises(openai.BadRequestError, match="suffix"):
        client.completions.create(**ask, suffix="x")
    with pytest.raises(openai.InternalServerError) as e:
        client.embeddings.create(model="tiny", input="x")
    assert e.value.status_code == 501 and e.value.code == "not_supported"
    with pytest.raises(openai.APIError):
        for _ in client.completions.create(**ask, stream=True, logit_bias={
                str(i): -100 for i in range(700)}):
            pass


def test_key(model):
    s = Server(model, env={"TNL_API_KEY": "k" * 32})
    base = "http://127.0.0.1:%d/v1" % s.port
    assert openai.OpenAI(base_url=base, api_key="k" * 32).models.list().data
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=base, api_key="wrong").models.list()
    s.close()


def test_limits_of_a_key(model):
    """The client knows what it met, and when to ask again."""
    s = Server(model, env={"TNL_API_KEY": "a %s requests_per_minute=2" % ("k" * 32)})
    with openai.OpenAI(base_url="http://127.0.0.1:%d/v1" % s.port, api_key="k" * 32,
                       max_retries=0) as c:
        for _ in range(2):
            c.completions.create(model="tiny", prompt=TEXT, max_tokens=1)
        for ask in (lambda: c.completions.create(model="tiny", prompt=TEXT, stream=True),
                    lambda: c.chat.completions.create(
                        model="tiny", messages=[{"role": "user", "content": "x"}])):
            with pytest.raises(openai.RateLimitError) as e:
                ask()
            assert e.value.code == "rate_limit_exceeded"
            assert 1 <= int(e.value.response.headers["retry-after"]) <= 30
    s.close()


def test_leaving_a_stream(client, server):
    stream = client.completions.create(model="tiny", prompt=TEXT, max_tokens=100000, stream=True,
                                       extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()  # the fixture checks that nothing goes on
