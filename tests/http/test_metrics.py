"""GET /metrics: the format, what moves, OpenMetrics, and the names of vLLM."""

import os
import re

import pytest


SAMPLE = re.compile(r'([a-z_]+)(\{[a-z_]+="[^"]*"(?:,[a-z_]+="[^"]*")*\})? '
                    r'(-?[0-9.e+-]+|\+Inf|NaN)')


def test_metrics_format(server):
    """What promtool checks: HELP and TYPE once and before samples, names by type, no duplicates,
    histograms cumulative and complete."""
    server.generate(prompt="x", max_tokens=3)
    r = server.get("/metrics")
    assert r.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = r.body.decode()
    assert text.endswith("\n")
    types, helps, seen, current = {}, set(), set(), None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert name not in helps and len(line.split()) > 3
            helps.add(name)
        elif line.startswith("# TYPE "):
            _, _, current, kind = line.split()
            assert current in helps and current not in types
            types[current] = kind
            assert (kind == "counter") == current.endswith("_total")
        else:
            m = SAMPLE.fullmatch(line)
            assert m, line
            assert m.group(1).startswith(current)
            assert m.group(1) + (m.group(2) or "") not in seen
            seen.add(m.group(1) + (m.group(2) or ""))
            assert m.group(1).startswith(("tnl_", "process_"))
    assert set(types) == helps
    values = server.metrics()
    for name in (n for n, t in types.items() if t == "histogram"):
        buckets = [v for k, v in values.items() if k.startswith(name + "_bucket")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == values[name + "_count"] == values[name + '_bucket{le="+Inf"}']


def test_counters_move(server):
    before = server.metrics()
    server.generate(prompt=[1, 2, 3], max_tokens=5, ignore_eos=True)
    after = server.metrics()
    for name, by in [("tnl_prompt_tokens_total", 3), ("tnl_generated_tokens_total", 5),
                     ("tnl_requests_accepted_total", 1),
                     ('tnl_requests_finished_total{finish_reason="length"}', 1),
                     ("tnl_request_duration_seconds_count", 1),
                     ("tnl_time_to_first_token_seconds_count", 1)]:
        assert after[name] - before[name] == by, name


OPEN = "application/openmetrics-text; version=1.0.0"


@pytest.mark.parametrize("accept,wins", [
    (OPEN, True), ("Application/OpenMetrics-Text", True), ("text/plain", False), ("*/*", False),
    (OPEN + "; q=0.5, text/plain; version=0.0.4; q=0.3", True),
    (OPEN + ";q=0.2,text/plain;q=0.9", False), (OPEN + ";q=0", False), (OPEN + ";q=x", False),
    ("text/plain, " + OPEN, True), (OPEN + "; ;,;", True)])
def test_negotiation(server, accept, wins):
    r = server.get("/metrics", Accept=accept)
    kind, last = (OPEN, b"\n# EOF\n") if wins else ("text/plain; version=0.0.4", b"\n")
    assert r.status == 200 and r.headers["content-type"].startswith(kind)
    assert r.body.endswith(last) and (b"# EOF" in r.body) == wins
    assert (b"# TYPE tnl_generated_tokens_total counter" in r.body) != wins
    assert (b"# TYPE tnl_generated_tokens counter" in r.body) == wins
    assert (b"# UNIT tnl_queue_seconds seconds\n" in r.body) == wins
    assert b"\ntnl_generated_tokens_total " in r.body


def test_errors_by_code(server):
    name = 'tnl_http_errors_total{code="%s"}'
    before = server.metrics()
    server.post("/generate", {"prompt": 1.5})
    server.post("/generate", {"prompt": "x", "nonsense": 1})
    server.get("/nowhere")
    # refused in the middle of its body: this answer is written past libmicrohttpd
    with server.raw() as c:
        c.request(["POST /generate HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 99999999"], b"x")
        assert c.reply().status == 413
    after = server.metrics()
    for code in "invalid_type", "unsupported_parameter", "unknown_route", "body_too_large":
        assert after[name % code] - before.get(name % code, 0) == 1, code


def test_process(server):
    m = server.metrics()
    # while it answers, the connection that asks is open
    assert server.fd_base <= m["process_open_fds"] <= server.fd_base + 2
    assert m["process_open_fds"] <= m["process_max_fds"]
    assert m["process_resident_memory_bytes"] <= m["process_virtual_memory_bytes"]
    tasks = os.listdir("/proc/%d/task" % server.process.pid)
    assert m["process_threads"] == len(tasks)
    assert m["process_cpu_seconds_total"] > 0


def test_of_one_request(server):
    before = server.metrics()
    server.generate(prompt=[9] * 30, max_tokens=7, ignore_eos=True, cache_prompt=False)
    after = server.metrics()

    def more(name):
        return after[name] - before[name]

    assert more("tnl_request_prompt_tokens_sum") == 30
    assert more("tnl_request_generated_tokens_sum") == 7
    assert more('tnl_request_prompt_tokens_bucket{le="25.0"}') == 0
    assert more('tnl_request_prompt_tokens_bucket{le="50.0"}') == 1
    for name in "prefill", "decode", "request_duration":
        assert more("tnl_%s_seconds_count" % name) == 1
    parts = more("tnl_queue_seconds_sum") + more("tnl_prefill_seconds_sum") + \
        more("tnl_decode_seconds_sum")
    assert 0 < parts <= more("tnl_request_duration_seconds_sum") + 1e-9
    assert more("tnl_prefix_cache_queried_tokens_total") == 0


# what dashboards, KEDA rules and the gateway's picker of servers ask vLLM for
VLLM = """num_requests_running num_requests_waiting kv_cache_usage_perc gpu_cache_usage_perc
prompt_tokens_total generation_tokens_total prefix_cache_queries_total prefix_cache_hits_total
spec_decode_num_draft_tokens_total spec_decode_num_accepted_tokens_total""".split()
VLLM_SECONDS = """time_to_first_token inter_token_latency time_per_output_token e2e_request_latency
request_queue_time request_prefill_time request_decode_time""".split()


def test_vllm_names(start):
    alias = 'an "odd" \\ name'
    s = start("--metrics-compat", "vllm", "--alias", alias)
    label = '{model_name="an \\"odd\\" \\\\ name",engine="0"'
    long = list(range(1, 129))
    before = s.metrics()
    s.generate(prompt=long + [4, 5], max_tokens=6, ignore_eos=True)
    s.generate(prompt=long + [6], max_tokens=3, ignore_eos=True)
    m = s.metrics()
    more = {k: v - before[k] for k, v in m.items() if k in before}
    names = ["vllm:" + n for n in VLLM]
    names += ["vllm:%s_seconds_%s" % (n, end) for n in VLLM_SECONDS for end in ("sum", "count")]
    assert all(n + label + "}" in m for n in names)
    for name, by in [("prompt_tokens_total", 130 + 129), ("generation_tokens_total", 9),
                     ("prefix_cache_queries_total", 130 + 129), ("prefix_cache_hits_total", 128),
                     ("request_prompt_tokens_sum", 130 + 129), ("request_generation_tokens_sum", 9),
                     ("e2e_request_latency_seconds_count", 2)]:
        assert more["vllm:" + name + label + "}"] == by, name
    assert more["vllm:request_success_total" + label + ',finished_reason="length"}'] == 2
    # the same figures as under our own names
    for theirs, ours in [("time_to_first_token", "time_to_first_token"),
                         ("inter_token_latency", "time_per_output_token"),
                         ("request_prefill_time", "prefill")]:
        assert m["vllm:%s_seconds_sum%s}" % (theirs, label)] == m["tnl_%s_seconds_sum" % ours]
    with s.begin({"prompt": [5], "max_tokens": 1000000, "ignore_eos": True}) as c:
        c.until(b'"index":1')
        assert s.metric("vllm:kv_cache_usage_perc" + label + "}") == 1 / 16
        assert s.metric("vllm:num_requests_running" + label + "}") == 1
    s.settled()


def test_vllm_names_only_when_asked(server):
    assert b"vllm:" not in server.get("/metrics").body
