"""Prometheus' own parsers, the strict one of OpenMetrics too, read what the server says of itself."""

from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_text

from harness import wait_until


def samples(families):
    found = {}
    for f in families:
        assert f.documentation and f.type != "unknown", f.name
        for s in f.samples:
            found[s.name, tuple(sorted(s.labels.items()))] = (s.value, f.type, f.unit)
    return found


def test_both_forms(start):
    s = start("--metrics-compat", "vllm")
    s.generate(prompt=[1, 2, 3], max_tokens=5)
    s.post("/generate", {"prompt": 1})
    wait_until(s.at_rest, "no request is left")
    text = samples(read_text(s.get("/metrics").body.decode()))
    opened = s.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    opened = samples(read_open(opened.body.decode()))
    assert text.keys() == opened.keys()
    # the first scrape is a request itself, and its connection closes when it likes
    moving = ("process_", "tnl_http_requests_total", "tnl_http_connections")
    for key, (value, kind, unit) in opened.items():
        if not key[0].startswith(moving):
            assert text[key][0] == value
        if key[0].removesuffix("_total").endswith("_seconds"):
            assert unit == "seconds", key
    assert opened["tnl_build_info", (("version", "0.1.0"),)][1] == "info"
    assert opened["tnl_time_to_first_token_seconds_count", ()][1] == "histogram"
    assert opened["tnl_http_errors_total", (("code", "invalid_type"),)][0] == 1
    s.settled()
